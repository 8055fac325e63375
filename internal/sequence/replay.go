package sequence

import (
	"context"
	"fmt"
	"time"

	"github.com/seed-29c60982/grouphub/layer"
)

// catchUpTimeout is how long a reader waits for the history.
const catchUpTimeout = 5 * time.Second

// A Replay is a reader's way through what is kept, to where the sequence is live. The
// zero value, or Last alone, begins with the last so many; with From set, after the
// position whose ID is After, or else the one that Mark is a mark of.
type Replay struct {
	Last  int
	After string
	Mark  *Mark
	From  bool

	begun  bool
	resync bool   // something before next is gone, and the reader was not told
	breaks int    // of the sequence, when the last piece was read
	next   uint64 // the number of what the reader gets next
}

// A Mark is what a reader knows of the position where it was, if that is not its ID.
type Mark struct {
	Number uint64
	Is     func(at layer.Position) bool // whether a position of this number is the one
}

// mark returns what the reader knows of the position that it has come from, nil if that is
// nothing.
func (r *Replay) mark() *Mark {
	if r.Mark != nil {
		return r.Mark
	}
	if at, ok := ParseID(r.After); ok {
		return &Mark{at.Number, func(other layer.Position) bool { return other == at }}
	}
	return nil
}

// A Piece is a part of a replay.
type Piece[T any] struct {
	Values []T
	Resync bool           // something before them is gone
	Last   bool           // nothing is behind them
	At     layer.Position // where the reader is after them
}

// CatchUp waits until the sequence is live, and has the history read for a position
// that it does not know: the reader may come from where things were quicker, and would
// get again what is on its way. It ends with ctx or after five seconds.
func (s *Sequence[T]) CatchUp(ctx context.Context, r Replay) error {
	deadline := time.Now().Add(catchUpTimeout)
	err := wait(ctx, deadline, s.ready)
	mark := r.mark()
	if err != nil || mark == nil {
		return err
	}
	s.mu.Lock()
	if s.gaveOutLocked(mark) {
		s.mu.Unlock()
		return nil
	}
	read := make(chan struct{})
	s.reading.waiting = append(s.reading.waiting, read)
	s.readLocked()
	s.mu.Unlock()
	return wait(ctx, deadline, read)
}

func wait(ctx context.Context, deadline time.Time, c <-chan struct{}) error {
	select {
	case <-c: // nearly always: a connection's context would remember a child for good
		return nil
	default:
	}
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	select {
	case <-c:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: the history cannot be read: %w", layer.ErrUnavailable, ctx.Err())
	}
}

// Next returns the next part of a replay, of about limit bytes. It returns the same part
// again until the replay has passed it. What is done with the part, which may take long, is
// done without the sequence's lock.
func (s *Sequence[T]) Next(r *Replay, limit int, size func(T) int) Piece[T] {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.window.removeOld(s.Keep.Life)
	s.placeLocked(r)
	p := Piece[T]{Resync: r.resync}
	first := s.firstLocked()
	next := r.next
	for bytes := 0; next <= s.last.Number && bytes < limit; next++ {
		value := s.window.entries[next-first].value
		p.Values = append(p.Values, value)
		bytes += size(value)
	}
	p.Last = next > s.last.Number
	p.At = s.positionLocked(next - 1)
	return p
}

// Pass makes a part that was read the past of the replay.
func (p *Piece[T]) Pass(r *Replay) { r.next, r.resync = p.At.Number+1, false }

// Enter ends a replay with the last piece, to which it adds what has come since that was
// read: it calls enter with that, and what comes next is delivered after enter has returned.
// The sequence is locked meanwhile, so enter must not block. Enter reports whether the
// replay has ended. It has not if the piece has to be read again, because there is more
// than limit bytes behind it or because history went away, or if enter returns false.
func (s *Sequence[T]) Enter(r *Replay, p *Piece[T], limit int, size func(T) int, enter func(more []T) bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.breaks != s.breaks || p.At.Epoch != s.last.Epoch || p.At.Number+1 < s.firstLocked() {
		return false
	}
	var more []T
	bytes := 0
	for _, e := range s.window.entries[p.At.Number+1-s.firstLocked():] {
		more = append(more, e.value)
		bytes += size(e.value)
	}
	if bytes > limit || !enter(more) {
		return false
	}
	p.Values = append(p.Values, more...)
	p.At = s.last
	return true
}

// positionLocked returns the position of a number that the sequence has passed.
func (s *Sequence[T]) positionLocked(number uint64) layer.Position {
	return layer.Position{Epoch: s.last.Epoch, Number: number, Nonce: s.nonceLocked(number)}
}

// placeLocked sets the number that a replay goes on with.
func (s *Sequence[T]) placeLocked(r *Replay) {
	switch {
	case !r.begun:
		r.begun = true
		r.next, r.resync = s.beginningLocked(r)
	case r.next < s.firstLocked() || r.breaks != s.breaks: // history went away meanwhile
		r.next, r.resync = s.nextLocked(), true
	}
	r.breaks = s.breaks
}

// beginningLocked returns the number that a replay begins with, and whether something
// before it is gone.
func (s *Sequence[T]) beginningLocked(r *Replay) (next uint64, resync bool) {
	if !r.From {
		return s.nextLocked() - uint64(min(max(r.Last, 0), len(s.window.entries))), false
	}
	if mark := r.mark(); mark != nil && s.gaveOutLocked(mark) {
		return mark.Number + 1, false
	}
	return s.nextLocked(), true
}

// gaveOutLocked reports whether the layer has given a position out, and everything after it
// is kept. Who has only seen other positions cannot know the nonce.
func (s *Sequence[T]) gaveOutLocked(m *Mark) bool {
	at := layer.Position{Epoch: s.last.Epoch, Number: m.Number, Nonce: s.nonceLocked(m.Number)}
	return at.Nonce != "" && m.Is(at)
}
