package grouphub

import (
	"math"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/seed-29c60982/grouphub/internal/outbox"
)

// A shard is some of a group's members, and the events that they are still to get. While
// there are any, it has a goroutine, so that Go's scheduler shares the processors out
// among the groups. Members are pushed to under mu, so that one that has left is pushed
// nothing more.
type shard struct {
	members *members              // static
	next    atomic.Pointer[shard] // of the same group
	size    atomic.Int32          // of members, for those who hold no lock

	mu       sync.Mutex // taken by lock
	places   []place
	variants []variant // the distinct ones among the members
	counts   []int     // how many members each variant has

	queueMu  sync.Mutex // may be taken while mu is held
	queue    []*delivery
	last     uint64    // number of the event that was queued last
	running  bool      // there is a goroutine that runs, or a Render after which it will
	arrivals []arrival // what lock has yet to do

	// Owned by the goroutine.
	batch []*delivery // taken from the queue
	begin uint64      // number of the first event in batch
	// wanted is what conditions have let pass of batch, for each connection that has some. It
	// is nil until they have been asked.
	wanted map[*Conn][]*delivery
}

// A place is a shard's record of a member. All that a push needs lies close together.
type place struct {
	conn       *Conn
	since      uint64 // only events with a higher number are for it; notYet while it is replayed
	heldBack   bool   // they are not pushed before endHoldBack
	behind     bool   // none are pushed before endBehind: see latest.go
	membership *membership
}

// notYet is the since of a member that gets nothing yet but what no replay has: a close, and
// an event without a number.
const notYet = math.MaxUint64

// A liveness says which of a group's events a new member gets.
type liveness uint8

const (
	notLive  liveness = iota // only those that no replay has, until goLive
	live                     // all, from the next one on
	liveSoon                 // the same, but not before endHoldBack
	waiting                  // the same, but not before a snapshot, for which it takes a ticket
)

// An arrival is a change of a shard's places that has to be made before the next push. Whoever
// makes a member, or has it go live, may hold a lock that the arrival of events needs, and so
// must not wait for mu, which is held while batches are composed and written.
type arrival struct {
	place
	number uint64        // of the last event before it
	isNew  bool          // it has no place yet
	wait   *snapshotWait // for a snapshot; nil if there is none
}

// add makes a member.
func (s *shard) add(c *Conn, m *membership, live liveness) {
	s.queueMu.Lock()
	defer s.queueMu.Unlock()
	m.shard = s
	s.size.Add(1) // before the ticket, so that a load that serves it tells this shard
	a := arrival{place: place{conn: c, since: s.last, heldBack: live == liveSoon, membership: m}, number: s.last, isNew: true}
	switch live {
	case notLive:
		a.since = notYet
	case waiting:
		s.waitQueueLocked(&a)
	}
	s.arrivals = append(s.arrivals, a)
}

// goLive gives a member that was replayed all events from the next one on, but not before
// endHoldBack.
func (s *shard) goLive(c *Conn, m *membership) {
	s.queueMu.Lock()
	defer s.queueMu.Unlock()
	s.arrivals = append(s.arrivals, arrival{place: place{conn: c, since: s.last, heldBack: true, membership: m}, number: s.last})
}

// lock locks mu, and makes the changes that are due.
func (s *shard) lock() {
	s.mu.Lock()
	s.queueMu.Lock()
	arrivals := s.arrivals
	s.arrivals = nil
	s.queueMu.Unlock()
	for _, a := range arrivals {
		if a.wait != nil {
			a.membership.wait = a.wait
		}
		if !a.isNew {
			s.places[a.membership.index] = a.place
			continue
		}
		a.membership.index, a.membership.number = len(s.places), a.number
		s.places = append(s.places, a.place)
		s.countVariantLocked(a.conn, 1)
	}
}

// endHoldBack pushes what was held back, and has the member pushed everything else at once.
func (s *shard) endHoldBack(m *membership) {
	s.lock()
	defer s.mu.Unlock()
	if m.wait != nil { // a snapshot comes first
		return
	}
	p := &s.places[m.index]
	p.heldBack = false
	batch := m.held
	m.held = nil
	closes := slices.IndexFunc(batch, func(d *delivery) bool { return d.closes() && !d.excepts(p.conn) })
	if closes >= 0 {
		batch = batch[:closes+1]
	}
	p.conn.deliverHeld(p, batch)
	if closes >= 0 {
		p.conn.closeInOrder(m, batch[closes].env)
	}
}

// deliverHeld pushes what was held back for a member.
func (c *Conn) deliverHeld(p *place, batch []*delivery) {
	m := p.membership
	for len(batch) > 0 && !p.behind {
		n := slices.IndexFunc(batch, func(d *delivery) bool { return d.kind == deliveryGap })
		switch {
		case n == 0:
			c.resync(m)
			n = 1
		case n < 0:
			n = len(batch)
			fallthrough
		default:
			// Another error means that the connection is ending.
			if c.deliver(m, batch[:n], latestWins) == outbox.ErrBehind {
				p.behind = true
				m.noteLostNews(batch[:n])
				c.fallBehindIn(m)
			}
		}
		batch = batch[n:]
	}
	// What is left is behind a gap, and the Resync at its end is for all of it.
	m.noteLostNews(batch)
	c.hub.count.dropped.Add(uint64(c.variant().countWithout(c.without(batch), 0)))
}

// remove ends a membership. When it returns, nothing more is pushed for it.
func (s *shard) remove(m *membership) {
	s.lock()
	defer s.mu.Unlock()
	s.forgetWaitLocked(m)
	m.held = nil
	last := len(s.places) - 1
	s.countVariantLocked(s.places[m.index].conn, -1)
	s.places[m.index] = s.places[last]
	s.places[m.index].membership.index = m.index
	s.places[last] = place{}
	s.places = s.places[:last]
	s.size.Add(-1)
}

// countVariantLocked keeps the variants up to date when a member comes or goes.
func (s *shard) countVariantLocked(c *Conn, change int) {
	v := c.variant()
	i := slices.Index(s.variants, v)
	if i < 0 {
		i = len(s.variants)
		s.variants, s.counts = append(s.variants, v), append(s.counts, 0)
	}
	if s.counts[i] += change; s.counts[i] == 0 {
		s.variants, s.counts = slices.Delete(s.variants, i, i+1), slices.Delete(s.counts, i, i+1)
	}
}

// queueDelivery queues an event, of which the shard is a holder.
func (s *shard) queueDelivery(d *delivery) {
	s.queueMu.Lock()
	defer s.queueMu.Unlock()
	s.queue = append(s.queue, d)
	s.last++
	if !s.running {
		s.running = true
		s.members.hub.goroutines.Go(s.run)
	}
}

// run pushes what is queued, batch by batch, until nothing is. A batch that needs functions of
// the application ends it, since a Render may block: another run goes on with the batch when
// they have returned.
func (s *shard) run() {
	for s.batch != nil || s.nextBatch() {
		batch := s.batch
		s.lock()
		variants := s.variantsOfLocked(batch[0])
		conditional := s.conditionalLocked(batch)
		s.mu.Unlock()
		// Connections that join from here on get nothing of the batch, so no other variants
		// are needed for it.
		calls := missingRenders(batch, variants)
		if s.wanted == nil && len(conditional) > 0 {
			calls = append(calls, func() { s.askConditions(conditional, batch) })
		}
		if len(calls) > 0 {
			s.callAndRun(calls)
			return
		}
		s.lock()
		switch d := batch[0]; d.kind {
		case deliveryEvent:
			s.pushLocked(batch)
		case deliveryGap:
			s.tellGapLocked(d)
		default:
			s.advanceLocked(d)
		}
		s.mu.Unlock()
		s.endBatch()
	}
}

// endBatch ends the shard's use of the events of a batch.
func (s *shard) endBatch() {
	for _, d := range s.batch {
		s.members.release(d)
	}
	s.batch, s.wanted = nil, nil
}

// callAndRun calls functions of the application as callbacks, for which Shutdown waits.
// Afterwards the shard runs again, even if one of them has ended its goroutine.
func (s *shard) callAndRun(calls []func()) {
	h := s.members.hub
	h.callbacks.Go(func() {
		defer h.goroutines.Go(s.run)
		for _, call := range calls {
			call()
		}
	})
}

// conditionalLocked returns the members that have to be asked whether they get a batch.
func (s *shard) conditionalLocked(batch []*delivery) (conns []*Conn) {
	if !slices.ContainsFunc(s.variants, func(v variant) bool { return v.endpoint.conditions }) {
		return nil
	}
	for _, p := range s.places {
		if p.mayGet(batch[0]) && p.conn.hasConditions(batch) {
			conns = append(conns, p.conn)
		}
	}
	return conns
}

// askConditions asks members what they get of a batch. Should that end the goroutine, those
// that were not asked yet get nothing.
func (s *shard) askConditions(conns []*Conn, batch []*delivery) {
	s.wanted = make(map[*Conn][]*delivery, len(conns))
	for _, c := range conns {
		s.wanted[c] = c.wanted(batch)
	}
}

// nextBatch moves events from the queue to the batch, and reports whether there were any.
// If not, the shard's goroutine ends.
func (s *shard) nextBatch() bool {
	s.gather()
	s.queueMu.Lock()
	defer s.queueMu.Unlock()
	if s.running = len(s.queue) > 0; !s.running {
		s.queue = nil
		return false
	}
	n := batchLength(s.queue)
	s.begin = s.last - uint64(len(s.queue)) + 1
	s.batch = s.queue[:n:n]
	if s.queue = s.queue[n:]; len(s.queue) == 0 {
		s.queue = nil
	}
	return true
}

// batchLength returns how many of the events that wait make a batch: at least one, then
// more until they have maxBatch bytes, none after a close, and none beside what is alone.
func batchLength(queue []*delivery) (n int) {
	bytes := 0
	for n < len(queue) && (n == 0 || !queue[n].isAlone() && bytes+queue[n].size() <= maxBatch) {
		bytes += queue[n].size()
		n++
		if queue[n-1].closes() || queue[n-1].isAlone() {
			break
		}
	}
	return n
}

// gather yields the processor to those who are publishing for as long as that adds events,
// because all events of one batch cost each member a single write. How often it yields in
// vain is in proportion to these writes, and takes about a hundredth of their time.
func (s *shard) gather() {
	patience, most := int(s.size.Load())/64, int64(0)
	for yields := 0; yields < patience; yields++ {
		queued := s.members.queued.Load()
		if queued == 0 || queued > maxBatch {
			return
		}
		if queued > most {
			most, yields = queued, 0
		}
		yield()
	}
}
