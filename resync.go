package grouphub

import (
	"slices"
	"strings"
	"sync/atomic"
)

// A Resync has a place among the events of its group: behind those that were sent before the
// loss, and in front of those that were sent after it. So it is queued like an event, as a
// delivery of its own, and each shard tells its members when it comes to it.

// sendGap queues what tells a group's members that events before it may be lost. It never
// blocks, and may be called with the group's sequence locked.
func (m *members) sendGap(several map[*membership]*sharedResync) {
	m.send(&delivery{kind: deliveryGap, hub: m.hub, group: m.group, env: noEnvelope, several: several})
}

// resync tells the members of groups that events may be lost. A connection that is in
// several of them is told once, when all of them have come to it. In a group with snapshots
// it gets a new one instead.
func (h *Hub) resync(groups ...*group) {
	var several map[*group]map[*membership]*sharedResync
	if len(groups) > 1 {
		several = h.sharedResyncs(groups)
	}
	for _, g := range groups {
		g.sendGap(several[g])
	}
}

// tellGap says Resync if events were dropped: once for all of them, and not before there is
// room for the events that follow.
func (h *Hub) tellGap(g *group) {
	if g.roomy() && g.gap.CompareAndSwap(true, false) {
		h.resync(g)
	}
}

// A sharedResync is the one that a connection gets for several groups.
type sharedResync struct {
	conn        *Conn
	memberships []*membership
	missing     atomic.Int32 // groups that have not come to it
}

// sharedResyncs returns those for the connections that are in several of the groups.
func (h *Hub) sharedResyncs(groups []*group) map[*group]map[*membership]*sharedResync {
	all := make(map[*Conn]*sharedResync)
	for _, g := range groups {
		if g.loader != nil {
			continue
		}
		for _, p := range g.livePlaces() {
			r := all[p.conn]
			if r == nil {
				r = &sharedResync{conn: p.conn}
				all[p.conn] = r
			}
			r.memberships = append(r.memberships, p.membership)
		}
	}
	several := make(map[*group]map[*membership]*sharedResync)
	for _, r := range all {
		if len(r.memberships) == 1 {
			continue
		}
		r.missing.Store(int32(len(r.memberships)))
		for _, m := range r.memberships {
			if several[m.group] == nil {
				several[m.group] = make(map[*membership]*sharedResync)
			}
			several[m.group][m] = r
		}
	}
	return several
}

// arrived notes that one of the groups has come to it. The last one has the connection told.
func (r *sharedResync) arrived() {
	if r.missing.Add(-1) == 0 {
		r.conn.resync(slices.DeleteFunc(r.memberships, func(m *membership) bool { return m.left.Load() })...)
	}
}

// tellGapLocked tells the shard's members of a gap. Those that have joined after it are not
// concerned, nor are those that are replayed, whom their replay tells.
func (s *shard) tellGapLocked(gap *delivery) {
	for i, p := range s.places {
		switch {
		case p.since >= s.begin || gap.several[p.membership] != nil || p.behind: // which is told later
		case s.members.group.loader != nil:
			s.loseLocked(&s.places[i])
		case p.heldBack:
			p.membership.held = append(p.membership.held, gap)
		default:
			p.conn.resync(p.membership)
		}
	}
}

// resync tells the consumer, or else the client, that events of some of its groups may be
// lost, behind what waits of these groups for callbacks.
func (c *Conn) resync(memberships ...*membership) {
	if len(memberships) == 0 {
		return
	}
	c.hub.count.resyncs.Add(1)
	slices.SortFunc(memberships, func(a, b *membership) int { return strings.Compare(a.group.name, b.group.name) })
	fn := c.endpoint.consumer.Resync
	if fn == nil {
		for _, m := range memberships {
			c.sendInOrder(m, Event{Type: "resync", Group: m.group.name})
		}
		return
	}
	groups := make([]string, len(memberships))
	for i, m := range memberships {
		groups[i] = m.group.name
		m.waiting.Add(1) // later events are behind it
	}
	// A string header takes 16 bytes. The names themselves are kept by the groups.
	err := c.queueCallback(16*len(groups), func() {
		c.call("resync", func() error { fn(c, groups); return nil })
		for _, m := range memberships {
			m.waiting.Add(-1)
		}
	})
	if err != nil {
		for _, m := range memberships {
			m.waiting.Add(-1)
		}
	}
}
