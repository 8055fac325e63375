package sequence

import (
	"time"

	"github.com/seed-29c60982/grouphub/layer"
)

// maxHeld and maxHeldBytes are how many publications wait while a gap is filled. If there
// are more, they are dropped and read from the history.
const maxHeld, maxHeldBytes = 10_000, 8 << 20

// held are publications that have arrived and wait for the history. Guarded by the
// sequence's lock.
type held struct {
	queue []heldPublication
	bytes int // of their payloads
	// beforeRead is how many of them had arrived when the latest reading of the history
	// began, and so should be in it.
	beforeRead int
}

// A heldPublication grows older while it waits: a close does not concern who joins meanwhile.
type heldPublication struct {
	layer.Publication
	arrived time.Time
}

// holdLocked adds a publication. If that are too many, the history has to be read once
// more.
func (s *Sequence[T]) holdLocked(p layer.Publication) {
	h := &s.held
	h.queue = append(h.queue, heldPublication{p, time.Now()})
	h.bytes += len(p.Payload)
	if len(h.queue) <= maxHeld && h.bytes <= maxHeldBytes {
		return
	}
	*h = held{}
	if s.phase != phaseIdle { // else Start will read
		s.readLocked()
	}
}

// deliverHeldLocked delivers what is held, and reports whether that was all of it. If not,
// the history has to be read once more.
func (s *Sequence[T]) deliverHeldLocked() bool {
	for len(s.held.queue) > 0 {
		if !s.deliverFirstHeldLocked() {
			s.readBeforeLocked(s.held.queue[0].At)
			return false
		}
		s.held.removeFirst()
	}
	s.held = held{}
	return true
}

// deliverFirstHeldLocked delivers the first publication that is held. It reports false if
// the publication has to stay.
func (s *Sequence[T]) deliverFirstHeldLocked() bool {
	p := s.held.queue[0].Publication
	p.Age += time.Since(s.held.queue[0].arrived)
	if s.held.beforeRead > 0 {
		if p.At.Epoch != s.last.Epoch {
			return true // the epoch was over when the history was read: there is no place for it
		}
		if p.At.Number > s.nextLocked() { // the history lacks what is before
			s.skipLocked(before(p))
		}
	}
	if s.aheadLocked(p.At) || s.fullLocked() {
		return false
	}
	s.acceptLocked(p)
	return true
}

func (h *held) removeFirst() {
	h.bytes -= len(h.queue[0].Payload)
	h.queue[0] = heldPublication{} // or the array would keep it
	h.queue = h.queue[1:]
	h.beforeRead = max(0, h.beforeRead-1)
}
