package grouphub

import (
	"context"
	"fmt"
	"slices"

	"github.com/seed-29c60982/grouphub/internal/outbox"
)

// A snapshotWait is what a membership has while its connection waits for a snapshot: because it
// joins, or because events may be lost for it. It is a member already, and what comes
// meanwhile is held, as much as may wait for a connection. If that is more, it is dropped, and
// the next snapshot covers it:
//
//	             ┌──────── too much is held ────────┐
//	             ▼                                  │
//	roomless ──▶ ticketed ──▶ live      ticketed ──▶ served ──▶ live
//	  ▲  ▲          │
//	  │  └──────────┼──────── too much is held, of served
//	  └─ live       ▼
//	              failed
//
// A connection that has little waiting goes from ticketed to live at once.
type snapshotWait struct {
	state     waitState
	ticket    uint64     // for the loader
	bytes     int        // of what is held
	overflows int        // how often more than may wait was held, since it was roomless
	joined    chan error // gets what Join returns, once; nil if no Join waits
}

// A waitState says what a member waits for.
type waitState uint8

const (
	waitTicketed waitState = iota // for a load; what comes is held
	waitRoomless                  // for its outbox to drain before it takes a ticket; what comes is dropped
	waitServed                    // for its outbox to drain: it has the snapshot; what comes is held
	waitFailed                    // for the end of its connection, or of its Join; what comes is dropped
)

// maxOverflows is how often a member may get more than may wait for a connection during a
// load. Then it is closed: loads take too long for what the group is sent.
const maxOverflows = 3

var errOverflow = fmt.Errorf("%w: too many events come while it is loaded", errNoSnapshot)

// joinWaiting makes a connection with a pending membership a member of a group with snapshots,
// and returns when it has the snapshot.
func (c *Conn) joinWaiting(ctx context.Context, m *membership) error {
	joined := make(chan error, 1)
	m.wait = &snapshotWait{joined: joined}
	c.mu.Lock()
	err := c.pendingLocked(m)
	if err == nil {
		m.joining = true
		c.enterLocked(m, waiting)
	}
	c.mu.Unlock()
	if err != nil {
		return err
	}
	select {
	case err = <-joined:
	case <-ctx.Done():
		err = fmt.Errorf("%w: %w", errNoSnapshot, ctx.Err())
	case <-c.ctx.Done(): // a GroupAdd has a context of its own
		err = errEnded
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	m.joining = false
	return err
}

// takeBack ends a membership that has entered, and whose Join has failed. It reports false if
// the membership has ended already.
func (c *Conn) takeBack(m *membership) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended || c.groups.get(m.group.name) != m {
		return false
	}
	c.groups.delete(m.group.name)
	m.endLocked(c)
	return true
}

// goWaiting has a member that was to be replayed wait for a snapshot instead.
func (s *shard) goWaiting(c *Conn, m *membership) {
	s.queueMu.Lock()
	defer s.queueMu.Unlock()
	a := arrival{place: place{conn: c, since: s.last, heldBack: true, membership: m}, number: s.last, wait: &snapshotWait{}}
	a.wait.ticket = s.members.group.loader.ticket()
	s.arrivals = append(s.arrivals, a)
}

// waitQueueLocked has a new member wait for a snapshot.
func (s *shard) waitQueueLocked(a *arrival) {
	a.heldBack, a.wait = true, a.membership.wait
	a.wait.ticket = s.members.group.loader.ticket()
}

// loseLocked says that events of the group may be lost for a member: it gets a snapshot, or a
// Resync in a group without. Everything of the group that it gets comes behind.
func (s *shard) loseLocked(p *place) {
	m := p.membership
	switch {
	case s.members.group.loader == nil:
		p.conn.resync(m)
	case m.wait != nil:
		s.loseAgainLocked(p)
	case p.heldBack && slices.ContainsFunc(m.held, func(d *delivery) bool { return d.closes() && !d.excepts(p.conn) }):
		// It is about to be closed, as soon as its replay is pushed.
	default:
		m.wait, p.heldBack = &snapshotWait{}, true
		s.takeTicketLocked(p, s.members.group.loader.ticket)
	}
}

// loseAgainLocked is loseLocked for a member that waits already.
func (s *shard) loseAgainLocked(p *place) {
	loader := s.members.group.loader
	switch p.membership.wait.state {
	case waitTicketed:
		s.takeTicketLocked(p, loader.renew)
	case waitServed:
		s.takeTicketLocked(p, loader.ticket)
	}
}

// takeTicketLocked drops what is held, and takes a ticket, now or when half of what may wait
// for the connection is free: a client that reads slowly gets a snapshot of when it is ready.
func (s *shard) takeTicketLocked(p *place, ticket func() uint64) {
	w := p.membership.wait
	p.membership.dropHeld()
	if !p.conn.outbox.HalfFull() {
		w.state, w.ticket = waitTicketed, ticket()
		p.membership.makeUpForNews() // what it is told is held
		return
	}
	if w.state == waitTicketed && w.ticket > 0 {
		s.members.group.loader.giveBack()
	}
	w.state, w.ticket, w.overflows = waitRoomless, 0, 0
	s.whenDrained(p.conn, p.membership, func(p *place) {
		s.takeTicketLocked(p, s.members.group.loader.ticket)
	})
}

// dropHeld drops what a member that waits holds, since a snapshot covers it: all but who has come
// and gone.
func (m *membership) dropHeld() {
	m.noteLostNews(m.held)
	m.held, m.wait.bytes = nil, 0
}

// whenDrained calls f, with the shard locked, when the connection's outbox has drained, unless
// the wait has come to something else by then.
func (s *shard) whenDrained(c *Conn, m *membership, f func(p *place)) {
	w := m.wait
	state := w.state
	c.hub.goroutines.Go(func() {
		if c.outbox.Drained(c.ctx) != nil { // the connection is ending
			return
		}
		s.lock()
		defer s.mu.Unlock()
		if m.wait == w && w.state == state {
			f(&s.places[m.index])
		}
	})
}

// holdLocked keeps what a member may not get yet.
func (s *shard) holdLocked(p *place, due []*delivery) {
	m, w := p.membership, p.membership.wait
	if len(due) == 0 {
		return
	}
	if w == nil {
		m.held = append(m.held, due...)
		return
	}
	if last := due[len(due)-1]; last.closes() { // without the snapshot nothing can come before it
		if !last.excepts(p.conn) {
			p.conn.closeInOrder(m, last.env)
		}
		due = due[:len(due)-1]
	}
	if w.state != waitTicketed && w.state != waitServed {
		m.noteLostNews(due)
		return
	}
	w.bytes += waitingSize(due)
	if w.bytes > p.conn.hub.limits.Pending {
		rest, superseded := withoutSuperseded(p.conn.without(slices.Concat(m.held, due)))
		p.conn.hub.count.superseded.Add(uint64(superseded))
		m.held, due, w.bytes = nil, rest, waitingSize(rest)
	}
	if w.bytes <= p.conn.hub.limits.Pending {
		m.held = append(m.held, due...)
		return
	}
	m.noteLostNews(due)
	w.overflows++
	switch {
	case w.state == waitServed || w.overflows <= maxOverflows:
		s.loseAgainLocked(p)
	case s.failLocked(p, errOverflow):
		p.conn.hub.closeWithoutSnapshot([]*Conn{p.conn})
	}
}

// waitingSize is what events that are held count for, in bytes.
func waitingSize(batch []*delivery) (bytes int) {
	for _, d := range batch {
		bytes += d.waitingSize()
	}
	return bytes
}

// advanceLocked has the members that wait go on as a delivery of the loader says.
func (s *shard) advanceLocked(d *delivery) {
	var shared map[variant]*composition
	var failed []*Conn
	for i := range s.places {
		p := &s.places[i]
		if !p.awaits(d) {
			continue
		}
		switch d.kind {
		case deliveryLoadBegins:
			p.membership.dropHeld()
			p.membership.makeUpForNews()
		case deliverySnapshot:
			if shared == nil {
				shared = make(map[variant]*composition)
			}
			s.serveLocked(p, d, shared)
		case deliveryLoadFailed:
			if s.failLocked(p, d.err) {
				failed = append(failed, p.conn)
			}
		}
	}
	s.members.hub.closeWithoutSnapshot(failed)
}

// serveLocked gives a member its snapshot, and then what is held. What is composed for its
// variant is shared.
func (s *shard) serveLocked(p *place, d *delivery, shared map[variant]*composition) {
	c, m := p.conn, p.membership
	w := m.wait
	s.members.group.loader.giveBack()
	if s.wanted == nil || !c.endpoint.conditions || len(s.wanted[c]) > 0 {
		c.deliverSnapshot(m, d, shared)
	}
	if w.joined != nil {
		if d.id != "" {
			c.tellPosition(m, d.at)
		}
		w.joined <- nil
		w.joined = nil
	}
	if c.outbox.HalfFull() {
		w.state, w.ticket = waitServed, 0
		s.whenDrained(c, m, s.releaseLocked)
		return
	}
	s.releaseLocked(p)
}

// deliverSnapshot delivers a snapshot, by what was composed for the connection's variant if it
// need not wait for callbacks.
func (c *Conn) deliverSnapshot(m *membership, d *delivery, shared map[variant]*composition) {
	batch := []*delivery{d}
	if m.inOrder(c) && len(c.lead(m, batch)) == 0 {
		_ = c.deliver(m, batch, allStay) // fails if the connection is ending
		return
	}
	v := c.variant()
	composed := shared[v]
	if composed == nil {
		one := c.hub.compose(v, batch)
		composed = &one
		shared[v] = composed
	}
	w := outbox.BorrowWriter()
	defer w.Return()
	if c.push(w, batch, composed) == nil {
		c.hub.count.delivered.Add(uint64(composed.frames))
	}
	c.hub.count.dropped.Add(uint64(composed.failed))
	c.hub.count.unhandled.Add(uint64(composed.unhandled))
}

// releaseLocked makes a member live that has its snapshot.
func (s *shard) releaseLocked(p *place) {
	m := p.membership
	held := m.held
	m.wait, m.held, p.heldBack = nil, nil, false
	p.conn.deliverHeld(p, held)
}

// failLocked says that there is no snapshot for a member. It reports whether the connection is
// to be closed for it, since no Join returns an error.
func (s *shard) failLocked(p *place, err error) (closes bool) {
	m, w := p.membership, p.membership.wait
	s.members.group.loader.giveBack()
	m.dropHeld()
	w.state, w.ticket = waitFailed, 0
	if w.joined != nil {
		w.joined <- err
		w.joined = nil
		return false
	}
	return true
}

// forgetWaitLocked ends the wait of a membership that has ended.
func (s *shard) forgetWaitLocked(m *membership) {
	w := m.wait
	if w == nil {
		return
	}
	if w.state == waitTicketed {
		s.members.group.loader.giveBack()
	}
	if w.joined != nil {
		w.joined <- errMember
	}
	m.wait = nil
}

// variantsOfLocked returns the variants of those that a delivery is for.
func (s *shard) variantsOfLocked(d *delivery) (variants []variant) {
	switch d.kind {
	case deliveryEvent:
		return slices.Clone(s.variants)
	case deliverySnapshot:
		for i := range s.places {
			if v := s.places[i].conn.variant(); s.places[i].awaits(d) && !slices.Contains(variants, v) {
				variants = append(variants, v)
			}
		}
	}
	return variants
}

// mayGet reports whether the member may be sent what a delivery has.
func (p *place) mayGet(d *delivery) bool {
	return d.kind == deliveryEvent || d.kind == deliverySnapshot && p.awaits(d)
}

// awaits reports whether a member waits for the load that a delivery is about.
func (p *place) awaits(d *delivery) bool {
	w := p.membership.wait
	return w != nil && w.state == waitTicketed && w.ticket <= d.load
}

// closeWithoutSnapshot closes connections for which there is no snapshot, spread over time,
// since all of them come back. Subscribers, of which there is nothing to close, ask again.
func (h *Hub) closeWithoutSnapshot(conns []*Conn) {
	conns = slices.DeleteFunc(conns, func(c *Conn) bool {
		if c.subscriber != nil {
			c.retrySnapshot()
		}
		return c.subscriber != nil
	})
	if len(conns) == 0 {
		return
	}
	h.goroutines.Go(func() {
		spread(h.life, conns, closePause, maxCloseSpread, func(c *Conn) {
			c.outbox.CloseWith(closeTryAgainLater, "no snapshot, try again later")
		})
	})
}
