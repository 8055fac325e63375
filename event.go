package grouphub

import (
	"encoding/json"
	"fmt"
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
// The entry "*" is for the types that have no entry of their own. An event without an
// entry is counted in [Stats] and goes no further.
type Events map[string]EventHandler

// handler returns what is to be done with events of a type.
func (e Events) handler(event string) EventHandler {
	if h, ok := e[event]; ok {
		return h
	}
	return e["*"]
}

// An EventHandler is made by [Forward], [Render], [RenderBinary], [Handle], [HandleAs] or
// [Ignore]. The zero value is like a missing entry.
type EventHandler struct {
	kind      handlerKind
	binary    bool   // what render returns is sent as a binary message
	name      string // in an event stream; empty: none
	render    func(Event) ([]byte, error)
	handle    func(*Conn, Event) error
	condition func(*Conn, Event) bool // of If; nil: there is none
}

type handlerKind uint8

const (
	handlerNone handlerKind = iota
	handlerIgnore
	handlerForward
	handlerRender
	handlerHandle
)

// Forward sends the event's JSON to the client as a text frame, which is made for many
// connections at once.
func Forward() EventHandler { return EventHandler{kind: handlerForward} }

// Render sends what fn returns to the client as a text frame. fn is called once per
// event and consumer, not per connection, and may run concurrently with itself for
// different events. It may block: only its own event and those behind it in the
// same group wait. It must not wait for a send to that group. If it returns nil and no
// error, nothing is sent. In a group with history a client that says ?resume is told where it
// is, unless the text has the event's ID. If it fails, or returns text that is not UTF-8, that is logged,
// and the event is counted as dropped for each of the consumer's connections.
func Render(fn func(e Event) ([]byte, error)) EventHandler {
	return EventHandler{kind: handlerRender, render: fn}
}

// RenderBinary is [Render] for a binary message, which need not be UTF-8. An event stream has it in
// base64, in an event that is named grouphub.binary unless it is [EventHandler.Named].
func RenderBinary(fn func(e Event) ([]byte, error)) EventHandler {
	return EventHandler{kind: handlerRender, binary: true, render: fn}
}

// Ignore does nothing with the event, which is known: it is not counted as Unhandled, and not
// logged. It takes a type out of what "*" does.
func Ignore() EventHandler { return EventHandler{kind: handlerIgnore} }

// Handle calls fn for each connection, in the connection's own turn: never at the
// same time as another of its callbacks. In a group with history, the events behind it wait
// until fn has returned, and then a client that says ?resume is told where it is: what fn has
// sent is not replayed to it. An error closes the connection, as for every callback.
func Handle(fn func(c *Conn, e Event) error) EventHandler {
	return EventHandler{kind: handlerHandle, handle: fn}
}

// HandleAs is [Handle] with the event's data decoded into a T. An event that does
// not decode is its sender's mistake: it is logged and counted as dropped, and the
// connection stays.
func HandleAs[T any](fn func(c *Conn, v T) error) EventHandler {
	return Handle(func(c *Conn, e Event) error {
		var v T
		if err := e.Decode(&v); err != nil {
			return &badEventError{err}
		}
		return fn(c, v)
	})
}

// Named returns a copy of the handler that gives what it sends a name, which an event stream
// has in its "event:" field: a page then listens to that name, where unnamed blocks go to
// onmessage. The client of a WebSocket does not see it. Named panics unless the name is one
// that an event's type may have.
func (h EventHandler) Named(event string) EventHandler {
	if err := checkName("Named", event); err != nil {
		panic(err.Error())
	}
	h.name = event
	return h
}

// If returns a copy of the handler that is only for the connections for which fn returns true.
// Others get nothing of the event, as if they were excepted from it, and nothing is counted. fn
// is called for each connection, by the goroutine that then sends the event to all of them: it
// must not block, and it may run at the same time as the connection's callbacks. One that panics
// closes its connection with 1011. Of several, all have to return true.
func (h EventHandler) If(fn func(c *Conn, e Event) bool) EventHandler {
	if before := h.condition; before != nil {
		h.condition = func(c *Conn, e Event) bool { return before(c, e) && fn(c, e) }
	} else {
		h.condition = fn
	}
	return h
}

// badEventError is what a handler returns for an event that its sender got wrong.
type badEventError struct{ error }
