package sequence

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-29c60982/grouphub/layer"
)

// A topic is a layer's one topic, and what a sequence makes of it.
type topic struct {
	*Sequence[layer.Publication]
	end context.CancelFunc

	mu        sync.Mutex
	history   layer.History
	latency   time.Duration // of a read
	down      bool          // a read fails
	reading   func()        // called while the history is read; nil: nothing is
	full      bool
	narrow    bool // each publication that is delivered fills it
	reads     int
	delivered []string
	lastAge   time.Duration // of what was delivered last
	resyncs   int
}

var errDown = errors.New("down")

func newTopic(keep layer.Keep) *topic {
	ctx, cancel := context.WithCancel(context.Background())
	t := &topic{history: emptyHistory("A"), end: cancel}
	locked := func(f func()) {
		t.mu.Lock()
		defer t.mu.Unlock()
		f()
	}
	t.Sequence = New(ctx, Source[layer.Publication]{
		Keep: keep,
		Read: func(_ context.Context, after uint64) (h layer.History, err error) {
			var latency time.Duration
			var reading func()
			locked(func() {
				t.reads++
				h, latency, reading = t.history, t.latency, t.reading
				h.Kept = slices.DeleteFunc(slices.Clone(h.Kept), func(p layer.Publication) bool { return p.At.Number <= after })
				if t.down {
					err = errDown
				}
			})
			if reading != nil {
				reading()
			}
			time.Sleep(latency)
			return h, err
		},
		Spawn:  func(f func()) { go f() },
		Decode: func(p layer.Publication) (layer.Publication, bool) { return p, true },
		Deliver: func(p layer.Publication) {
			locked(func() { t.delivered = append(t.delivered, ID(p.At)); t.lastAge, t.full = p.Age, t.narrow })
		},
		Resync: func() { locked(func() { t.resyncs++ }) },
		Full:   func() (full bool) { locked(func() { full = t.full }); return full },
		WaitForRoom: func(context.Context) error {
			for full := true; ; time.Sleep(time.Millisecond) {
				if locked(func() { full = t.full }); !full {
					return nil
				}
			}
		},
	})
	return t
}

// emptyHistory is that of an epoch in which nothing was published.
func emptyHistory(epoch string) layer.History {
	return layer.History{Epoch: epoch, Start: epoch + "0", Nonce: epoch + "0"}
}

// numbered is a publication as the layer numbers it.
func numbered(epoch string, number uint64) layer.Publication {
	return layer.Publication{At: layer.Position{Epoch: epoch, Number: number, Nonce: fmt.Sprint(epoch, number)}}
}

// publish has the layer number the next n publications, which are delivered or not.
func (t *topic) publish(n int, deliver bool) {
	for range n {
		t.mu.Lock()
		t.history.Last++
		p := numbered(t.history.Epoch, t.history.Last)
		t.history.Nonce = p.At.Nonce
		p.Payload = make([]byte, 1000)
		t.history.Kept = append(t.history.Kept, p)
		t.mu.Unlock()
		if deliver {
			t.Receive(p)
		}
	}
}

// set changes what the layer does.
func (t *topic) set(change func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	change()
}

// expect fails unless so much was delivered, and losses were told so often.
func (t *topic) expect(test *testing.T, delivered, lost int) {
	test.Helper()
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.delivered) != delivered || t.resyncs != lost {
		test.Fatalf("%d delivered and %d losses, want %d and %d", len(t.delivered), t.resyncs, delivered, lost)
	}
}

// holds returns what is held.
func (t *topic) holds() (n, bytes int) {
	t.Sequence.mu.Lock()
	defer t.Sequence.mu.Unlock()
	return len(t.held.queue), t.held.bytes
}

// live starts the sequence after ten publications, inside a bubble.
func live(t *testing.T, keep layer.Keep, test func(s *topic)) {
	synctest.Test(t, func(t *testing.T) {
		s := newTopic(keep)
		s.publish(10, false)
		s.Start()
		synctest.Wait()
		s.expect(t, 0, 0)
		test(s)
		s.end()
		time.Sleep(maxPause)
	})
}

var hundred = layer.Keep{Count: 100, Life: time.Hour}

// one is a size by which publications are counted.
func one(layer.Publication) int { return 1 }

// replay reads one piece of about n publications.
func (t *topic) replay(r *Replay, n int) (piece Piece[layer.Publication]) {
	piece = t.Next(r, n, one)
	piece.Pass(r)
	return piece
}
