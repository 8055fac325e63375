package grouphub

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"
)

// An Event is what groups and channels carry: a type that picks the handler, and
// data. As JSON it is what a browser gets from [Forward].
type Event struct {
	Type  string          `json:"type"`
	Group string          `json:"group,omitempty"` // empty if it was sent to a channel
	ID    string          `json:"id,omitempty"`    // position in the group's history
	Data  json.RawMessage `json:"data,omitempty"`  // shared with other connections: not to be changed
}

// Decode parses the event's data into v, as [json.Unmarshal] does. An event without
// data leaves v as it is.
func (e Event) Decode(v any) error {
	if len(e.Data) == 0 {
		return nil
	}
	if err := json.Unmarshal(e.Data, v); err != nil {
		return fmt.Errorf("grouphub: decode event %q: %w", e.Type, err)
	}
	return nil
}

// Events says what a consumer does with the events that reach it, by their type.
// The entry "*" takes the types without one of their own; an event that finds none
// is counted in [Stats] and goes no further.
type Events map[string]EventHandler

// handler returns what is to be done with events of a type.
func (e Events) handler(event string) EventHandler {
	if h, ok := e[event]; ok {
		return h
	}
	return e["*"]
}

// An EventHandler is made by [Forward], [Render], [Handle] or [HandleAs]. The zero
// value ignores the event, like a missing entry.
type EventHandler struct {
	kind   handlerKind
	render func(Event) ([]byte, error)
	handle func(*Conn, Event) error
}

type handlerKind uint8

const (
	handlerNone handlerKind = iota
	handlerForward
	handlerRender
	handlerHandle
)

// Forward sends the event's JSON to the client as a text frame, which is made once
// for all connections.
func Forward() EventHandler { return EventHandler{kind: handlerForward} }

// Render sends what fn returns to the client as a text frame. fn is called once per
// event and consumer, not per connection, and may run concurrently with itself for
// different events. It may block: only its own event and those behind it in the
// same group wait. It must not wait for a send to that group. If it fails, or
// returns what is not UTF-8, that is logged and the event is counted as dropped for
// the consumer's connections. The returned slice must not be changed afterwards.
func Render(fn func(e Event) ([]byte, error)) EventHandler {
	if fn == nil {
		panic("grouphub: Render of a nil function")
	}
	return EventHandler{kind: handlerRender, render: fn}
}

// Handle calls fn for each connection, in the connection's own turn: never at the
// same time as another of its callbacks. An error closes the connection, as for
// every callback.
func Handle(fn func(c *Conn, e Event) error) EventHandler {
	if fn == nil {
		panic("grouphub: Handle of a nil function")
	}
	return EventHandler{kind: handlerHandle, handle: fn}
}

// HandleAs is [Handle] with the event's data decoded into a T. An event that does
// not decode is its sender's mistake: it is logged and counted as dropped, and the
// connection stays.
func HandleAs[T any](fn func(c *Conn, v T) error) EventHandler {
	if fn == nil {
		panic("grouphub: HandleAs of a nil function")
	}
	return Handle(func(c *Conn, e Event) error {
		var v T
		if err := e.Decode(&v); err != nil {
			return &badEventError{err}
		}
		return fn(c, v)
	})
}

// badEventError is what a handler returns for an event that its sender got wrong.
type badEventError struct{ error }

// An envelope is what travels through a layer. An event's body is its JSON as the
// client will see it, so that a hub forwards it without parsing; the offset says
// where in it the id belongs.
//
// On the wire: version, kind, then name, channel and each exception as length and
// bytes (the exceptions after their number), then a number, then the body like a
// name. All lengths and numbers are unsigned varints.
type envelope struct {
	kind    envelopeKind
	name    string   // the event's type; the group to join or leave; the ping's token
	channel string   // the connection it is for, if it is for one
	except  []string // connections that do not get it
	number  int      // the offset of the id in an event; the code of a close
	body    []byte   // an event's JSON; a close's reason
}

type envelopeKind byte

const (
	kindEvent envelopeKind = 1 + iota
	kindClose
	kindAdd
	kindDiscard
	kindPing
	kindEnd // the first that is unknown
)

const envelopeVersion = 1

func (e *envelope) encode() []byte {
	size := 28 + len(e.name) + len(e.channel) + len(e.body)
	for _, x := range e.except {
		size += len(x) + 3
	}
	b := append(make([]byte, 0, size), envelopeVersion, byte(e.kind))
	b = appendString(b, e.name)
	b = appendString(b, e.channel)
	b = binary.AppendUvarint(b, uint64(len(e.except)))
	for _, x := range e.except {
		b = appendString(b, x)
	}
	b = binary.AppendUvarint(b, uint64(e.number))
	b = binary.AppendUvarint(b, uint64(len(e.body)))
	return append(b, e.body...)
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

var errTruncated = errors.New("truncated payload")

// decodeEnvelope parses a payload, which the envelope's body then shares. It trusts
// nothing: anyone who can write to the layer may have sent it.
func decodeEnvelope(b []byte) (*envelope, error) {
	if len(b) < 2 {
		return nil, errTruncated
	}
	if b[0] != envelopeVersion {
		return nil, fmt.Errorf("payload of version %d, this is version %d", b[0], envelopeVersion)
	}
	e := &envelope{kind: envelopeKind(b[1])}
	if e.kind == 0 || e.kind >= kindEnd {
		return nil, fmt.Errorf("payload of unknown kind %d", b[1])
	}
	d := decoder{b: b[2:]}
	e.name = d.string()
	e.channel = d.string()
	count := d.uvarint()
	if count > uint64(len(d.b)) { // each takes a byte at least
		return nil, errTruncated
	}
	for range count {
		e.except = append(e.except, d.string())
	}
	number := d.uvarint()
	if size := d.uvarint(); d.bad || size != uint64(len(d.b)) {
		return nil, errTruncated
	}
	e.body = d.b
	if e.kind == kindEvent && !utf8.Valid(e.body) { // browsers close on a text frame that is not UTF-8
		return nil, errors.New("event is not UTF-8")
	}
	switch limit := uint64(len(e.body)); {
	case e.kind == kindEvent && (number > limit || len(e.body) < 2):
		return nil, fmt.Errorf("event of %d bytes with its id at %d", limit, number)
	case number > 1<<16 && e.kind != kindEvent:
		return nil, fmt.Errorf("number %d out of range", number)
	case e.kind == kindClose:
		if err := checkClose(int(number), string(e.body)); err != nil {
			return nil, err
		}
	}
	e.number = int(number)
	return e, nil
}

// A decoder takes fields off the front of b. After the first one that does not fit
// it is bad and yields zero values.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.bad, d.b = true, nil
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) string() string {
	n := d.uvarint()
	if n > uint64(len(d.b)) {
		d.bad, d.b = true, nil
		return ""
	}
	s := string(d.b[:n])
	d.b = d.b[n:]
	return s
}

// dataKey stands in an event's JSON between the id, if there is one, and the data.
var dataKey = []byte(`,"data":`)

// newEvent makes the envelope of an event. A nil data leaves the data out.
func newEvent(group, event string, data any, maxSize int) (*envelope, error) {
	head, err := json.Marshal(event)
	if err != nil {
		return nil, err
	}
	body := append([]byte(`{"type":`), head...)
	if group != "" {
		if head, err = json.Marshal(group); err != nil {
			return nil, err
		}
		body = append(append(body, `,"group":`...), head...)
	}
	offset := len(body)
	if data != nil {
		value, err := json.Marshal(data)
		if err != nil {
			return nil, err
		}
		body = append(append(body, dataKey...), value...)
	}
	body = append(body, '}')
	if !utf8.Valid(body) { // json.RawMessage passes as it is, and browsers hang up
		return nil, errors.New("data is not valid UTF-8")
	}
	if len(body) > maxSize {
		return nil, fmt.Errorf("%d bytes, the limit is %d: %w", len(body), maxSize, ErrTooLarge)
	}
	return &envelope{kind: kindEvent, name: event, number: offset, body: body}, nil
}

// event returns the event in the envelope, whose data shares the body.
func (e *envelope) event(group string) Event {
	ev := Event{Type: e.name, Group: group}
	if rest := e.body[e.number:]; len(rest) > len(dataKey) && bytes.HasPrefix(rest, dataKey) {
		ev.Data = rest[len(dataKey) : len(rest)-1 : len(rest)-1]
	}
	return ev
}
