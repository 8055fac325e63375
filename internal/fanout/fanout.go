// Package fanout hands the events of a group to its members, in one order, on goroutines
// that live while there are events.
package fanout

import (
	"context"
	"iter"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
)

const (
	// maxRun is how many bytes of events are handed over at once, and so how long a
	// connection's share of a burst is.
	maxRun = 64 << 10
	// maxQueued is how many bytes of events may wait for a group's members.
	maxQueued = 1 << 20
	// overhead is what an event counts for besides its size.
	overhead = 200
	// fullShard is how many members a shard gets before its group is given another one,
	// up to one for each processor. Two processors that write at the same time need
	// more time for each write than one does, so few members are better off with one
	// goroutine: this many writes take it some milliseconds.
	fullShard = 1024
)

// An Event is what a group hands to its members.
type Event interface {
	Size() int  // in bytes
	Last() bool // ends a batch
}

// An Owner says what becomes of events. V is what members have in common whose events
// are the same, E an event.
type Owner[M any, V comparable, E Event] struct {
	Variant func(M) V
	// Push gives the members their part of a batch: all from an index on. It is called
	// with the members locked and must not block. The variants are those of the members.
	Push func(batch []E, variants []V, members iter.Seq2[M, int])
	// Prepare returns what has to run, and may block, before a batch can be pushed.
	Prepare func(batch []E, variants []V) []func()
	// Go and GoPrepare start goroutines, for Push and for what Prepare returned.
	Go, GoPrepare func(func())
	// Emptied is called when half of what may wait is free.
	Emptied func()
}

// A Group has members and hands events to them.
type Group[M any, V comparable, E Event] struct {
	owner  Owner[M, V, E]
	first  shard[M, V, E] // and, as its next ones, those of a large group
	queued atomic.Int64   // bytes of the events that a shard still has to push
	room   chan struct{}  // a token when queued has fallen
}

// NewGroup returns a group without members.
func NewGroup[M any, V comparable, E Event](owner Owner[M, V, E]) *Group[M, V, E] {
	g := &Group[M, V, E]{owner: owner, room: make(chan struct{}, 1)}
	g.first.group = g
	return g
}

// Full reports whether no more events may be queued.
func (g *Group[M, V, E]) Full() bool { return g.queued.Load() > maxQueued }

// Roomy reports whether half of what may wait is free.
func (g *Group[M, V, E]) Roomy() bool { return g.queued.Load() <= maxQueued/2 }

// Wait returns when the group is not full, or with ctx's error.
func (g *Group[M, V, E]) Wait(ctx context.Context) error {
	for g.Full() {
		select {
		case <-g.room:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	g.signalRoom() // for whoever else waits
	return nil
}

func (g *Group[M, V, E]) signalRoom() {
	select {
	case g.room <- struct{}{}:
	default:
	}
}

// Send queues an event for those who are members now. It never blocks. For one order
// among all members it is not called concurrently.
func (g *Group[M, V, E]) Send(e E) {
	q := &queued[E]{event: e, size: int64(e.Size()) + overhead}
	g.queued.Add(q.size)
	q.holders.Store(1)
	for s := range g.shards() {
		if s.size.Load() > 0 {
			q.holders.Add(1)
			s.put(q)
		}
	}
	g.release(q)
}

// A queued event is held by the shards that still have to push it.
type queued[E Event] struct {
	event   E
	size    int64
	holders atomic.Int32
}

func (g *Group[M, V, E]) release(q *queued[E]) {
	if q.holders.Add(-1) > 0 {
		return
	}
	g.queued.Add(-q.size)
	g.signalRoom()
	if g.Roomy() {
		g.owner.Emptied()
	}
}

// Count returns the number of members.
func (g *Group[M, V, E]) Count() (n int) {
	for s := range g.shards() {
		n += int(s.size.Load())
	}
	return n
}

// Members returns the members of this moment.
func (g *Group[M, V, E]) Members() (members []M) {
	for s := range g.shards() {
		s.mu.Lock()
		for _, p := range s.places {
			members = append(members, p.member)
		}
		s.mu.Unlock()
	}
	return members
}

// Add makes a member from the next event on. Its membership is the caller's, who keeps it
// where it is until End.
func (g *Group[M, V, E]) Add(member M, m *Membership[M, V, E]) { g.shardForNew().add(member, m) }

// shards are the group's shards, of which there is at least one.
func (g *Group[M, V, E]) shards() iter.Seq[*shard[M, V, E]] {
	return func(yield func(*shard[M, V, E]) bool) {
		for s := &g.first; s != nil && yield(s); s = s.next.Load() {
		}
	}
}

// shardForNew returns the shard for a new member: the first that is not full, or else the
// smallest.
func (g *Group[M, V, E]) shardForNew() *shard[M, V, E] {
	smallest, last, n := &g.first, &g.first, 0
	for s := range g.shards() {
		if s.size.Load() < fullShard {
			return s
		}
		if s.size.Load() < smallest.size.Load() {
			smallest = s
		}
		last = s
		n++
	}
	if n >= runtime.GOMAXPROCS(0) { // which may have fallen
		return smallest
	}
	last.next.CompareAndSwap(nil, &shard[M, V, E]{group: g})
	return last.next.Load()
}

// A shard is some of a group's members, and the events that they are still to get. While
// there are any, it has a goroutine, so that Go's scheduler shares the processors out
// among the groups. Members are pushed to under mu, so that one that has left is pushed
// nothing more.
type shard[M any, V comparable, E Event] struct {
	group *Group[M, V, E]                // static
	next  atomic.Pointer[shard[M, V, E]] // of the group
	size  atomic.Int32                   // of members, for those who only want to know how many there are

	mu       sync.Mutex
	places   []place[M, V, E]
	variants []V   // distinct ones among the members
	counts   []int // how many members each variant has

	queueMu sync.Mutex // may be taken while mu is held
	queue   []*queued[E]
	last    uint64 // number of the last event that was queued
	active  bool   // has a goroutine, or waits for what Prepare returned

	batch []*queued[E] // taken from the queue; owned by the goroutine
	first uint64       // number of the first event in batch
}

// A place is where a shard has a member: all that it needs for a push is in one row.
type place[M any, V comparable, E Event] struct {
	member     M
	since      uint64 // only events with a higher number are for it
	membership *Membership[M, V, E]
}

// A Membership is how a member ends being one. Its zero value is that of none.
type Membership[M any, V comparable, E Event] struct {
	shard *shard[M, V, E] // set once
	index int             // in the shard's places; guarded by its mu
}

// Begun reports whether Add was called, End included.
func (m *Membership[M, V, E]) Begun() bool { return m.shard != nil }

func (s *shard[M, V, E]) add(member M, m *Membership[M, V, E]) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m.shard, m.index = s, len(s.places)
	s.countLocked(member, 1)
	s.queueMu.Lock()
	s.places = append(s.places, place[M, V, E]{member, s.last, m})
	s.size.Store(int32(len(s.places)))
	s.queueMu.Unlock()
}

// End ends the membership. Nothing more is pushed for it when it returns.
func (m *Membership[M, V, E]) End() {
	s := m.shard
	s.mu.Lock()
	defer s.mu.Unlock()
	last := len(s.places) - 1
	s.countLocked(s.places[m.index].member, -1)
	s.places[m.index] = s.places[last]
	s.places[m.index].membership.index = m.index
	s.places[last] = place[M, V, E]{}
	s.places = s.places[:last]
	s.size.Store(int32(last))
}

// countLocked keeps the variants.
func (s *shard[M, V, E]) countLocked(member M, change int) {
	v := s.group.owner.Variant(member)
	i := slices.Index(s.variants, v)
	if i < 0 {
		i = len(s.variants)
		s.variants, s.counts = append(s.variants, v), append(s.counts, 0)
	}
	if s.counts[i] += change; s.counts[i] == 0 {
		s.variants, s.counts = slices.Delete(s.variants, i, i+1), slices.Delete(s.counts, i, i+1)
	}
}

// put queues an event, which has been counted for this shard.
func (s *shard[M, V, E]) put(q *queued[E]) {
	s.queueMu.Lock()
	defer s.queueMu.Unlock()
	s.queue = append(s.queue, q)
	s.last++
	if !s.active {
		s.active = true
		s.group.owner.Go(s.run)
	}
}

// run pushes what is queued, until nothing is. It ends at a batch that has to be prepared
// first, and goes on with it when it is.
func (s *shard[M, V, E]) run() {
	owner := &s.group.owner
	for s.batch != nil || s.take() {
		batch := make([]E, len(s.batch))
		for i, q := range s.batch {
			batch[i] = q.event
		}
		s.mu.Lock()
		variants := slices.Clone(s.variants)
		s.mu.Unlock()
		// Who joins from here on is no longer concerned by the batch.
		if todo := owner.Prepare(batch, variants); len(todo) > 0 {
			owner.GoPrepare(func() {
				defer owner.Go(s.run) // also if what runs here ends its goroutine
				for _, f := range todo {
					f()
				}
			})
			return
		}
		s.mu.Lock()
		owner.Push(batch, s.variants, func(yield func(M, int) bool) {
			for _, p := range s.places {
				from := 0
				if p.since >= s.first {
					from = min(int(p.since-s.first)+1, len(batch))
				}
				if !yield(p.member, from) {
					return
				}
			}
		})
		s.mu.Unlock()
		for _, q := range s.batch {
			s.group.release(q)
		}
		s.batch = nil
	}
}

// take moves a run of events from the queue to the batch, and reports whether there were
// any.
func (s *shard[M, V, E]) take() bool {
	s.gather()
	s.queueMu.Lock()
	defer s.queueMu.Unlock()
	if s.active = len(s.queue) > 0; !s.active {
		s.queue = nil
		return false
	}
	n := 0
	for size := 0; n < len(s.queue) && (n == 0 || size+s.queue[n].event.Size() <= maxRun); n++ {
		size += s.queue[n].event.Size()
		if s.queue[n].event.Last() {
			n++
			break
		}
	}
	s.first = s.last - uint64(len(s.queue)) + 1
	s.batch = s.queue[:n:n]
	if s.queue = s.queue[n:]; len(s.queue) == 0 {
		s.queue = nil
	}
	return true
}

// gather lets whoever is publishing go on for as long as that adds events: in one run
// they cost each member one write. Its patience, in proportion to these writes, takes
// about a hundredth of their time.
func (s *shard[M, V, E]) gather() {
	patience, most := int(s.size.Load())/64, int64(0)
	for yields := 0; yields < patience; yields++ {
		queued := s.group.queued.Load()
		if queued == 0 || queued > maxRun {
			return
		}
		if queued > most {
			most, yields = queued, 0
		}
		yield()
	}
}
