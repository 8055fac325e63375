package grouphub

import (
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

// A worker pushes groups' events to its share of the hub's connections. Groups with
// events take turns; a goroutine lives while there are any.
type worker struct {
	spawn func(func())

	mu    sync.Mutex
	ready []*shard // in the order of their turns
	busy  bool     // a goroutine takes turns
}

// schedule gives a shard its turn.
func (w *worker) schedule(s *shard) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ready = append(w.ready, s)
	if !w.busy {
		w.busy = true
		w.spawn(w.run)
	}
}

func (w *worker) run() {
	for {
		w.mu.Lock()
		if len(w.ready) == 0 {
			w.busy, w.ready = false, nil
			w.mu.Unlock()
			return
		}
		s := w.ready[0]
		w.ready = w.ready[1:]
		w.mu.Unlock()
		s.turn()
	}
}

// A shard is a worker's share of a group: some of its members, and the events that
// they are still to get. Members are pushed to under mu, which never blocks, so that a
// connection that has left is pushed nothing more.
type shard struct {
	// Static after construction.
	hub    *Hub
	group  *group
	worker *worker

	size atomic.Int32 // of members, for those who only want to know whether there are any

	mu      sync.Mutex
	members []*membership

	queueMu sync.Mutex // may be taken while mu is held
	queue   []*delivery
	last    uint64 // number of the last event that was queued
	active  bool   // has a turn, waits for one, or for a Render

	batch []*delivery // taken from the queue; owned by whoever has the turn
	first uint64      // number of the first event in batch
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
	s.size.Store(int32(last))
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
		s.worker.schedule(s)
	}
}

// turn pushes what is queued, or a run of it. A batch that has to be rendered first
// is put aside until it is.
func (s *shard) turn() {
	if s.batch == nil {
		s.take()
	}
	s.mu.Lock()
	consumers := s.consumersLocked()
	s.mu.Unlock()
	// Who joins from here on is no longer concerned by the batch.
	if todo := unrendered(s.batch, consumers); len(todo) > 0 {
		s.hub.callbacks.Go(func() {
			defer s.worker.schedule(s) // also if a Render ends its goroutine
			for _, render := range todo {
				render()
			}
		})
		return
	}
	s.mu.Lock()
	s.pushLocked(consumers)
	s.mu.Unlock()

	for _, d := range s.batch {
		d.release()
	}
	s.batch = nil
	s.queueMu.Lock()
	defer s.queueMu.Unlock()
	if s.active = len(s.queue) > 0; s.active {
		s.worker.schedule(s)
	}
}

// take moves a run of events from the queue to the batch. A close ends a run.
func (s *shard) take() {
	s.queueMu.Lock()
	defer s.queueMu.Unlock()
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
	s.queue = s.queue[n:]
	if len(s.queue) == 0 {
		s.queue = nil
	}
}

// A variant is what members have in common whose bytes are the same.
type variant struct {
	endpoint *endpoint
	deflated bool
}

// A composition is a batch as it looks to a variant.
type composition struct {
	variant
	bytes  []byte // the frames, joined
	frames int
	lost   int  // events whose Render failed
	ignore int  // events without a handler
	handle bool // there are events for Handle
}

// consumersLocked returns the distinct variants among the members.
func (s *shard) consumersLocked() []variant {
	var all []variant
	var last variant
	for _, m := range s.members {
		v := variant{m.conn.endpoint, m.conn.outbox.Deflated()}
		if v != last && !slices.Contains(all, v) {
			all = append(all, v)
		}
		last = v
	}
	return all
}

// unrendered returns what has to run before the batch can be pushed.
func unrendered(batch []*delivery, consumers []variant) (todo []func()) {
	for _, d := range batch {
		if d.env.Kind != envelope.Event {
			continue
		}
		for _, v := range consumers {
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
func (s *shard) pushLocked(consumers []variant) {
	compositions := make([]composition, len(consumers))
	for i, v := range consumers {
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
		v := variant{c.endpoint, c.outbox.Deflated()}
		var own composition
		whole := &own
		if len(batch) < len(s.batch) {
			own = s.hub.compose(v, batch)
		} else {
			whole = &compositions[slices.IndexFunc(compositions, func(x composition) bool { return x.variant == v })]
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
	all := composition{variant: v}
	for _, d := range batch {
		if d.env.Kind != envelope.Event {
			continue
		}
		switch eh := v.endpoint.consumer.Events.handler(d.env.Name); eh.kind {
		case handlerNone:
			all.ignore++
		case handlerHandle:
			all.handle = true
		default:
			frame := d.frame(v.endpoint, v.deflated)
			switch all.frames++; {
			case frame == nil:
				all.frames--
				all.lost++
			case all.frames == 1:
				all.bytes = frame[:len(frame):len(frame)] // shared as it is
			default:
				all.bytes = append(all.bytes, frame...)
			}
		}
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
	frames  map[frameKey][]byte // nil frames are of failed Renders
	renders map[*endpoint]*rendering
}

// A frameKey says which frame of an event: Forward's has no endpoint.
type frameKey struct {
	endpoint *endpoint
	deflated bool
}

// A rendering is what a consumer's Render made of an event.
type rendering struct {
	once sync.Once
	text []byte // nil if it failed
	done bool   // guarded by the delivery's mu
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
	r, key := d.renders[e], frameKey{nil, deflated}
	if r != nil {
		if r.text == nil {
			return nil
		}
		key.endpoint = e
	}
	frame, ok := d.frames[key]
	if !ok {
		var text []byte
		if r != nil {
			text = r.text
		} else {
			text = d.env.Text(d.id)
		}
		if d.frames == nil {
			d.frames = make(map[frameKey][]byte)
		}
		frame = outbox.NewFrame(outbox.Text, text, deflated)
		d.frames[key] = frame
	}
	return frame
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
