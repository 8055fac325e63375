// Package sequence brings the numbered publications of a topic into order.
package sequence

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/seed-29c60982/grouphub/layer"
)

const (
	// maxHeld and maxHeldBytes are how many publications wait while a gap is filled. More
	// are read again.
	maxHeld, maxHeldBytes = 10_000, 8 << 20
	// minPause and maxPause are how long to wait for a history that cannot be read.
	minPause, maxPause = 50 * time.Millisecond, 2 * time.Second
)

// A Source is what a sequence needs of its owner. Functions that are called with the
// sequence locked must not block.
type Source[T any] struct {
	Keep layer.Keep // what the layer keeps of the topic, and the sequence for replays

	// Read asks the layer for its history. Turns has room for as many as may be read at the
	// same time; nil: any number.
	Read  func(ctx context.Context, after uint64) (layer.History, error)
	Turns chan struct{}
	// Spawn starts a goroutine.
	Spawn func(func())
	// Make makes what is kept for replays of a publication, false if it makes no sense.
	// Called with the sequence locked.
	Make func(layer.Publication) (T, bool)
	// Take takes what Make made, as the next one. Called with the sequence locked.
	Take func(T)
	// Commands says that everything since the topic was subscribed to is to be taken, even
	// what a reader would be replayed, and what is there when the count has begun anew.
	Commands bool
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
// It is in one of two states: live, when publications are taken as they come, or
// filling, when something is missing and what arrives is held until the history has been
// read. While it is live the history is read now and then, too, for a comparison for
// which nothing has to wait.
type Sequence[T any] struct {
	Source[T]
	ctx context.Context // ends when nobody wants the topic any more

	mu      sync.Mutex
	ready   chan struct{} // closed when the sequence is live for the first time
	started bool          // ready is closed
	filling bool
	looking bool            // there is a goroutine that reads the history
	again   bool            // it has to read once more, and the history
	asked   layer.Position  // has to go on from here
	waiting []chan struct{} // closed after a read that begins from now on
	adopted bool            // the epoch is new since the last check, with nothing missing as it seemed
	losses  int             // how often what a replay may want was gone for good
	lostAt  time.Time       // when that was the last time
	epoch   string
	next    uint64    // the number that is expected
	ring    []kept[T] // the last ones, up to next-1, without a hole
	size    int       // of the payloads that the ring's values were made of
	nonce   string    // that of next-1, which the ring may not have; "" if not known
	held    []layer.Publication
	bytes   int      // of the payloads in held
	known   int      // how many of held came before the history was read
	later   []func() // for when held has been taken
}

type kept[T any] struct {
	value T
	nonce string
	size  int // of the payload
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
	if !s.started && !s.filling {
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
	if s.started || s.filling { // else Start will
		s.lookLocked()
	}
}

// Receive takes a publication from the layer. It never blocks.
func (s *Sequence[T]) Receive(p layer.Publication) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.filling || !s.started:
		s.holdLocked(p)
	case s.aheadLocked(p) || s.fullLocked():
		s.holdLocked(p)
		s.fillLocked()
	default:
		s.acceptLocked(p)
	}
}

// Do calls f, with the sequence locked, when what has come before is taken: now if nothing
// is held, and no later than when the history turns out not to be readable.
func (s *Sequence[T]) Do(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.later = append(s.later, f)
	if !s.filling {
		s.doLocked()
	}
}

func (s *Sequence[T]) doLocked() {
	for _, f := range s.later {
		f()
	}
	s.later = nil
}

// aheadLocked reports whether something is missing before a publication. When the count
// begins anew on an unbroken subscription, nothing is.
func (s *Sequence[T]) aheadLocked(p layer.Publication) bool {
	return p.At.Number > 1 && (p.At.Epoch != s.epoch || p.At.Number > s.next)
}

// acceptLocked takes a publication that is not ahead.
func (s *Sequence[T]) acceptLocked(p layer.Publication) {
	at := p.At
	switch {
	case at.Epoch != s.epoch:
		if s.adopted = s.epoch != ""; s.adopted {
			s.goneLocked()
		}
		s.epoch, s.next, s.ring = at.Epoch, 1, nil
		s.takeLocked(p)
	case at.Number == s.next:
		s.takeLocked(p)
	case s.contradictsLocked(at):
		s.loseLocked(at.Number)
		s.takeLocked(p)
	} // else it is a repeat
}

func (s *Sequence[T]) holdLocked(p layer.Publication) {
	s.held = append(s.held, p)
	s.bytes += len(p.Payload)
	if len(s.held) > maxHeld || s.bytes > maxHeldBytes {
		s.held, s.bytes, s.known = nil, 0, 0
		s.lookLocked()
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

// contradictsLocked reports whether the number was given out before, to another.
func (s *Sequence[T]) contradictsLocked(at layer.Position) bool {
	return contradict(s.nonceLocked(at.Number), at.Nonce)
}

func (s *Sequence[T]) firstLocked() uint64 { return s.next - uint64(len(s.ring)) }

func (s *Sequence[T]) takeLocked(p layer.Publication) {
	s.next++
	s.nonce = p.At.Nonce
	if value, ok := s.keepLocked(p); ok {
		s.Take(value)
	}
}

// keepLocked adds what is made of the latest publication to the ring.
func (s *Sequence[T]) keepLocked(p layer.Publication) (value T, ok bool) {
	if value, ok = s.Make(p); !ok {
		s.ring = nil
		return value, false
	}
	if len(s.ring) == 0 {
		s.size = 0
	}
	s.ring = append(s.ring, kept[T]{value, p.At.Nonce, len(p.Payload)})
	s.size += len(p.Payload)
	for len(s.ring) > s.Keep.Count || s.Keep.Bytes > 0 && s.size > s.Keep.Bytes && len(s.ring) > 1 {
		s.size -= s.ring[0].size
		s.ring[0] = kept[T]{}
		s.ring = s.ring[1:]
	}
	return value, true
}

// loseLocked gives up on what is before a number.
func (s *Sequence[T]) loseLocked(next uint64) {
	s.next, s.ring, s.nonce = next, nil, ""
	s.goneLocked()
	s.Lost()
}

// goneLocked notes that no replay begins with what was before.
func (s *Sequence[T]) goneLocked() {
	s.losses++
	s.lostAt = time.Now()
}

// fillLocked has the history read because something is missing.
func (s *Sequence[T]) fillLocked() {
	s.filling = true
	s.lookLocked()
}

// lookLocked has the history read, from now on.
func (s *Sequence[T]) lookLocked() {
	if !s.again {
		s.again, s.asked = true, s.positionLocked()
	}
	if !s.looking {
		s.looking = true
		s.Spawn(s.look)
	}
}

func (s *Sequence[T]) positionLocked() layer.Position {
	return layer.Position{Epoch: s.epoch, Number: s.next - 1, Nonce: s.nonce}
}

// look reads the history until it agrees with what was taken, and nobody has asked
// since.
func (s *Sequence[T]) look() {
	for pause := minPause; ; {
		done, err := s.lookOnce()
		if done || s.ctx.Err() != nil {
			return
		}
		if err == nil {
			pause = minPause
			continue
		}
		select {
		case <-time.After(pause):
		case <-s.ctx.Done():
		}
		pause = min(2*pause, maxPause)
	}
}

func (s *Sequence[T]) lookOnce() (done bool, err error) {
	s.mu.Lock()
	asked, begin, filling, waiting := s.asked, s.positionLocked(), s.filling, len(s.waiting)
	s.again, s.known = false, len(s.held)
	s.mu.Unlock()

	// The last one that is known is read again: it may be another one now.
	h, err := s.read(max(asked.Number, 1) - 1)
	if err == nil && filling && h.Epoch != asked.Epoch && asked.Number > 0 {
		h, err = s.read(0)
	}
	whole := goesOn(h, asked) && goesOn(h, begin)
	if err == nil && filling {
		err = s.apply(h, whole)
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil && len(h.Kept) == 0 && s.next-1 == begin.Number {
		s.ring = nil // the last one would be there if anything were kept
	}
	switch {
	case err != nil:
		s.again, s.asked = true, asked
		s.doLocked()
		return false, err
	case filling:
		if !s.settleLocked() {
			return false, nil
		}
	case s.filling || !whole || h.Epoch != s.epoch || h.Last >= s.next:
		// What is wrong shows when nothing is taken meanwhile.
		s.filling, s.again, s.asked = true, true, asked
		return false, nil
	}
	for _, c := range s.waiting[:waiting] {
		close(c)
	}
	s.waiting = s.waiting[waiting:]
	s.looking = s.again
	return !s.looking, nil
}

func (s *Sequence[T]) read(after uint64) (layer.History, error) {
	if s.Turns != nil {
		select {
		case s.Turns <- struct{}{}:
		case <-s.ctx.Done():
			return layer.History{}, s.ctx.Err()
		}
		defer func() { <-s.Turns }()
	}
	return s.Read(s.ctx, after)
}

// goesOn reports whether a history goes on from a position, as far as it shows.
func goesOn(h layer.History, at layer.Position) bool {
	if empty(at) { // where nothing was ever sent, an epoch begins without a loss
		return true
	}
	i := slices.IndexFunc(h.Kept, func(p layer.Publication) bool { return p.At.Number == at.Number })
	return h.Epoch == at.Epoch && h.Last >= at.Number && (i < 0 || !contradict(h.Kept[i].At.Nonce, at.Nonce))
}

// contradict reports whether two nonces of one number show that it was given out twice:
// the server has lost writes.
func contradict(a, b string) bool { return a != "" && b != "" && a != b }

// settleLocked takes what was held. It reports whether the sequence is live.
func (s *Sequence[T]) settleLocked() bool {
	for ; len(s.held) > 0; s.known = max(0, s.known-1) {
		p := s.held[0]
		// What came before the history was read should be in it, unless its epoch is over.
		over := s.known > 0 && p.At.Epoch != s.epoch
		if s.known > 0 && !over && p.At.Number > s.next {
			s.loseLocked(p.At.Number)
		}
		if !over && (s.aheadLocked(p) || s.fullLocked()) {
			s.lookLocked()
			return false
		}
		if !over {
			s.acceptLocked(p)
		}
		s.held[0] = layer.Publication{}
		s.held, s.bytes = s.held[1:], s.bytes-len(p.Payload)
	}
	s.held, s.filling = nil, false
	s.doLocked()
	return true
}

func (s *Sequence[T]) fullLocked() bool { return s.Full != nil && s.Full() }

// room waits for some.
func (s *Sequence[T]) room() error {
	if s.Wait == nil {
		return nil
	}
	return s.Wait(s.ctx)
}

// apply brings the sequence to where the history ends, which is whole if it goes on from
// what was taken. Nobody else takes meanwhile.
func (s *Sequence[T]) apply(h layer.History, whole bool) error {
	s.mu.Lock()
	fresh := !s.started || !whole
	if s.started && fresh {
		s.goneLocked()
		s.Lost()
	}
	anew := s.started && h.Epoch != s.epoch
	s.epoch = h.Epoch
	if fresh {
		s.next, s.ring, s.nonce = 1, nil, ""
	}
	if fresh && !(anew && s.Commands) {
		// What is there already is for replays alone.
		last := h.Last
		if s.Commands && len(s.held) > 0 && s.held[0].At.Epoch == h.Epoch {
			last = min(last, s.held[0].At.Number-1)
		}
		for _, p := range h.Kept {
			if p.At.Number > last {
				break
			}
			if p.At.Number != s.next {
				s.ring = nil
			}
			s.next, s.nonce = p.At.Number+1, p.At.Nonce
			s.keepLocked(p)
		}
		if s.next <= last {
			s.next, s.ring, s.nonce = last+1, nil, ""
		}
	}
	if !s.started {
		s.started = true
		close(s.ready)
	}
	s.mu.Unlock()
	for _, p := range h.Kept {
		if err := s.room(); err != nil {
			return err
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
	if h.Last >= s.next {
		s.loseLocked(h.Last + 1)
	}
	s.mu.Unlock()
	return s.room() // for what was held
}
