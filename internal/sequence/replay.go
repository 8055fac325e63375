package sequence

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/seed-29c60982/grouphub/layer"
)

// A Replay is a reader's way through what is kept, to where the sequence is live. The
// zero value, or Last alone, begins with the last so many; with From set, after the
// position whose ID is After.
type Replay struct {
	Last  int
	After string
	From  bool

	begun  bool
	lost   bool
	losses int    // of the sequence, when the last piece was taken
	next   uint64 // what the reader gets next
}

// Piece is a part of a replay.
type Piece[T any] struct {
	Values []T
	Lost   bool           // something before them is gone
	Live   bool           // nothing is behind them: what comes next is taken after Piece returns
	At     layer.Position // where the reader is after them
}

// CatchUp waits until the sequence is live, and looks into the history for a position
// that it does not know: the reader may come from where things were quicker, and would
// get again what is on its way. It ends with ctx or after five seconds.
func (s *Sequence[T]) CatchUp(ctx context.Context, r Replay) error {
	deadline := time.Now().Add(5 * time.Second)
	err := wait(ctx, deadline, s.ready)
	at, ok := ParseID(r.After)
	if err != nil || !ok || at.Number == 0 {
		return err
	}
	s.mu.Lock()
	if at.Epoch == s.epoch && at.Number < s.next {
		s.mu.Unlock()
		return nil
	}
	looked := make(chan struct{})
	s.waiting = append(s.waiting, looked)
	s.lookLocked()
	s.mu.Unlock()
	return wait(ctx, deadline, looked)
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

// Piece calls use with the next part of a replay, of about limit bytes, while the
// sequence is locked: use must not block. If use returns false, the same part comes
// again.
func (s *Sequence[T]) Piece(r *Replay, limit int, size func(T) int, use func(Piece[T]) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	first := s.firstLocked()
	if !r.begun {
		r.begun = true
		s.beginLocked(r)
	} else if r.next < first || r.losses != s.losses { // history went away meanwhile
		r.next, r.lost = s.next, true
	}
	r.losses = s.losses
	next := r.next
	p := Piece[T]{Lost: r.lost}
	for bytes := 0; next < s.next && bytes < limit; next++ {
		value := s.ring[next-first].value
		p.Values = append(p.Values, value)
		bytes += size(value)
	}
	p.Live = next == s.next
	p.At = layer.Position{Epoch: s.epoch, Number: next - 1, Nonce: s.nonceLocked(next - 1)}
	if empty(p.At) {
		p.At.Nonce = strconv.FormatInt(time.Now().Unix(), 36)
	}
	if use(p) {
		r.next, r.lost = next, false
	}
}

// beginLocked finds the number that a replay begins with.
func (s *Sequence[T]) beginLocked(r *Replay) {
	if !r.From {
		r.next = s.next - uint64(min(max(r.Last, 0), len(s.ring)))
		return
	}
	first := s.firstLocked()
	at, ok := ParseID(r.After)
	switch {
	case !ok, at.Number >= s.next, at.Number+1 < first:
	case empty(at):
		// All that came since is here if it is too little time for the layer to have
		// forgotten something, and if it has not lost anything.
		seconds, err := strconv.ParseInt(at.Nonce, 36, 64)
		since := time.Unix(seconds, 0)
		if err == nil && time.Since(since) < s.Keep.Life && since.After(s.lostAt) {
			r.next = 1
			return
		}
	case at.Epoch != s.epoch, s.contradictsLocked(at):
	default:
		r.next = at.Number + 1
		return
	}
	r.next, r.lost = s.next, true
}

// empty reports whether a position is that before the first publication. It has no epoch,
// and its nonce is the time.
func empty(at layer.Position) bool { return at.Epoch == "" && at.Number == 0 }
