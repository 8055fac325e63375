package sequence

import (
	"math/rand/v2"
	"slices"
	"time"

	"github.com/seed-29c60982/grouphub/layer"
)

// minPause and maxPause are how long to wait for a history that cannot be read.
const minPause, maxPause = 50 * time.Millisecond, 2 * time.Second

// minUnread and maxUnread are how long a history is not read whose position is all that is asked for.
// An epoch in which nothing was published may end when its history was not read for an hour.
const minUnread, maxUnread = 10 * time.Minute, 20 * time.Minute

// A reading is what a sequence has to do with the layer's history. Guarded by the
// sequence's lock.
type reading struct {
	state readState
	// from is where the sequence stood when the reading that is due was asked for. The
	// history has to go on from there.
	from layer.Position
	// told says that a loss was told since the latest reading began, up to from. A reading
	// that looked further back would tell it once more.
	told bool
	// interrupted says that something may have been missed since from. If not, an epoch that
	// is new has begun without a loss.
	interrupted bool
	// waiting are the channels of those who wait for a reading that begins after they
	// asked. Each is closed then.
	waiting []chan struct{}
	// again is when the history is to be read though the position shows that nothing is
	// missing. Sequences that have begun together do not read together.
	again time.Time
}

// A readState says whether the history is read. While it is not readNone, there is one
// goroutine, which reads until nobody has asked for a reading since the last one began:
//
//	          asked                  begins
//	none ───────────────▶ due ──────────────────▶ under way ──agrees──▶ none
//	                       ▲                           │
//	                       └── asked again, or failed, ┘
//	                           or something is missing
type readState uint8

const (
	readNone readState = iota
	readDue
	readUnderWay
)

// readLocked has the history read from now on.
func (s *Sequence[T]) readLocked() {
	switch s.reading.state {
	case readNone:
		s.reading.state, s.reading.from = readDue, s.last
		s.Spawn(s.reconcile)
	case readUnderWay:
		s.reading.state, s.reading.from = readDue, s.last
	case readDue:
	}
}

// readBeforeLocked has the history read for what is missing before a publication. If that
// is the beginning of an epoch, the subscription cannot be unbroken.
func (s *Sequence[T]) readBeforeLocked(at layer.Position) {
	if at.Number > 1 && at.Epoch != s.last.Epoch && s.last.Epoch != "" {
		s.reading.interrupted = true
	}
	s.readLocked()
}

// A round is one reading of the history.
type round struct {
	from        layer.Position // where the sequence stood when the reading was asked for
	begun       layer.Position // where it stood when the reading began
	interrupted bool           // something may have been missed since from
	filling     bool           // nothing is delivered meanwhile but what the history has
	waiting     int            // how many of those who wait had asked when the reading began
}

// reconcile reads the history until it agrees with what was delivered, and nobody has
// asked since.
func (s *Sequence[T]) reconcile() {
	for pause := minPause; ; {
		done, err := s.reconcileOnce()
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

// reconcileOnce reads the history once, and reports whether no further reading is due.
func (s *Sequence[T]) reconcileOnce() (done bool, err error) {
	r := s.beginRound()
	h, err := s.readFor(r)
	if err == nil && r.filling {
		err = s.fill(h, r)
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.repeatLocked(r)
		s.doDeferredLocked() // or they would wait for as long as the layer is down
		return false, err
	}
	s.reading.again = time.Now().Add(minUnread + rand.N(maxUnread-minUnread))
	// If anything were kept, the last one would be there.
	if len(h.Kept) == 0 && s.last.Number == r.begun.Number {
		s.window.clear()
	}
	if !s.agreesLocked(r, h) {
		return false, nil
	}
	for _, c := range s.reading.waiting[:r.waiting] {
		close(c)
	}
	s.reading.waiting = s.reading.waiting[r.waiting:]
	if s.reading.state == readDue { // somebody has asked meanwhile
		return false, nil
	}
	s.doDeferredLocked() // which had a position that the history does not know
	s.reading.state = readNone
	return true, nil
}

func (s *Sequence[T]) beginRound() round {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := round{s.reading.from, s.last, s.reading.interrupted, s.phase != phaseLive, len(s.reading.waiting)}
	s.reading.state, s.reading.interrupted, s.reading.told = readUnderWay, false, false
	if r.interrupted {
		s.losePreviousLocked()
	}
	s.held.beforeRead = len(s.held.queue)
	return r
}

// repeatLocked makes the same reading due once more, or what is left of it after a loss was told.
func (s *Sequence[T]) repeatLocked(r round) {
	s.reading.state = readDue
	if !s.reading.told {
		s.reading.from = r.from
	}
	s.reading.interrupted = s.reading.interrupted || r.interrupted
}

// agreesLocked reports whether the history agrees with what was delivered, which makes the
// sequence live. If not, a further reading is due.
func (s *Sequence[T]) agreesLocked(r round, h layer.History) bool {
	if r.filling {
		if !s.deliverHeldLocked() {
			return false
		}
		s.phase = phaseLive
		return true
	}
	if s.phase == phaseLive && r.precedes(h) && h.Epoch == s.last.Epoch && h.Last <= s.last.Number {
		s.learnNonceLocked(h)
		return true
	}
	// What is wrong shows when nothing is delivered meanwhile.
	s.phase = phaseFilling
	s.repeatLocked(r)
	return false
}

// readFor returns the history from the last publication on that the sequence knows: it may
// be another one by now.
func (s *Sequence[T]) readFor(r round) (layer.History, error) {
	h, err := s.read(max(r.from.Number, 1) - 1)
	if err == nil && r.filling && h.Epoch != r.from.Epoch && r.from.Number > 0 {
		return s.read(0)
	}
	return h, err
}

// read asks the layer when there is a slot for it.
func (s *Sequence[T]) read(after uint64) (layer.History, error) {
	if s.ReadSlots != nil {
		select {
		case s.ReadSlots <- struct{}{}:
		case <-s.ctx.Done():
			return layer.History{}, s.ctx.Err()
		}
		defer func() { <-s.ReadSlots }()
	}
	return s.Read(s.ctx, after)
}

// precedes reports whether the history goes on from where the sequence stood. If an epoch
// has begun between the two positions, it began with its first publication.
func (r round) precedes(h layer.History) bool {
	return goesOn(h, r.begun) && (goesOn(h, r.from) || r.from.Epoch != r.begun.Epoch)
}

// goesOn reports whether a history goes on from a position, as far as it shows.
func goesOn(h layer.History, at layer.Position) bool {
	return h.Epoch == at.Epoch && h.Last >= at.Number && !contradict(nonceOf(h, at.Number), at.Nonce)
}

// nonceOf returns the nonce of a number, "" if the history does not show it.
func nonceOf(h layer.History, number uint64) string {
	switch i := slices.IndexFunc(h.Kept, func(p layer.Publication) bool { return p.At.Number == number }); {
	case i >= 0:
		return h.Kept[i].At.Nonce
	case number == h.Last:
		return h.Nonce
	case number == 0:
		return h.Start
	default:
		return ""
	}
}

// learnNonceLocked gives the sequence's last position its nonce, which is unknown after what
// was skipped.
func (s *Sequence[T]) learnNonceLocked(h layer.History) {
	if s.last.Nonce == "" {
		s.last.Nonce = nonceOf(h, s.last.Number)
	}
}
