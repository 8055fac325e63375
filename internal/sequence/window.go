package sequence

import (
	"time"

	"github.com/seed-29c60982/grouphub/layer"
)

// A window is the latest publications of a topic, without a hole, for replays. Guarded by
// the sequence's lock.
type window[T any] struct {
	entries []entry[T] // oldest first; the last one's number is the sequence's
	before  string     // the nonce of the number before the first entry's, "" if it is unknown
	bytes   int        // of the payloads that the values were made of
}

type entry[T any] struct {
	value T
	nonce string
	size  int       // of the payload, in bytes
	kept  time.Time // when the layer has kept it, as far as is known
}

// add appends the value of the next publication, and drops what is no longer kept. The
// nonce of the number before it may be unknown.
func (w *window[T]) add(value T, p layer.Publication, before string, keep layer.Keep) {
	if len(w.entries) == 0 {
		w.before = before
	}
	w.entries = append(w.entries, entry[T]{value, p.At.Nonce, len(p.Payload), time.Now().Add(-p.Age)})
	w.bytes += len(p.Payload)
	for len(w.entries) > keep.Count || keep.Bytes > 0 && w.bytes > keep.Bytes && len(w.entries) > 1 {
		w.removeFirst()
	}
}

// removeOld drops what is older than it may be.
func (w *window[T]) removeOld(life time.Duration) {
	for len(w.entries) > 0 && time.Since(w.entries[0].kept) >= life {
		w.removeFirst()
	}
	if len(w.entries) == 0 {
		w.entries = nil // and with it the array
	}
}

func (w *window[T]) removeFirst() {
	w.before = w.entries[0].nonce
	w.bytes -= w.entries[0].size
	w.entries[0] = entry[T]{} // or the array would keep it
	w.entries = w.entries[1:]
}

func (w *window[T]) clear() { *w = window[T]{} }
