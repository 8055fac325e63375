package grouphub

import (
	"slices"

	"github.com/seed-29c60982/grouphub/internal/outbox"
)

// Of events with one Latest key a connection that is behind gets the last one. What waits of
// them is replaced where it waits: in the outbox's backlog, and on the strand if it is for a
// Handle. The later event goes to the end, so that a connection gets what was sent, in order,
// without what was replaced, and no id overtakes another one.
//
// Different keys add up, though. Where those of more than MaxPending bytes would wait, the
// connection is behind in the group of the one that has no room:
//
//	live ──fallBehindIn──▶ behind ──endBehind──▶ live
//
// It gets no event of the group until what waits for it at that moment has been written, and
// the callbacks that wait have run. Then it gets a Resync, or a snapshot in a group that has
// them. So no id that comes later than the gap can be resumed from before the client knows of
// the gap.

// A strandKey is the Latest key of what waits on a strand. A connection that leaves a group and
// joins it again has another membership.
type strandKey struct {
	membership *membership
	key        string
}

// queueLatest is queueCallback for a callback that a later one with the same key replaces,
// unless the key is empty. It reports whether this one has replaced another.
func (c *Conn) queueLatest(m *membership, key string, size int, run func()) (replaced bool, err error) {
	if key == "" || c.subscriber != nil && c.subscriber.late.Load() { // then it is dropped
		return false, c.queueCallback(size, run)
	}
	ok, replaced, full := c.strand.Latest(strandKey{m, key}, size, run)
	switch {
	case replaced:
		c.hub.count.superseded.Add(1)
	case !ok && full:
		return false, outbox.ErrBehind
	case !ok:
		return false, outbox.ErrClosed
	}
	return replaced, nil
}

// fallBehindIn has a connection whose place in a group is behind get a Resync, or a snapshot, when
// it is through with what waits for it.
func (c *Conn) fallBehindIn(m *membership) {
	if m.behind.Swap(true) {
		return
	}
	c.hub.goroutines.Go(func() {
		if c.outbox.CaughtUp(c.ctx) != nil { // the connection is ending, as its context does
			return
		}
		if c.endpoint.callsBack {
			c.strand.Continue(func() { m.shard.endBehind(m) })
		} else {
			m.shard.endBehind(m)
		}
	})
}

// setBehind has a member get no events until endBehind.
func (s *shard) setBehind(m *membership) {
	s.lock()
	defer s.mu.Unlock()
	if p := s.placeLocked(m); p != nil {
		p.behind = true
	}
}

// endBehind has a member get events again, behind a Resync or a snapshot.
func (s *shard) endBehind(m *membership) {
	s.lock()
	defer s.mu.Unlock()
	if p := s.placeLocked(m); p != nil {
		p.behind = false
		m.behind.Store(false)
		s.loseLocked(p)
		if m.wait == nil {
			m.makeUpForNews()
		}
	}
}

// placeLocked returns the place of a member, nil if it has left.
func (s *shard) placeLocked(m *membership) *place {
	if m.index < len(s.places) && s.places[m.index].membership == m {
		return &s.places[m.index]
	}
	return nil
}

// withoutSuperseded returns a batch without the events that a later one in it would replace,
// and how many these are.
func withoutSuperseded(batch []*delivery) (rest []*delivery, superseded int) {
	if !slices.ContainsFunc(batch, func(d *delivery) bool { return d.key != "" }) {
		return batch, 0
	}
	later := make(map[string]bool)
	for _, d := range slices.Backward(batch) {
		if d.key != "" && later[d.key] {
			superseded++
			continue
		}
		later[d.key] = true
		rest = append(rest, d)
	}
	slices.Reverse(rest)
	return rest, superseded
}
