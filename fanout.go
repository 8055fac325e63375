package grouphub

import (
	"iter"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/seed-29c60982/grouphub/internal/envelope"
	"github.com/seed-29c60982/grouphub/internal/outbox"
)

const (
	// maxRun is how many bytes of events a worker joins into one buffer, and so how
	// long it works for one group before it looks at the next.
	maxRun = 64 << 10
	// deliveryOverhead is what an event counts for in a queue besides its JSON.
	deliveryOverhead = 200
)

// A shard is some of a group's members, and the events that they are still to get. While
// there are any, it has a goroutine, so that Go's scheduler shares the processors out
// among the groups. Members are pushed to under mu, which never blocks, so that a
// connection that has left is pushed nothing more.
type shard struct {
	// Static after construction.
	hub   *Hub
	group *group

	next atomic.Pointer[shard] // of the group
	size atomic.Int32          // of members, for those who only want to know how many there are

	mu       sync.Mutex
	members  []*membership
	variants []variant // distinct ones among the members
	counts   []int     // how many members each variant has

	queueMu sync.Mutex // may be taken while mu is held
	queue   []*delivery
	last    uint64 // number of the last event that was queued
	active  bool   // has a goroutine, or waits for a Render

	batch []*delivery // taken from the queue; owned by the goroutine
	first uint64      // number of the first event in batch
}

// fullShard is how many members a shard gets before its group is given another one, up to
// one for each processor. Two processors that write at the same time need more time for
// each write than one does, so few members are better off with one goroutine: this many
// writes take it some milliseconds.
const fullShard = 1024

// shards are the group's shards, of which there is at least one.
func (g *group) shards() iter.Seq[*shard] {
	return func(yield func(*shard) bool) {
		for s := &g.first; s != nil && yield(s); s = s.next.Load() {
		}
	}
}

// shardForNew returns the shard for a new member: the first that is not full, or else the
// smallest.
func (g *group) shardForNew() *shard {
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
	if n == runtime.GOMAXPROCS(0) {
		return smallest
	}
	last.next.CompareAndSwap(nil, &shard{hub: g.first.hub, group: g})
	return last.next.Load()
}

// A membership is a connection's place in a shard. Guarded by the shard's mu.
type membership struct {
	conn  *Conn
	shard *shard
	index int    // in the shard's members
	since uint64 // only events with a higher number are for it

	joined time.Time
}

// add makes a connection a member from the next event on.
func (s *shard) add(c *Conn) *membership {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := &membership{conn: c, shard: s, index: len(s.members), joined: time.Now()}
	s.members = append(s.members, m)
	s.countLocked(c, 1)
	s.queueMu.Lock()
	m.since = s.last
	s.size.Store(int32(len(s.members)))
	s.queueMu.Unlock()
	return m
}

// remove ends a membership. Nothing more is pushed for it when it returns.
func (s *shard) remove(m *membership) {
	s.mu.Lock()
	defer s.mu.Unlock()
	last := len(s.members) - 1
	s.members[m.index] = s.members[last]
	s.members[m.index].index = m.index
	s.members[last] = nil
	s.members = s.members[:last]
	s.countLocked(m.conn, -1)
	s.size.Store(int32(last))
}

// countLocked keeps the variants.
func (s *shard) countLocked(c *Conn, change int) {
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

func (s *shard) conns() []*Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	conns := make([]*Conn, len(s.members))
	for i, m := range s.members {
		conns[i] = m.conn
	}
	return conns
}

// put queues an event. The delivery has been counted for this shard.
func (s *shard) put(d *delivery) {
	s.queueMu.Lock()
	defer s.queueMu.Unlock()
	s.queue = append(s.queue, d)
	s.last++
	if !s.active {
		s.active = true
		s.hub.goroutines.Go(s.run)
	}
}

// run pushes what is queued, until nothing is. It ends at a batch that has to be
// rendered first, and goes on with it when it is.
func (s *shard) run() {
	for s.batch != nil || s.take() {
		s.mu.Lock()
		variants := slices.Clone(s.variants)
		s.mu.Unlock()
		// Who joins from here on is no longer concerned by the batch.
		if todo := unrendered(s.batch, variants); len(todo) > 0 {
			s.hub.callbacks.Go(func() {
				defer s.hub.goroutines.Go(s.run) // also if a Render ends its goroutine
				for _, render := range todo {
					render()
				}
			})
			return
		}
		s.mu.Lock()
		s.pushLocked()
		s.mu.Unlock()
		for _, d := range s.batch {
			d.release()
		}
		s.batch = nil
	}
}

// take moves a run of events from the queue to the batch, and reports whether there were
// any. A close ends a run.
func (s *shard) take() bool {
	s.queueMu.Lock()
	defer s.queueMu.Unlock()
	if s.active = len(s.queue) > 0; !s.active {
		s.queue = nil
		return false
	}
	s.queueMu.Unlock()
	s.gather()
	s.queueMu.Lock()
	n := 0
	for size := 0; n < len(s.queue) && (n == 0 || size+len(s.queue[n].env.Body) <= maxRun); n++ {
		size += len(s.queue[n].env.Body)
		if s.queue[n].env.Kind == envelope.Close {
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

// gather lets whoever is publishing go on for as long as the queue grows: what comes now
// costs no write of its own. Its patience is in proportion to the writes that this may
// save, a hundredth of what they cost.
func (s *shard) gather() {
	patience := int(s.size.Load()) / 4
	most := int64(0)
	for yields := 0; yields < patience && most < maxRun; yields++ {
		if queued := s.group.queued.Load(); queued > most {
			most, yields = queued, 0
		}
		runtime.Gosched()
	}
}

// A variant is what members have in common whose bytes are the same.
type variant struct {
	endpoint *endpoint
	deflated bool
}

// A composition is a batch as it looks to a variant.
type composition struct {
	bytes  []byte // the frames, joined
	frames int
	lost   int  // events whose Render failed
	ignore int  // events without a handler
	handle bool // there are events for Handle
}

// unrendered returns what has to run before a batch can be pushed.
func unrendered(batch []*delivery, variants []variant) (todo []func()) {
	for _, d := range batch {
		if d.env.Kind != envelope.Event {
			continue
		}
		for _, v := range variants {
			h := v.endpoint.consumer.Events.handler(d.env.Name)
			if h.kind == handlerNone {
				d.hub.ignore(d.env.Name)
			}
			if h.kind == handlerRender && !d.rendered(v.endpoint) {
				todo = append(todo, func() { d.render(v.endpoint, h) })
			}
		}
	}
	return todo
}

// pushLocked gives every member its part of the batch: nearly all of them the same
// buffer, those that joined within it or are excepted somewhere one of their own.
func (s *shard) pushLocked() {
	compositions := make([]composition, len(s.variants))
	for i, v := range s.variants {
		compositions[i] = s.hub.compose(v, s.batch)
	}
	excepting := false
	for _, d := range s.batch {
		excepting = excepting || d.except != nil
	}
	closing := s.batch[len(s.batch)-1]
	if closing.env.Kind != envelope.Close {
		closing = nil
	}
	var delivered, dropped, ignored int
	for _, m := range s.members {
		c := m.conn
		batch := s.batch
		if m.since >= s.first || excepting {
			batch = s.batchFor(m)
		}
		whole := &compositions[slices.Index(s.variants, c.variant())]
		if len(batch) < len(s.batch) {
			own := s.hub.compose(c.variant(), batch)
			whole = &own
		}
		// A connection that refuses frames is closing: it is none that should have
		// had them.
		if whole.frames > 0 && c.outbox.Push(whole.bytes) == nil {
			delivered += whole.frames
		}
		dropped += whole.lost
		ignored += whole.ignore
		if whole.handle {
			c.handleAll(batch)
		}
		if closing != nil && len(batch) > 0 && batch[len(batch)-1] == closing {
			c.outbox.CloseWith(closing.env.Number, string(closing.env.Body))
		}
	}
	s.hub.count.delivered.Add(uint64(delivered))
	s.hub.count.dropped.Add(uint64(dropped))
	s.hub.count.unhandled.Add(uint64(ignored))
}

// batchFor returns the part of the batch that is for one member.
func (s *shard) batchFor(m *membership) []*delivery {
	var own []*delivery
	for i, d := range s.batch {
		if _, excepted := d.except[m.conn]; !excepted && s.first+uint64(i) > m.since {
			own = append(own, d)
		}
	}
	return own
}

// compose joins the frames of a batch for a variant.
func (h *Hub) compose(v variant, batch []*delivery) composition {
	var all composition
	frames := make([][]byte, 0, len(batch))
	for _, d := range batch {
		if d.env.Kind != envelope.Event {
			continue
		}
		switch v.endpoint.consumer.Events.handler(d.env.Name).kind {
		case handlerNone:
			all.ignore++
		case handlerHandle:
			all.handle = true
		default:
			if frame := d.frame(v.endpoint, v.deflated); frame != nil {
				frames = append(frames, frame)
			} else {
				all.lost++
			}
		}
	}
	if all.frames = len(frames); all.frames == 1 {
		all.bytes = slices.Clip(frames[0]) // shared as it is
	} else {
		all.bytes = slices.Concat(frames...)
	}
	return all
}

// A delivery is one event on its way to the members on one hub. What is built for it
// is built once and shared.
type delivery struct {
	// Static after construction.
	hub    *Hub
	group  *group // nil: sent to one connection
	env    *envelope.Envelope
	id     string // position in the group's history, "" without
	size   int64
	except map[*Conn]struct{}

	holders atomic.Int32 // shards that have it queued

	mu      sync.Mutex
	frames  frames // Forward's
	renders map[*endpoint]*rendering
}

// frames are of one text, as it is and compressed; nil until they are needed.
type frames struct{ plain, deflated []byte }

// A rendering is what a consumer's Render made of an event. Guarded by the delivery's mu.
type rendering struct {
	once   sync.Once // guards itself
	text   []byte    // nil if it failed
	done   bool
	frames frames
}

// release gives up a hold. The last one makes room in the group's queue.
func (d *delivery) release() {
	if d.holders.Add(-1) > 0 {
		return
	}
	d.group.queued.Add(-d.size)
	d.group.signalRoom()
	d.hub.tellGap(d.group)
}

func (d *delivery) event() Event {
	group := ""
	if d.group != nil {
		group = d.group.name
	}
	return Event{Type: d.env.Name, Group: group, ID: d.id, Data: d.env.Data()}
}

// frame returns the event as a frame for an endpoint's connections, nil if its Render
// failed.
func (d *delivery) frame(e *endpoint, deflated bool) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	r, all := d.renders[e], &d.frames
	if r != nil {
		if r.text == nil {
			return nil
		}
		all = &r.frames
	}
	frame := &all.plain
	if deflated {
		frame = &all.deflated
	}
	if *frame == nil {
		text := d.env.Text(d.id)
		if r != nil {
			text = r.text
		}
		*frame = outbox.NewFrame(outbox.Text, text, deflated)
	}
	return *frame
}

// rendered reports whether render has returned for an endpoint.
func (d *delivery) rendered(e *endpoint) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	r := d.renders[e]
	return r != nil && r.done
}

// render calls a consumer's Render, once; others wait for it.
func (d *delivery) render(e *endpoint, h EventHandler) {
	d.mu.Lock()
	r := d.renders[e]
	if r == nil {
		if d.renders == nil {
			d.renders = make(map[*endpoint]*rendering)
		}
		r = &rendering{}
		d.renders[e] = r
	}
	d.mu.Unlock()
	r.once.Do(func() {
		var text []byte
		defer func() {
			p := recover()
			if p != nil {
				d.hub.logger().Error("grouphub: callback panicked", "callback", "render "+quoted(d.env.Name),
					"panic", p, "stack", string(debug.Stack()))
			}
			d.mu.Lock()
			defer d.mu.Unlock()
			r.text, r.done = text, true
		}()
		rendered, err := h.render(d.event())
		switch {
		case err != nil:
			d.hub.logger().Error("grouphub: event dropped: render failed", "type", d.env.Name, "error", err)
		case !utf8.Valid(rendered):
			d.hub.logger().Error("grouphub: event dropped: render did not return UTF-8", "type", d.env.Name)
		case rendered == nil:
			text = []byte{}
		default:
			text = rendered
		}
	})
}
