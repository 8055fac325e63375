// Package sequence brings the numbered publications of a topic into order.
package sequence

import (
	"context"
	"sync"
	"time"

	"github.com/seed-29c60982/grouphub/layer"
)

// A Source is what a sequence needs of its owner. Functions that are called with the
// sequence locked must not block.
type Source[T any] struct {
	// Keep is what the layer keeps of the topic, and the sequence for replays.
	Keep layer.Keep

	// Read asks the layer for its history after a number.
	Read func(ctx context.Context, after uint64) (layer.History, error)
	// ReadSlots has room for as many reads as may run at the same time. If it is nil, any
	// number may.
	ReadSlots chan struct{}
	// Spawn starts a goroutine.
	Spawn func(func())

	// Decode makes of a publication what is delivered and kept for replays. It reports
	// false if the publication makes no sense. It is called with the sequence locked.
	Decode func(layer.Publication) (T, bool)
	// Deliver gets what Decode made, in order. It is called with the sequence locked.
	Deliver func(T)
	// Resync is told that publications are gone for good. It is called with the sequence
	// locked.
	Resync func()
	// EpochLost is told, in place of Resync, that an epoch has ended while something may have
	// been missed, and where the sequence stood in it. It is called with the sequence locked,
	// and may be nil.
	EpochLost func(last layer.Position)
	// Recovered is told of each publication that was missed and found in the history. It
	// may be nil.
	Recovered func()

	// Full reports whether Deliver has no room, and WaitForRoom waits for some. Both are
	// nil where there always is.
	Full        func() bool
	WaitForRoom func(context.Context) error

	// Commands says that everything since the topic was subscribed to is to be delivered:
	// also what a reader of events would get by a replay, and what is there already when
	// the count has begun anew.
	Commands bool
	// New says that nothing was published to the topic before it was subscribed to, so that all
	// of the first history is to be delivered: an interruption may have come before that was
	// read.
	New bool
}

// A Sequence delivers the publications of one topic in the order of their numbers, fills
// gaps from the layer's history, and tells what could not be filled. It keeps what the
// layer keeps, so that a replay asks nobody.
//
// What becomes of a publication that arrives depends on the phase:
//
//	idle ──Start──▶ starting ──first history──▶ filling ──all is delivered──▶ live
//	                                               ▲                           │
//	                                               └─── something is missing ──┘
//
// A live sequence delivers publications as they come. In every other phase they are held
// until a history has been read that shows where they belong. Something is missing when a
// number was left out, when there is no room for a publication, or when a history that was
// read for comparison does not agree with what was delivered. Such a reading, which
// Reconcile asks for now and then, holds nothing up.
type Sequence[T any] struct {
	Source[T]
	ctx   context.Context // ends when nobody wants the topic any more
	ready chan struct{}   // closed when the sequence has left the phase starting

	mu       sync.Mutex
	phase    phase
	last     layer.Position // of the latest publication that was delivered or skipped
	window   window[T]      // the latest ones, up to last
	held     held           // what has arrived and is not delivered yet
	deferred []deferred     // what DoAfter has put off
	reading  reading        // whether the history is read, and who waits for it

	// previous is where the epoch before this one ended, if this one has begun since the last
	// interruption and nothing seemed to be missing before its first publication.
	previous layer.Position
	// breaks counts how often the publications before the next one became unfit to go on
	// from: a replay that is under way cannot be completed.
	breaks int
}

// A phase says what becomes of a publication that arrives.
type phase uint8

const (
	phaseIdle     phase = iota // Start was not called yet
	phaseStarting              // no history has been read yet
	phaseFilling               // something is missing, or held
	phaseLive                  // what arrives is delivered
)

// A deferred function waits until the sequence has passed a position.
type deferred struct {
	after layer.Position
	run   func()
}

// New returns a sequence that ends with ctx.
func New[T any](ctx context.Context, source Source[T]) *Sequence[T] {
	return &Sequence[T]{Source: source, ctx: ctx, ready: make(chan struct{})}
}

// Start makes the sequence live, once the topic is subscribed to. Starting twice is
// starting once.
func (s *Sequence[T]) Start() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.phase == phaseIdle {
		s.phase = phaseStarting
		s.readLocked()
	}
}

// Reconcile has the position compared with the layer's: a loss at the end shows no gap.
// It is to be called after an interruption, and now and then.
func (s *Sequence[T]) Reconcile(interrupted bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	// Publications may have arrived, and a history may have been read, before the call that
	// tells of an interruption. That the epoch has begun without a loss was wrong then.
	if interrupted {
		s.losePreviousLocked()
	}
	if s.phase != phaseIdle { // else Start will read
		s.reading.interrupted = s.reading.interrupted || interrupted
		s.readLocked()
	}
}

// Position returns the position of the latest publication that was delivered or skipped.
func (s *Sequence[T]) Position() (at layer.Position) {
	s.Do(func(last layer.Position) { at = last })
	return at
}

// Compare is Reconcile without an interruption, for a caller that has learned the layer's position, or zero
// if it could not. The sequence stood at begun before the caller asked. If nothing is missing, the history
// is not read, except now and then.
func (s *Sequence[T]) Compare(begun, at layer.Position) {
	if !s.hasDelivered(begun, at) {
		s.Reconcile(false)
	}
}

// hasDelivered reports whether the layer's position is one that the sequence has come to since begun, so
// that nothing is missing. A sequence that is not live reads the history anyway. What is too old for
// replays is dropped here, which else happens when a history shows that it is gone.
func (s *Sequence[T]) hasDelivered(begun, at layer.Position) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if at.Epoch != begun.Epoch || at.Number < begun.Number || !s.passedLocked(at) ||
		at.Nonce == "" || at.Nonce != s.nonceLocked(at.Number) || !time.Now().Before(s.reading.again) {
		return false
	}
	s.window.removeOld(s.Keep.Life)
	return true
}

// Receive takes a publication from the layer. It never blocks.
func (s *Sequence[T]) Receive(p layer.Publication) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.phase != phaseLive:
		s.holdLocked(p)
	case s.aheadLocked(p.At) || s.fullLocked():
		s.phase = phaseFilling
		s.holdLocked(p)
		s.readBeforeLocked(p.At)
	default:
		s.acceptLocked(p)
	}
}

// DoAfter calls f, with the sequence locked, when everything up to a position is delivered.
// That is now, or when the history has been read, and no later than when the history turns
// out not to be readable, or not to have the position.
func (s *Sequence[T]) DoAfter(at layer.Position, f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.phase == phaseIdle || len(s.deferred) == 0 && s.passedLocked(at) {
		f()
		return
	}
	s.deferred = append(s.deferred, deferred{at, f})
	s.readLocked()
}

// Do calls f with the position of the latest publication that was delivered or skipped. What f
// queues is behind that publication, and in front of the next.
func (s *Sequence[T]) Do(f func(at layer.Position)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(s.last)
}

// passedLocked reports whether everything up to a position was delivered.
func (s *Sequence[T]) passedLocked(at layer.Position) bool {
	return at.Epoch == s.last.Epoch && at.Number <= s.last.Number
}

// doPassedLocked calls the deferred functions whose position has been passed, in order.
func (s *Sequence[T]) doPassedLocked() {
	for len(s.deferred) > 0 && s.passedLocked(s.deferred[0].after) {
		f := s.deferred[0].run
		s.deferred = s.deferred[1:]
		f()
	}
}

// doDeferredLocked calls all deferred functions.
func (s *Sequence[T]) doDeferredLocked() {
	for _, d := range s.deferred {
		d.run()
	}
	s.deferred = nil
}

// nextLocked returns the number of the publication that is expected.
func (s *Sequence[T]) nextLocked() uint64 { return s.last.Number + 1 }

// aheadLocked reports whether something is missing before a publication. When the count
// begins anew on an unbroken subscription, nothing is.
func (s *Sequence[T]) aheadLocked(at layer.Position) bool {
	return at.Number > 1 && (at.Epoch != s.last.Epoch || at.Number > s.nextLocked())
}

// acceptLocked delivers a publication that is not ahead, unless it was delivered before.
func (s *Sequence[T]) acceptLocked(p layer.Publication) {
	at := p.At
	switch {
	case at.Epoch != s.last.Epoch:
		s.beginEpochLocked(layer.Position{Epoch: at.Epoch})
		s.deliverLocked(p)
	case at.Number == s.nextLocked():
		s.deliverLocked(p)
	case contradict(s.nonceLocked(at.Number), at.Nonce): // it was another one
		s.skipLocked(before(p))
		s.deliverLocked(p)
	}
}

// beginEpochLocked adopts an epoch that has begun anew on an unbroken subscription, so that
// nothing is missing.
func (s *Sequence[T]) beginEpochLocked(start layer.Position) {
	s.previous, s.last = s.last, start
	s.window.clear()
	s.breaks++
}

// losePreviousLocked says that the end of the epoch before this one may be lost, if that was
// not known when this one began.
func (s *Sequence[T]) losePreviousLocked() {
	if s.previous.Epoch != "" {
		s.loseEpochLocked(s.previous, s.last)
	}
}

// loseEpochLocked goes on in another epoch, and says that the end of the old one may be
// lost.
func (s *Sequence[T]) loseEpochLocked(old, to layer.Position) {
	s.previous = layer.Position{}
	if s.EpochLost == nil || old.Epoch == "" {
		s.skipLocked(to)
		return
	}
	s.last = to
	s.window.clear()
	s.breaks++
	s.EpochLost(old)
}

// deliverLocked delivers the next publication.
func (s *Sequence[T]) deliverLocked(p layer.Publication) {
	if value, ok := s.rememberLocked(p); ok {
		s.Deliver(value)
	}
	s.doPassedLocked()
}

// rememberLocked makes a publication the latest one, and keeps it for replays.
func (s *Sequence[T]) rememberLocked(p layer.Publication) (value T, ok bool) {
	if value, ok = s.Decode(p); ok {
		s.window.add(value, p, s.last.Nonce, s.Keep)
	} else {
		s.window.clear()
	}
	s.last = p.At
	return value, ok
}

// skipLocked gives up on what is up to a position, whose nonce may be unknown.
func (s *Sequence[T]) skipLocked(to layer.Position) {
	s.last = to
	s.reading.from, s.reading.told = to, true
	s.window.clear()
	s.breaks++
	s.Resync()
}

// nonceLocked returns the nonce of a number that the sequence has passed, "" if it is
// forgotten.
func (s *Sequence[T]) nonceLocked(number uint64) string {
	switch first := s.firstLocked(); {
	case number == s.last.Number:
		return s.last.Nonce
	case number > s.last.Number || number+1 < first:
		return ""
	case number+1 == first:
		return s.window.before
	default:
		return s.window.entries[number-first].nonce
	}
}

// firstLocked returns the number of the first publication that is kept for replays, the
// next one's if none is.
func (s *Sequence[T]) firstLocked() uint64 {
	return s.nextLocked() - uint64(len(s.window.entries))
}

func (s *Sequence[T]) fullLocked() bool { return s.Full != nil && s.Full() }

// waitForRoom returns when there is room for a publication, or with the error of ctx.
func (s *Sequence[T]) waitForRoom() error {
	if s.WaitForRoom == nil {
		return nil
	}
	return s.WaitForRoom(s.ctx)
}
