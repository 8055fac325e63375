package grouphub

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"sync/atomic"
	"unicode/utf8"

	"github.com/seed-29c60982/grouphub/internal/envelope"
	"github.com/seed-29c60982/grouphub/internal/frame"
	"github.com/seed-29c60982/grouphub/internal/strand"
)

// A delivery is one event, or one close, on its way to the members on one hub. What is
// built for it is shared by them, and what is kept of that is built once.
type delivery struct {
	// Static after construction.
	kind    deliveryKind
	to      audience     // of a presence event
	telling uint32       // of a presence event: the number of its roster's telling
	holders atomic.Int32 // the shards that still have to push it: see members

	hub   *Hub
	group *group // nil: sent to one connection
	env   *envelope.Envelope
	at    Position // in the group's history, zero without
	id    string   // the same as clients see it, "" without
	key   string   // of Latest, unique among all groups; "" without

	several map[*membership]*sharedResync // of a gap: for the members that other groups' gaps concern, too

	load uint64 // the number of the load that it is about; zero if it is not about one
	err  error  // of a load that failed

	entry   atomic.Pointer[cursorEntry] // of the position, once it is asked for
	forward frame.Message
	renders atomic.Pointer[rendering] // a list, of one for each endpoint whose consumer has a Render
}

// A deliveryKind says what a delivery is. All but deliveryEvent make a batch of their own.
type deliveryKind uint8

const (
	deliveryEvent      deliveryKind = iota // or a close
	deliveryGap                            // events before it may be lost, and a snapshot is due to the members
	deliveryLoadBegins                     // see loader
	deliverySnapshot                       // is an event, for the members that wait for this load
	deliveryLoadFailed                     // there is none for them
)

// noEnvelope is that of deliveries without one.
var noEnvelope = &envelope.Envelope{}

// size is what the delivery counts for in a batch, in bytes.
func (d *delivery) size() int { return len(d.env.Body) }

// queuedSize is what the delivery counts for while it waits for a group's members.
func (d *delivery) queuedSize() int64 { return int64(d.size()) + queuedOverhead }

// waitingSize is what the delivery counts for while it waits on a connection's strand.
func (d *delivery) waitingSize() int { return d.size() + strand.Overhead }

// closes reports whether it is a close, after which nothing may follow in a batch.
func (d *delivery) closes() bool { return d.env.Kind == envelope.Close }

// event returns what callbacks get.
func (d *delivery) event() Event {
	group := ""
	if d.group != nil {
		group = d.group.name
	}
	return Event{Type: d.env.Name, Group: group, ID: d.id, Data: d.env.Data()}
}

// excepts reports whether a connection does not get the event.
func (d *delivery) excepts(c *Conn) bool {
	env := d.env
	if c.subscriber != nil && d.closes() || slices.Contains(env.Except, c.channel) {
		return true
	}
	if env.Options == nil {
		return false
	}
	user := c.user.current.Load()
	return slices.Contains(env.Options.ExceptUsers, user.ID) ||
		env.Options.Session != "" && env.Options.Session != user.Session
}

// A variant is what connections have in common whose bytes of an event are the same, but for
// the cursors of event streams.
type variant struct {
	endpoint  *endpoint
	encoding  encoding
	positions bool // a Render that does not say its event's id is followed by the position
}

// An encoding is what the bytes of a connection's events are.
type encoding uint8

const (
	encodingFrames encoding = iota
	encodingDeflatedFrames
	encodingBlocks       // of an event stream
	encodingCursorBlocks // of an event stream, with cursors where a group has history
)

func (v variant) deflated() bool { return v.encoding == encodingDeflatedFrames }

func (v variant) isStream() bool { return v.encoding >= encodingBlocks }

// handlerOf returns what the variant's consumer does with an event.
func (v variant) handlerOf(d *delivery) EventHandler {
	return v.endpoint.consumer.Events.handler(d.env.Name)
}

// A rendering is what a consumer's Render has made of an event.
type rendering struct {
	endpoint *endpoint
	next     *rendering // of the delivery's list
	frame.Rendering

	// Set before the Rendering is done.
	nothing bool // the Render wants nothing to be sent
	saysID  bool // the text has the event's id
}

// frame returns the event as a frame for connections whose handler is Forward or Render. It
// is nil if the Render wants nothing to be sent, and ok is false if the Render failed.
func (d *delivery) frame(v variant, kind handlerKind) (bytes []byte, ok bool) {
	if kind == handlerForward { // without a look at renders, which would allocate
		return d.forward.Frame(v.deflated(), func() []byte { return d.env.Text(d.id) }), true
	}
	r := d.renderingFor(v.endpoint)
	if r == nil { // the variant has come since missingRenders, and gets nothing of the batch
		return nil, false
	}
	bytes = r.Frame(v.deflated())
	ok = bytes != nil || r.nothing
	if v.positions && d.id != "" && !r.saysID {
		bytes = append(slices.Clip(bytes), frame.New(frame.Text, d.position(), false)...)
	}
	return bytes, ok
}

// position returns what tells a client that it has had the event.
func (d *delivery) position() []byte {
	text, _ := json.Marshal(positionEvent(d.group.name, d.id)) // strings always marshal
	return text
}

// rendering returns what render has made of the event for an endpoint. It is nil if the
// Render wants nothing to be sent, and ok is false if the Render failed.
func (d *delivery) rendering(e *endpoint) (text []byte, ok bool) {
	r := d.renderingFor(e)
	if r == nil { // as in frame
		return nil, false
	}
	text = r.Text()
	return text, text != nil || r.nothing
}

// renderingFor returns the rendering for an endpoint, nil if there is none.
func (d *delivery) renderingFor(e *endpoint) *rendering {
	r := d.renders.Load()
	for r != nil && r.endpoint != e {
		r = r.next
	}
	return r
}

// addRendering returns the rendering for an endpoint, and makes it if there is none.
func (d *delivery) addRendering(e *endpoint) *rendering {
	added := &rendering{endpoint: e}
	for {
		added.next = d.renders.Load()
		if r := d.renderingFor(e); r != nil {
			return r
		}
		if d.renders.CompareAndSwap(added.next, added) {
			return added
		}
	}
}

// rendered reports whether render has returned for an endpoint.
func (d *delivery) rendered(e *endpoint) bool {
	r := d.renderingFor(e)
	return r != nil && r.Done()
}

// render calls a consumer's Render, once; others wait for it.
func (d *delivery) render(e *endpoint) {
	r := d.addRendering(e)
	h := e.consumer.Events.handler(d.env.Name)
	r.Do(h.binary, func() []byte {
		defer func() {
			if p := recover(); p != nil {
				d.hub.logPanic(p, "render "+quoted(d.env.Name), "")
			}
		}()
		text, err := h.render(d.event())
		if err == nil && !h.binary && !utf8.Valid(text) {
			err = errors.New("not UTF-8")
		}
		if err != nil {
			d.hub.logger().Error("grouphub: event dropped: render failed", "type", d.env.Name, "error", err)
			return nil
		}
		if text == nil {
			r.nothing = true
			return nil
		}
		r.saysID = d.id != "" && !h.binary && bytes.Contains(text, []byte(d.id))
		return append([]byte{}, text...) // a copy, since the application may use text again; not nil, even if it is empty
	})
}

// missingRenders returns the Renders that have to run before a batch can be composed for
// variants. They may block.
func missingRenders(batch []*delivery, variants []variant) (renders []func()) {
	for _, d := range batch {
		if d.closes() {
			continue
		}
		for _, v := range variants {
			switch v.handlerOf(d).kind {
			case handlerNone:
				d.hub.logUnhandled(d.env.Name)
			case handlerRender:
				if d, e := d, v.endpoint; !d.rendered(e) { // new variables, so that capturing them allocates only here
					renders = append(renders, func() { d.render(e) })
				}
			}
		}
	}
	return renders
}
