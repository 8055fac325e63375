package grouphub

import (
	"errors"
	"iter"
	"slices"
	"sync"
	"unicode/utf8"

	"github.com/seed-29c60982/grouphub/internal/envelope"
	"github.com/seed-29c60982/grouphub/internal/fanout"
	"github.com/seed-29c60982/grouphub/internal/outbox"
)

// members are a group's connections, and the events that they are still to get.
type members = fanout.Group[*Conn, variant, *delivery]

// A membership is a connection's place in a group.
type membership struct {
	group *group
	over  chan struct{} // closed when a replay has ended; nil without history
	// Begun when the connection is a member: until then its Join is under way.
	fanout.Membership[*Conn, variant, *delivery]
	since int64 // when that was, in nanoseconds since 1970
}

// Name is what a connection keeps its memberships by.
func (m *membership) Name() string { return m.group.name }

func (m *membership) entered() bool { return m != nil && m.Begun() }

func (h *Hub) newMembers(g *group) *members {
	return fanout.NewGroup(fanout.Owner[*Conn, variant, *delivery]{
		Variant:   (*Conn).variant,
		Push:      h.push,
		Prepare:   unrendered,
		Go:        h.goroutines.Go,
		GoPrepare: h.callbacks.Go,
		Emptied:   func() { h.tellGap(g) },
	})
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
			switch v.endpoint.consumer.Events.handler(d.env.Name).kind {
			case handlerNone:
				d.hub.ignore(d.env.Name)
			case handlerRender:
				if d, e := d, v.endpoint; !d.rendered(e) { // captured as they are, which allocates only here
					todo = append(todo, func() { d.render(e) })
				}
			}
		}
	}
	return todo
}

// push gives every member its part of a batch: nearly all of them the same buffer, those
// that joined within it or are excepted somewhere one of their own. It never blocks.
func (h *Hub) push(batch []*delivery, variants []variant, conns iter.Seq2[*Conn, int]) {
	compositions := make([]composition, len(variants))
	for i, v := range variants {
		compositions[i] = h.compose(v, batch)
	}
	var excepted map[string]bool // somewhere in the batch
	for _, d := range batch {
		for _, channel := range d.env.Except {
			if excepted == nil {
				excepted = make(map[string]bool)
			}
			excepted[channel] = true
		}
	}
	closing := batch[len(batch)-1]
	if !closing.Last() {
		closing = nil
	}
	w := outbox.BorrowWriter()
	defer w.Return()
	var delivered, dropped, ignored int
	for c, from := range conns {
		own := batch[from:]
		if excepted[c.channel] {
			own = c.concerning(own)
		}
		whole := &compositions[slices.Index(variants, c.variant())]
		if len(own) < len(batch) {
			composed := h.compose(c.variant(), own)
			whole = &composed
		}
		// A connection that refuses frames is closing: it is none that should have
		// had them.
		if whole.frames > 0 && c.outbox.PushWith(w, whole.bytes) == nil {
			delivered += whole.frames
		}
		dropped += whole.lost
		ignored += whole.ignore
		if whole.handle {
			c.handleAll(own)
		}
		if closing != nil && len(own) > 0 && own[len(own)-1] == closing {
			c.outbox.CloseWith(closing.env.Number, string(closing.env.Body))
		}
	}
	h.count.delivered.Add(uint64(delivered))
	h.count.dropped.Add(uint64(dropped))
	h.count.unhandled.Add(uint64(ignored))
}

// compose joins the frames of a batch for a variant.
func (h *Hub) compose(v variant, batch []*delivery) composition {
	var all composition
	type part struct { // a frame, or the event to make it of
		frame []byte
		event *delivery
	}
	parts, size := make([]part, 0, len(batch)), 0
	for _, d := range batch {
		switch kind := v.endpoint.consumer.Events.handler(d.env.Name).kind; {
		case d.env.Kind != envelope.Event:
		case kind == handlerNone:
			all.ignore++
		case kind == handlerHandle:
			all.handle = true
		case kind == handlerForward && !v.deflated && len(batch) > 1: // nobody else would need its frame
			parts = append(parts, part{event: d})
			size += d.env.FrameSize(d.id)
		default:
			if frame := d.frame(v, kind); frame != nil {
				parts = append(parts, part{frame: frame})
				size += len(frame)
			} else {
				all.lost++
			}
		}
	}
	if all.frames = len(parts); all.frames == 1 && parts[0].frame != nil {
		all.bytes = slices.Clip(parts[0].frame) // shared as it is
		return all
	}
	all.bytes = make([]byte, 0, size) // no more: it may wait for long, and counts by its length
	for _, p := range parts {
		if all.bytes = append(all.bytes, p.frame...); p.event != nil {
			all.bytes = p.event.env.AppendFrame(all.bytes, p.event.id)
		}
	}
	return all
}

// A delivery is one event on its way to the members on one hub. What is built for it
// is shared; what is kept of that is built once.
type delivery struct {
	// Static after construction.
	hub   *Hub
	group *group // nil: sent to one connection
	env   *envelope.Envelope
	id    string // position in the group's history, "" without

	forward outbox.Message
	renders sync.Map // of *outbox.Rendering, by *endpoint
}

// Size is what the delivery counts for while it is queued, in bytes.
func (d *delivery) Size() int { return len(d.env.Body) }

// Last reports whether nothing may follow the delivery in one batch: a close ends it.
func (d *delivery) Last() bool { return d.env.Kind == envelope.Close }

// concerning returns a batch without what the connection is excepted from.
func (c *Conn) concerning(batch []*delivery) []*delivery {
	excepted := func(d *delivery) bool { return slices.Contains(d.env.Except, c.channel) }
	if slices.ContainsFunc(batch, excepted) {
		batch = slices.DeleteFunc(slices.Clone(batch), excepted)
	}
	return batch
}

func (d *delivery) event() Event {
	group := ""
	if d.group != nil {
		group = d.group.name
	}
	return Event{Type: d.env.Name, Group: group, ID: d.id, Data: d.env.Data()}
}

// frame returns the event as a frame for connections whose handler is Forward or Render,
// nil if its Render failed.
func (d *delivery) frame(v variant, kind handlerKind) []byte {
	if kind == handlerForward { // renders is not touched: that would allocate
		return d.forward.Frame(v.deflated, func() []byte { return d.env.Text(d.id) })
	}
	value, _ := d.renders.Load(v.endpoint)
	r, _ := value.(*outbox.Rendering)
	return r.Frame(v.deflated)
}

// rendered reports whether render has returned for an endpoint.
func (d *delivery) rendered(e *endpoint) bool {
	value, ok := d.renders.Load(e)
	return ok && value.(*outbox.Rendering).Done()
}

// render calls a consumer's Render, once; others wait for it.
func (d *delivery) render(e *endpoint) {
	value, _ := d.renders.LoadOrStore(e, new(outbox.Rendering))
	value.(*outbox.Rendering).Do(func() []byte {
		defer func() {
			if p := recover(); p != nil {
				d.hub.logPanic(p, "render "+quoted(d.env.Name), "")
			}
		}()
		text, err := e.consumer.Events.handler(d.env.Name).render(d.event())
		if err == nil && !utf8.Valid(text) {
			err = errors.New("not UTF-8")
		}
		if err != nil {
			d.hub.logger().Error("grouphub: event dropped: render failed", "type", d.env.Name, "error", err)
			return nil
		}
		return append([]byte{}, text...) // not nil, and nobody else's
	})
}
