// Package sequence brings the numbered publications of a topic into order.
package sequence

import (
	"context"
	"sync"
	"time"

	"github.com/seed-29c60982/grouphub/internal/wire"
)

// maxHeld is how many publications wait while a gap is filled. More are read again.
const maxHeld = 10_000

// A Source is what a sequence needs of its owner. Functions that are called with the
// sequence locked must not block.
type Source[T any] struct {
	Keep wire.Keep // what the layer keeps of the topic, and the sequence for replays

	// Read asks the layer for its history.
	Read func(ctx context.Context, after uint64) (wire.History, error)
	// Spawn starts a goroutine.
	Spawn func(func())
	// Make makes what is kept for replays of a publication, false if it makes no sense.
	// Called with the sequence locked.
	Make func(wire.Publication) (T, bool)
	// Take takes what Make made, as the next one. Called with the sequence locked.
	Take func(T)
	// Lost is told that publications are gone for good. Called with the sequence locked.
	Lost func()
	// Full reports whether Take has no room, and Wait waits for some; nil: it always has.
	Full func() bool
	Wait func(context.Context) error
	// Recovered is told of each publication that was missed and found; nil: nobody is.
	Recovered func()
}

// A Sequence takes the publications of one topic in the order of their numbers, fills
// gaps from the layer's history, and tells what could not be filled. It keeps what the
// layer keeps, so that a replay asks nobody.
//
// It is in one of two states: filling, when a goroutine reads the history and what
// arrives meanwhile is held, or live, when publications are taken as they come.
type Sequence[T any] struct {
	Source[T]
	ctx context.Context // ends when nobody wants the topic any more

	mu      sync.Mutex
	ready   chan struct{} // closed when the sequence is live for the first time
	started bool          // ready is closed
	filling bool
	filled  chan struct{} // closed when it no longer is
	again   bool          // another look at the history is needed
	adopted bool          // the epoch is new since the last check, with nothing missing as it seemed
	losses  int           // how often publications were gone for good
	epoch   string
	next    uint64    // the number that is expected
	ring    []kept[T] // the last ones, up to next-1, without a hole
	nonce   string    // that of next-1, which the ring may not have; "" if not known
	held    []wire.Publication
	last    time.Time // when the last one was taken
}

type kept[T any] struct {
	value T
	nonce string
}

// New returns a sequence that ends with ctx.
func New[T any](ctx context.Context, source Source[T]) *Sequence[T] {
	return &Sequence[T]{Source: source, ctx: ctx, ready: make(chan struct{}), next: 1}
}

// Start makes the sequence live, once the topic is subscribed to. Starting twice is
// starting once.
func (s *Sequence[T]) Start() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.started {
		s.fillLocked()
	}
}

// Check compares the position with the layer's: a loss at the end shows no gap.
// Publications may have arrived between the end of an interruption and the call that
// tells of it.
func (s *Sequence[T]) Check(interrupted bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if interrupted && s.adopted {
		s.loseLocked(s.next)
	}
	s.adopted = false
	if time.Since(s.last) > s.Keep.Life {
		s.ring = nil // as in the layer
	}
	if s.started || s.filling { // else Start will
		s.fillLocked()
	}
}

// Receive takes a publication from the layer. It never blocks.
func (s *Sequence[T]) Receive(p wire.Publication) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.filling || !s.started:
		s.holdLocked(p)
	case s.aheadLocked(p) || s.Full != nil && s.Full():
		s.holdLocked(p)
		s.fillLocked()
	default:
		s.acceptLocked(p)
	}
}

// aheadLocked reports whether something is missing before a publication. When the count
// begins anew on an unbroken subscription, nothing is.
func (s *Sequence[T]) aheadLocked(p wire.Publication) bool {
	return p.At.Number > 1 && (p.At.Epoch != s.epoch || p.At.Number > s.next)
}

// acceptLocked takes a publication that is not ahead.
func (s *Sequence[T]) acceptLocked(p wire.Publication) {
	at := p.At
	switch {
	case at.Epoch != s.epoch:
		s.adopted = s.epoch != ""
		s.epoch, s.next, s.ring = at.Epoch, 1, nil
		s.takeLocked(p)
	case at.Number == s.next:
		s.takeLocked(p)
	case s.contradictsLocked(at):
		s.loseLocked(at.Number)
		s.takeLocked(p)
	} // else it is a repeat
}

func (s *Sequence[T]) holdLocked(p wire.Publication) {
	if s.held = append(s.held, p); len(s.held) > maxHeld {
		s.held, s.again = nil, true
	}
}

// nonceLocked returns the nonce of a number that was taken, "" if it is forgotten.
func (s *Sequence[T]) nonceLocked(number uint64) string {
	if number == s.next-1 {
		return s.nonce
	}
	if first := s.firstLocked(); number >= first && number < s.next {
		return s.ring[number-first].nonce
	}
	return ""
}

// contradictsLocked reports whether the number was given out before, to another: the
// server has lost writes.
func (s *Sequence[T]) contradictsLocked(at wire.Position) bool {
	nonce := s.nonceLocked(at.Number)
	return nonce != "" && at.Nonce != "" && nonce != at.Nonce
}

func (s *Sequence[T]) firstLocked() uint64 { return s.next - uint64(len(s.ring)) }

func (s *Sequence[T]) takeLocked(p wire.Publication) {
	s.next++
	s.nonce, s.last = p.At.Nonce, time.Now()
	if value, ok := s.keepLocked(p); ok {
		s.Take(value)
	}
}

// keepLocked adds what is made of the latest publication to the ring.
func (s *Sequence[T]) keepLocked(p wire.Publication) (value T, ok bool) {
	if value, ok = s.Make(p); !ok {
		s.ring = nil
		return value, false
	}
	s.ring = append(s.ring, kept[T]{value, p.At.Nonce})
	if n := len(s.ring) - s.Keep.Count; n > 0 {
		clear(s.ring[:n])
		s.ring = s.ring[n:]
	}
	return value, true
}

// loseLocked gives up on what is before a number.
func (s *Sequence[T]) loseLocked(next uint64) {
	s.next, s.ring, s.nonce = next, nil, ""
	s.losses++
	s.Lost()
}

func (s *Sequence[T]) fillLocked() {
	s.again = true
	if !s.filling {
		s.filling, s.filled = true, make(chan struct{})
		s.Spawn(s.fill)
	}
}

// fill reads the history until the sequence is live.
func (s *Sequence[T]) fill() {
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
		s.mu.Lock()
		known := len(s.held)
		after, epoch := s.next-1, s.epoch
		s.again = false
		s.mu.Unlock()

		// The last one that is known is read again: it may be another one now.
		h, err := s.Read(s.ctx, max(after, 1)-1)
		if err == nil && h.Epoch != epoch && after > 0 {
			h, err = s.Read(s.ctx, 0)
		}
		if err == nil {
			err = s.apply(h)
		}
		if s.ctx.Err() != nil || err == nil && s.settle(known) {
			return
		}
		select {
		case <-time.After(wait):
		case <-s.ctx.Done():
		}
	}
}

// settle takes what was held, of which the first known ones came before the history
// was read. It reports whether the sequence is live.
func (s *Sequence[T]) settle(known int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	held := s.held
	s.held = nil
	for i, p := range held {
		if i < known && p.At.Epoch != s.epoch {
			continue // of an epoch that is over
		}
		if i < known && p.At.Number > s.next { // and is not in the history
			s.loseLocked(p.At.Number)
		}
		if s.aheadLocked(p) {
			s.held, s.again = held[i:], true
			break
		}
		s.acceptLocked(p)
	}
	if s.filling = s.again; !s.filling {
		close(s.filled)
	}
	return !s.filling
}

// apply brings the sequence to where the history ends. Nobody else takes meanwhile.
func (s *Sequence[T]) apply(h wire.History) error {
	s.mu.Lock()
	// Where nothing was ever sent, an epoch begins without a loss.
	fresh := !s.started
	begun := !fresh && s.epoch == "" && s.next == 1
	if !fresh && !begun && (h.Epoch != s.epoch || h.Last+1 < s.next ||
		len(h.Kept) > 0 && s.contradictsLocked(h.Kept[0].At)) {
		s.losses++
		s.Lost()
		fresh = true
	}
	s.epoch = h.Epoch
	if fresh {
		// What is there already is for replays alone.
		s.next, s.ring, s.nonce, s.last = 1, nil, "", time.Now()
		for _, p := range h.Kept {
			if p.At.Number != s.next {
				s.ring = nil
			}
			s.next, s.nonce = p.At.Number+1, p.At.Nonce
			s.keepLocked(p)
		}
		if s.next <= h.Last {
			s.next, s.ring, s.nonce = h.Last+1, nil, ""
		}
		if !s.started {
			s.started = true
			close(s.ready)
		}
	}
	s.mu.Unlock()
	for _, p := range h.Kept {
		if s.Wait != nil {
			if err := s.Wait(s.ctx); err != nil {
				return err
			}
		}
		s.mu.Lock()
		if p.At.Number > s.next {
			s.loseLocked(p.At.Number)
		}
		if p.At.Number == s.next {
			s.takeLocked(p)
			if s.Recovered != nil {
				s.Recovered()
			}
		}
		s.mu.Unlock()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if h.Last >= s.next {
		s.loseLocked(h.Last + 1)
	}
	return nil
}
