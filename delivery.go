package grouphub

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"unicode/utf8"

	"github.com/seed-29c60982/grouphub/internal/envelope"
	"github.com/seed-29c60982/grouphub/internal/frame"
	"github.com/seed-29c60982/grouphub/internal/outbox"
	"github.com/seed-29c60982/grouphub/internal/strand"
)

// A delivery is one event, or one close, on its way to the members on one hub. What is
// built for it is shared by them, and what is kept of that is built once.
type delivery struct {
	// Static after construction.
	kind  deliveryKind
	hub   *Hub
	group *group // nil: sent to one connection
	env   *envelope.Envelope
	at    Position // in the group's history, zero without
	id    string   // the same as clients see it, "" without
	key   string   // of Latest, unique among all groups; "" without

	several map[*membership]*sharedResync // of a gap: for the members that other groups' gaps concern, too

	telling uint32   // of a presence event: the number of its roster's telling
	to      audience // of a presence event

	entryOnce sync.Once
	entry     cursorEntry // of the position, once it is asked for

	load uint64 // the number of the load that it is about; zero if it is not about one
	err  error  // of a load that failed

	forward frame.Message
	renders sync.Map // of *rendering, by *endpoint
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

// size is what the delivery counts for while it is queued, in bytes.
func (d *delivery) size() int { return len(d.env.Body) }

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
	return c.subscriber != nil && d.closes() || slices.Contains(env.Except, c.channel) ||
		len(env.ExceptUsers) > 0 && slices.Contains(env.ExceptUsers, c.user.current.Load().ID) ||
		env.Session != "" && env.Session != c.user.current.Load().Session
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
	value, _ := d.renders.Load(v.endpoint)
	r, _ := value.(*rendering)
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
	value, _ := d.renders.Load(e)
	r, _ := value.(*rendering)
	if r == nil { // as in frame
		return nil, false
	}
	text = r.Text()
	return text, text != nil || r.nothing
}

// rendered reports whether render has returned for an endpoint.
func (d *delivery) rendered(e *endpoint) bool {
	value, ok := d.renders.Load(e)
	return ok && value.(*rendering).Done()
}

// render calls a consumer's Render, once; others wait for it.
func (d *delivery) render(e *endpoint) {
	value, _ := d.renders.LoadOrStore(e, new(rendering))
	r := value.(*rendering)
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

// A composition is what connections of one variant get of a batch.
type composition struct {
	bytes     []byte        // the frames, joined
	spans     []outbox.Span // which of them are replaceable; nil: none
	frames    int
	failed    int  // events whose Render failed
	unhandled int  // events without a handler
	handle    bool // there are events for Handle
}

// A part of a composition is a frame, or the event to make one of.
type part struct {
	frame []byte
	event *delivery
	key   string // of the event
}

// compose joins the frames of a batch for a variant.
func (h *Hub) compose(v variant, batch []*delivery) composition {
	if v.isStream() {
		return h.composeBlocks(v, batch, ownCursor)
	}
	var composed composition
	parts, size := make([]part, 0, len(batch)), 0
	for _, d := range batch {
		if d.closes() {
			continue
		}
		switch kind := v.handlerOf(d).kind; {
		case kind == handlerNone:
			composed.unhandled++
		case kind == handlerIgnore:
		case kind == handlerHandle:
			composed.handle = true
		case kind == handlerForward && !v.deflated() && len(batch) > 1:
			// No other composition would use the frame, so join writes it in its place.
			parts = append(parts, part{event: d, key: d.key})
			size += d.env.FrameSize(d.id)
		default:
			bytes, ok := d.frame(v, kind)
			if !ok {
				composed.failed++
			}
			if bytes != nil {
				parts = append(parts, part{frame: bytes, key: d.key})
				size += len(bytes)
			}
		}
	}
	composed.frames = len(parts)
	composed.join(parts, size)
	return composed
}

// join writes parts behind one another. A single frame is shared as it is. The result has
// no spare capacity: it may wait in a backlog for long, which counts only its length.
func (c *composition) join(parts []part, size int) {
	if len(parts) == 1 && parts[0].frame != nil {
		c.bytes = slices.Clip(parts[0].frame)
		c.noteKey(0, parts[0].key)
		return
	}
	c.bytes = make([]byte, 0, size)
	for _, p := range parts {
		start := len(c.bytes)
		if p.event != nil {
			c.bytes = p.event.env.AppendFrame(c.bytes, p.event.id)
		} else {
			c.bytes = append(c.bytes, p.frame...)
		}
		c.noteKey(start, p.key)
	}
	c.endSpans()
}

// noteKey notes that the bytes from an offset on are an event's, which has a key unless that
// is empty.
func (c *composition) noteKey(start int, key string) {
	if key == "" {
		return
	}
	c.endSpansAt(start)
	c.spans = append(c.spans, outbox.Span{End: len(c.bytes), Key: key})
}

// endSpans has the spans, if there are any, cover all bytes.
func (c *composition) endSpans() {
	if c.spans != nil {
		c.endSpansAt(len(c.bytes))
	}
}

func (c *composition) endSpansAt(end int) {
	if n := len(c.spans); end > 0 && (n == 0 || c.spans[n-1].End < end) {
		c.spans = append(c.spans, outbox.Span{End: end})
	}
}

// pushLocked gives every member of a shard its part of a batch. Nearly all get the same
// buffer; those that joined within the batch, or are excepted somewhere in it, get one of
// their own. It never blocks.
func (s *shard) pushLocked(batch []*delivery) {
	h := s.members.hub
	whole := make([]composition, len(s.variants))
	ordered := s.members.group.ordered()
	for i, v := range s.variants {
		if ordered && v.endpoint.callsBack {
			whole[i] = h.compose(v, v.lead(batch))
		} else {
			whole[i] = h.compose(v, batch)
		}
	}
	excepted := exceptionsOf(batch)
	news := slices.ContainsFunc(batch, (*delivery).isNews)
	w := outbox.BorrowWriter()
	defer w.Return()
	var sent tally
	for i, p := range s.places {
		c, due := p.conn, s.since(p, batch)
		if s.wanted != nil && c.endpoint.conditions {
			due = common(batch, due, s.wanted[c])
		}
		if news {
			if due = p.membership.withoutNews(due); len(due) == 0 {
				continue
			}
		}
		if p.heldBack {
			s.holdLocked(&s.places[i], due)
			continue
		}
		if excepted.concern(c) {
			due = c.without(due)
		}
		v, lead := c.variant(), due
		if p.behind {
			sent.dropped += v.countWithout(due, 0)
			p.membership.lostNews(due)
			s.closeIfDue(p, due)
			continue
		}
		inOrder := ordered && v.endpoint.callsBack
		composed := &whole[slices.Index(s.variants, v)]
		if inOrder {
			lead = c.lead(p.membership, due)
		}
		if len(due) < len(batch) || inOrder && lead == nil {
			own := h.compose(v, lead)
			composed = &own
		}
		if c.sendBatch(w, p.membership, due, lead, composed, latestWins, &sent) == outbox.ErrBehind {
			s.places[i].behind = true
			p.membership.lostNews(due)
			c.fallBehindIn(p.membership)
		}
		s.closeIfDue(p, due)
	}
	h.count.add(sent)
}

// closeIfDue closes a member's connection if a batch ends with a close.
func (s *shard) closeIfDue(p place, due []*delivery) {
	if len(due) > 0 && due[len(due)-1].closes() {
		p.conn.closeInOrder(p.membership, due[len(due)-1].env)
	}
}

// since returns the events of the shard's batch that are for a member: those that were sent
// after it had joined and are not in its replay.
func (s *shard) since(p place, batch []*delivery) []*delivery {
	number := p.membership.number
	switch {
	case p.since < s.begin:
		return batch
	case p.since == number: // it has not been replayed since it joined
		return batch[min(int(p.since-s.begin)+1, len(batch)):]
	}
	var due []*delivery
	for i, d := range batch {
		if n := s.begin + uint64(i); n > p.since || n > number && d.id == "" {
			due = append(due, d)
		}
	}
	return due
}

// exceptions are those whom some event of a batch may not be for.
type exceptions struct {
	channels, users map[string]bool
	sessions        bool // an event is for one session
}

// exceptionsOf returns the exceptions of a batch.
func exceptionsOf(batch []*delivery) (x exceptions) {
	for _, d := range batch {
		x.channels = addNames(x.channels, d.env.Except)
		x.users = addNames(x.users, d.env.ExceptUsers)
		x.sessions = x.sessions || d.env.Session != ""
	}
	return x
}

// addNames adds names to a set, which is nil while it is empty.
func addNames(set map[string]bool, names []string) map[string]bool {
	for _, name := range names {
		if set == nil {
			set = make(map[string]bool)
		}
		set[name] = true
	}
	return set
}

// concern reports whether a connection may be excepted from some event of the batch.
func (x *exceptions) concern(c *Conn) bool {
	return c.subscriber != nil || x.channels[c.channel] || x.users != nil && x.users[c.user.current.Load().ID] || x.sessions
}

// without returns a batch without the events that the connection is excepted from.
func (c *Conn) without(batch []*delivery) []*delivery {
	excepted := func(d *delivery) bool { return d.excepts(c) }
	if slices.ContainsFunc(batch, excepted) {
		batch = slices.DeleteFunc(slices.Clone(batch), excepted)
	}
	return batch
}

// push pushes what was composed of a batch for the connection's variant.
func (c *Conn) push(w *outbox.Writer, batch []*delivery, composed *composition) error {
	if c.stream != nil && c.stream.cursors {
		return c.stream.push(c, w, batch, composed)
	}
	return c.pushComposed(w, composed)
}

func (c *Conn) pushComposed(w *outbox.Writer, composed *composition) error {
	if composed.frames == 0 {
		return nil
	}
	return c.outbox.PushSpans(w, composed.bytes, composed.spans)
}

// A replacing says what becomes of the events of a batch that wait.
type replacing bool

const (
	latestWins replacing = true  // they are replaced by later ones with the same Latest key
	allStay    replacing = false // nothing replaces them: they are a piece of a replay, or have no key
)

// deliver pushes events to one connection, which is to have them because of a membership, or
// of none. Its errors are those of the outbox's PushSpans.
func (c *Conn) deliver(m *membership, batch []*delivery, replacing replacing) (err error) {
	if batch = c.without(batch); len(batch) == 0 {
		return nil
	}
	lead := batch
	if m.inOrder(c) {
		lead = c.lead(m, batch)
	}
	composed := c.hub.compose(c.variant(), lead)
	if replacing == allStay {
		composed.spans = nil
	}
	w := outbox.BorrowWriter()
	defer w.Return()
	var sent tally
	err = c.sendBatch(w, m, batch, lead, &composed, replacing, &sent)
	c.hub.count.add(sent)
	return err
}

// A tally is what became of events.
type tally struct{ delivered, dropped, unhandled int }

// sendBatch pushes what was composed of the lead of a batch, and queues the rest of it. Its errors
// are those of the outbox's PushSpans. After ErrBehind the connection gets nothing more of the
// batch.
func (c *Conn) sendBatch(w *outbox.Writer, m *membership, batch, lead []*delivery, composed *composition, replacing replacing, sent *tally) error {
	err := c.push(w, lead, composed)
	sent.dropped += composed.failed
	sent.unhandled += composed.unhandled
	switch {
	case err == outbox.ErrBehind:
		sent.delivered += composed.frames // what was refused of them is counted already
		sent.dropped += c.variant().countWithout(batch, len(lead))
		return err
	case err == nil:
		sent.delivered += composed.frames
	}
	// A connection that refuses frames is closing: it is none that should have had them.
	if composed.handle {
		err = cmp.Or(c.queueHandlers(m, batch, sent), err)
	}
	if len(lead) < len(batch) {
		err = cmp.Or(c.queueInOrder(m, batch[len(lead):], replacing, sent), err)
	}
	return err
}

// countWithout counts the events of a batch that a connection does not get if nothing is
// queued, and only the frames before an index are pushed.
func (v variant) countWithout(batch []*delivery, index int) (n int) {
	for i, d := range batch {
		if d.closes() || d.kind == deliveryGap {
			continue
		}
		switch v.handlerOf(d).kind {
		case handlerHandle:
			n++
		case handlerForward, handlerRender:
			if i >= index {
				n++
			}
		}
	}
	return n
}
