package grouphub

import (
	"context"
	"iter"
	"runtime"
	"sync"
	"sync/atomic"
)

const (
	// maxBatch is how many bytes of events are pushed at once, and so how long a
	// connection's share of a burst is.
	maxBatch = 64 << 10
	// maxQueued is how many bytes of events may wait for a group's members.
	maxQueued = 1 << 20
	// queuedOverhead is what an event counts for besides its size while it waits.
	queuedOverhead = 200
	// defaultFullShard is how many members a shard gets before its group is given another
	// one, up to one for each processor. Two processors that write at the same time need
	// more time for each write than one does, so few members are better off with one
	// goroutine, which makes this many writes in some milliseconds.
	defaultFullShard = 1024
)

// members are the connections of one group on this hub, and the events that they are
// still to get. They are dealt out to shards. Each shard pushes the events to its members
// on a goroutine of its own, which lives while there are events, and all shards see the
// events in the same order.
type members struct {
	hub     *Hub          // static
	group   *group        // static
	sending sync.Mutex    // taken before a shard's queueMu
	first   shard         // the head of a list; a large group has more shards behind it
	queued  atomic.Int64  // bytes of the events that a shard still has to push
	room    chan struct{} // holds a token after queued has fallen
}

func newMembers(h *Hub, g *group) *members {
	m := &members{hub: h, group: g, room: make(chan struct{}, 1)}
	m.first.members = m
	return m
}

// full reports whether no more events may be queued.
func (m *members) full() bool { return m.queued.Load() > maxQueued }

// roomy reports whether half of what may wait is free.
func (m *members) roomy() bool { return m.queued.Load() <= maxQueued/2 }

// waitForRoom returns when more events may be queued, or with ctx's error.
func (m *members) waitForRoom(ctx context.Context) error {
	for m.full() {
		select {
		case <-m.room:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	m.signalRoom() // for whoever else waits
	return nil
}

func (m *members) signalRoom() {
	select {
	case m.room <- struct{}{}:
	default:
	}
}

// send queues an event for those who are members now. It never blocks.
func (m *members) send(d *delivery) {
	m.queued.Add(d.queuedSize())
	d.holders.Store(1) // this call
	m.sending.Lock()
	for s := range m.shards() {
		if s.size.Load() > 0 {
			d.holders.Add(1)
			s.queueDelivery(d)
		}
	}
	m.sending.Unlock()
	m.release(d)
}

// release ends one holder's use of an event, which counts as waiting until every shard that
// holds it has pushed it. The last holder makes room for other events.
func (m *members) release(d *delivery) {
	if d.holders.Add(-1) > 0 {
		return
	}
	m.queued.Add(-d.queuedSize())
	m.signalRoom()
	for _, r := range d.several {
		r.arrived()
	}
	m.hub.tellGap(m.group)
}

// size returns the number of members.
func (m *members) size() (n int) {
	for s := range m.shards() {
		n += int(s.size.Load())
	}
	return n
}

// conns returns the connections that are members at this moment.
func (m *members) conns() (conns []*Conn) {
	for s := range m.shards() {
		s.lock()
		for _, p := range s.places {
			conns = append(conns, p.conn)
		}
		s.mu.Unlock()
	}
	return conns
}

// livePlaces returns the places of the members that get what is sent now.
func (m *members) livePlaces() (live []place) {
	for s := range m.shards() {
		s.lock()
		for _, p := range s.places {
			if p.since != notYet {
				live = append(live, p)
			}
		}
		s.mu.Unlock()
	}
	return live
}

// add makes a connection a member from the next event on. The membership stays where it
// is until its end.
//
// If it is not live, the member gets none of the group's events until its shard's goLive.
func (m *members) add(c *Conn, of *membership, live liveness) { m.shardForNew().add(c, of, live) }

// shards yields the group's shards, of which there is at least one.
func (m *members) shards() iter.Seq[*shard] {
	return func(yield func(*shard) bool) {
		for s := &m.first; s != nil && yield(s); s = s.next.Load() {
		}
	}
}

// shardForNew returns the shard for a new member: the first that is not full, or else the
// smallest.
func (m *members) shardForNew() *shard {
	smallest, last, n := &m.first, &m.first, 0
	for s := range m.shards() {
		if s.size.Load() < m.hub.fullShard {
			return s
		}
		if s.size.Load() < smallest.size.Load() {
			smallest = s
		}
		last = s
		n++
	}
	if n >= runtime.GOMAXPROCS(0) { // not ==, since GOMAXPROCS may have been lowered
		return smallest
	}
	last.next.CompareAndSwap(nil, &shard{members: m})
	return last.next.Load()
}
