package grouphub

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/gorilla/websocket"
	"github.com/olahol/melody"
	"golang.org/x/time/rate"

	"github.com/seed-29c60982/grouphub/internal/envelope"
	"github.com/seed-29c60982/grouphub/internal/few"
	"github.com/seed-29c60982/grouphub/internal/inbox"
	"github.com/seed-29c60982/grouphub/internal/outbox"
	"github.com/seed-29c60982/grouphub/internal/request"
	"github.com/seed-29c60982/grouphub/internal/sequence"
	"github.com/seed-29c60982/grouphub/internal/strand"
)

// Close codes that this package sends by itself.
const (
	closeGoingAway      = 1001 // Shutdown
	closeAbnormal       = 1006 // never sent: no close frame at all
	closeInvalidData    = 1007 // not UTF-8, or not what ReceiveAs decodes
	closePolicy         = 1008 // more messages than ReceiveRate allows
	closeInternalError  = 1011 // a callback failed
	closeServiceRestart = 1012 // it may have been logged out unnoticed
	closeTryAgainLater  = 1013 // too slow, or the layer is down
	closeUnauthorized   = 4401 // User.Expires has passed
)

const (
	// disconnectTimeout is how long a Disconnect's context lives.
	disconnectTimeout = 5 * time.Second
	// lastWords is how long the messages that a client sent before it closed may
	// keep the connection's context alive.
	lastWords = time.Second
)

// A Consumer says what an endpoint does with its connections. Every function may be
// nil. Connect, Receive, the Handle handlers among Events, Resync and Disconnect of
// one connection never run at the same time, so what is kept with [Conn.Set] needs
// no lock; what the functions capture is shared by all connections, and does. They
// may block: only that connection waits. They may call anything on the Hub and on
// their Conn; Shutdown, which waits for them, only in a goroutine of its own.
//
// A callback that returns an error ends its connection: a [*CloseError] with its
// code, ErrUnavailable and ErrUncertain with 1013, any other error, which is logged,
// with 1011. So does a panic, which is logged with its stack.
type Consumer struct {
	// Accept runs before the upgrade, concurrently with itself. A *Reject picks the
	// HTTP status of the refusal; any other error means 403.
	Accept func(r *http.Request) error

	// Connect runs after the upgrade, unless Shutdown has begun or the user's session
	// has ended by then, and before the first Receive. The request is still being
	// served: what routers and middleware keep with it is there. Afterwards only its
	// URL, path values, headers and context values are.
	Connect func(c *Conn) error

	// Receive gets a client's messages in order. Those that came before the client's
	// close frame are still handled.
	Receive func(c *Conn, m Message) error

	// Disconnect runs exactly once if Connect was called, whatever came of it, with
	// the code of the first close frame, 1005 if that had none, 1006 if there was no
	// frame. The connection has left its groups by then; Groups says which they
	// were. The context has the request's values, is not cancelled, and ends after
	// five seconds.
	Disconnect func(ctx context.Context, c *Conn, code int)

	// Resync is called when events of these groups may have been lost for good. If
	// it is nil the client gets {"type":"resync","group":…} for each.
	Resync func(c *Conn, groups []string)

	// Events says what happens to the events of the connection's groups and channel.
	Events Events

	// Subprotocols are offered in this order of preference. Empty, none is chosen.
	Subprotocols []string
}

// A Message is what a client has sent. The callback owns Data.
type Message struct {
	Data   []byte // UTF-8 unless Binary
	Binary bool
}

// Decode parses the message's JSON into v.
func (m Message) Decode(v any) error {
	if err := json.Unmarshal(m.Data, v); err != nil {
		return fmt.Errorf("grouphub: decode message: %w", err)
	}
	return nil
}

// ReceiveAs makes a Receive of a function that takes decoded JSON. A message that
// does not decode into a T closes its connection with 1007.
func ReceiveAs[T any](fn func(c *Conn, v T) error) func(*Conn, Message) error {
	return func(c *Conn, m Message) error {
		var v T
		if err := m.Decode(&v); err != nil {
			return &CloseError{Code: closeInvalidData, Reason: "message does not decode"}
		}
		return fn(c, v)
	}
}

// A *CloseError is an error by which a callback closes its connection with a code,
// as by [Conn.Close].
type CloseError struct {
	Code   int
	Reason string
}

func (e *CloseError) Error() string {
	return fmt.Sprintf("grouphub: close with %d: %s", e.Code, e.Reason)
}

// A Conn is one client's connection. Its methods may be called from anywhere, also
// concurrently and after the connection has ended.
type Conn struct {
	// Static once Connect is called. What a push needs comes first, close together.
	outbox   outbox.Outbox
	endpoint *endpoint
	channel  string
	hub      *Hub
	strand   strand.Strand
	request  request.Kept
	ctx      context.Context
	cancel   context.CancelFunc
	user     User
	session  *melody.Session
	limiter  *rate.Limiter  // nil: no limit
	expiry   *time.Timer    // nil if the user does not expire
	settled  sync.WaitGroup // until session is set or never will be
	hijacked bool           // outbox is set; owned by the goroutine that upgrades

	connected bool         // Connect is to be called, or was; owned by the strand
	peerCode  atomic.Int32 // of the peer's close frame, 0 if there was none
	finished  atomic.Bool

	mu       sync.Mutex // may be held while a shard's is taken, never the reverse
	ended    bool
	groups   few.Map[*membership] // and Joins under way
	resume   map[string]string    // the id of what the client had last of a group, until it is a member; nil: it wants no positions
	farewell *time.Timer          // ends the connection when its last messages have had their time
}

// Channel returns the connection's name, for [Hub.Send], GroupAdd and [Except]. It is
// unique among all hubs and contains a "!".
func (c *Conn) Channel() string { return c.channel }

// Hub returns the hub that the connection belongs to.
func (c *Conn) Hub() *Hub { return c.hub }

// Request returns the request that was upgraded. Its context is c.Context(), its body
// is empty, and it must not be changed.
func (c *Conn) Request() *http.Request { return c.request.Get() }

// PathValue returns the request's value for a wildcard of the route's pattern.
func (c *Conn) PathValue(name string) string { return c.request.PathValue(name) }

// Context returns a context with the request's values. It is cancelled when the
// connection ends; when the client has closed it properly, only after the messages
// before that have been handled, for which there is a second.
func (c *Conn) Context() context.Context { return c.ctx }

// User returns what [Authenticate] found, the zero User without it.
func (c *Conn) User() User { return c.user }

// Set keeps a value with the connection.
func (c *Conn) Set(key string, value any) { c.session.Set(key, value) }

// Get returns what was kept under a key, and whether something was.
func (c *Conn) Get(key string) (any, bool) { return c.session.Get(key) }

// Subprotocol returns the negotiated one, "" if there is none.
func (c *Conn) Subprotocol() string { return c.session.WebsocketConnection().Subprotocol() }

// Send sends a text message, which must be UTF-8. Like SendBinary and SendJSON it
// copies the data, never waits for the client, and returns nil when the message has
// been given to the kernel or queued; ErrClosed means that it was not, because the
// connection is closing or was too slow.
func (c *Conn) Send(data []byte) error {
	if !utf8.Valid(data) {
		return errors.New("grouphub: send to connection: text is not valid UTF-8")
	}
	return c.send(outbox.Text, data)
}

// SendBinary sends a binary message, as Send does.
func (c *Conn) SendBinary(data []byte) error { return c.send(outbox.Binary, data) }

// SendJSON sends v's JSON as a text message, as Send does.
func (c *Conn) SendJSON(v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("grouphub: send to connection: %w", err)
	}
	return c.Send(data) // json.RawMessage need not be UTF-8
}

func (c *Conn) send(opcode byte, data []byte) error {
	if err := c.outbox.Push(outbox.NewFrame(opcode, data, c.outbox.Deflated())); err != nil {
		return fmt.Errorf("%w: send to connection: %w", ErrClosed, err)
	}
	c.hub.count.delivered.Add(1)
	return nil
}

// Join makes the connection a member of a group. When it returns nil, no event sent
// afterwards by anyone is missed. Joining twice is the same as once. It waits for the layer
// for no longer than five seconds, and ends with the connection's context.
//
// In a group with history, a client that says in its URL where it was, as client.js
// does, gets what it missed first, whatever the options say; of several options the last
// one counts. If something of that is gone, it gets a Resync instead, as it does in a group
// without history. The replay waits for the client to take it, unless a Leave ends it. A
// Join that failed leaves it to the next one.
func (c *Conn) Join(group string, opts ...JoinOption) error {
	if err := checkGroupName("join", group); err != nil {
		return err
	}
	var r sequence.Replay
	for _, o := range opts {
		r = o.replay
	}
	if err := c.hub.join(c.ctx, c, group, r); err != nil {
		return fmt.Errorf("grouphub: join %s: %w", quoted(group), err)
	}
	return nil
}

// Leave ends the membership of a group: events sent after it has returned are not
// pushed, though bytes already queued may still arrive. Leaving a group that the
// connection is not in does nothing.
func (c *Conn) Leave(group string) error {
	if err := checkGroupName("leave", group); err != nil {
		return err
	}
	c.hub.leave(c, group)
	return nil
}

// Groups returns the names of the groups the connection is in, sorted, without its
// user's group; in Disconnect, and afterwards, those it was in at its end.
func (c *Conn) Groups() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	names := []string{}
	for m := range c.groups.All() {
		if m.entered() && !strings.HasPrefix(m.group.name, userPrefix) {
			names = append(names, m.group.name)
		}
	}
	slices.Sort(names)
	return names
}

// Close sends what waits, then a close frame, and does not wait for either. The code
// is 1000, 1001, 1003, 1007 to 1014 or 3000 to 4999, and the reason UTF-8 of at most
// 123 bytes. No callback but Disconnect begins afterwards. The client has CloseTimeout to
// answer, and WriteTimeout more to take what waits. Closing twice is ErrClosed.
func (c *Conn) Close(code int, reason string) error {
	if err := outbox.CheckClose(code, reason); err != nil {
		return fmt.Errorf("grouphub: close connection: %w", err)
	}
	if err := c.outbox.CloseWith(code, reason); err != nil {
		return fmt.Errorf("%w: close connection: %w", ErrClosed, err)
	}
	return nil
}

// What follows is a connection's life: connect, receive, handle, end, finish.

// connect runs Connect on the handler's goroutine. When it returns, the strand runs
// what has come meanwhile.
func (c *Conn) connect() {
	defer c.strand.Release()
	if expires := c.user.Expires; !expires.IsZero() {
		expire := func() { c.outbox.CloseWith(closeUnauthorized, "session expired") }
		c.expiry = time.AfterFunc(time.Until(expires), expire) // stopped after our turn
		if !time.Now().Before(expires) {
			expire()
			c.connected = false
		}
	}
	if c.user.ID != "" && c.connected {
		c.connected = false
		c.call("join the user's group", func() (err error) {
			if err = c.hub.everyone.CatchUp(c.ctx, sequence.Replay{}); err == nil { // or a logout is missed
				err = c.hub.join(c.ctx, c, UserGroup(c.user.ID), sequence.Replay{})
			}
			c.connected = err == nil
			return err
		})
	}
	if fn := c.endpoint.consumer.Connect; fn != nil && c.connected {
		c.call("connect", func() error { return fn(c) })
	}
	c.request.Pack()
}

// receive takes a message from the reader, and waits while another one waits.
func (c *Conn) receive(data []byte, binary bool) {
	if !binary && !utf8.Valid(data) { // gorilla does not look
		c.outbox.CloseWith(closeInvalidData, "text is not valid UTF-8")
		return
	}
	if c.limiter != nil && !c.limiter.Allow() {
		c.outbox.CloseWith(closePolicy, "too many messages")
		return
	}
	c.hub.count.received.Add(1)
	if receive := c.endpoint.consumer.Receive; receive != nil {
		c.strand.Message(func() {
			c.call("receive", func() error { return receive(c, Message{Data: data, Binary: binary}) })
		})
	}
}

// variant says what of the fan-out the connection has in common with others.
func (c *Conn) variant() variant { return variant{c.endpoint, c.outbox.Deflated()} }

// handleAll queues the callbacks that a batch has, and returns the last one's error.
func (c *Conn) handleAll(batch []*delivery) (err error) {
	for _, d := range batch {
		if h := c.endpoint.consumer.Events.handler(d.env.Name); h.kind == handlerHandle && d.env.Kind == envelope.Event {
			e := d.event()
			err = c.queueEvent(len(e.Data)+len(e.Type)+len(e.Group), func() {
				c.call("handle "+quoted(e.Type), func() error { return h.handle(c, e) })
			})
		}
	}
	return err
}

// resync says that events of these groups may be lost.
func (c *Conn) resync(groups []string) {
	c.hub.count.resyncs.Add(1)
	if fn := c.endpoint.consumer.Resync; fn != nil {
		c.queueEvent(16*len(groups), func() { // the names are the groups' own
			c.call("resync", func() error { fn(c, groups); return nil })
		})
		return
	}
	for _, group := range groups {
		// What ends here is a connection that is ending anyway.
		_ = c.SendJSON(Event{Type: "resync", Group: group})
	}
}

// queueEvent queues a callback without waiting. Its errors are those of the outbox's Push.
func (c *Conn) queueEvent(size int, run func()) error {
	ok, full := c.strand.Event(size, run)
	switch {
	case ok:
		return nil
	case !full:
		return outbox.ErrClosed
	case c.outbox.CloseWith(closeTryAgainLater, "too slow") == nil:
		c.hub.count.slowClosed.Add(1)
	}
	c.hub.count.dropped.Add(1)
	return outbox.ErrSlow
}

// call runs a callback and closes the connection as its end demands.
func (c *Conn) call(name string, fn func() error) {
	returned := false
	defer func() {
		if p := recover(); p != nil {
			c.hub.logPanic(p, name, c.channel)
		}
		if !returned { // a panic, or runtime.Goexit, as by a test's FailNow
			c.outbox.CloseWith(closeInternalError, "internal error")
		}
	}()
	if err := fn(); err != nil {
		c.fail(name, err)
	}
	returned = true
}

// fail closes the connection as a callback's error says.
func (c *Conn) fail(name string, err error) {
	var closing *CloseError
	var bad *badEventError
	switch {
	case errors.As(err, &closing):
		if invalid := outbox.CheckClose(closing.Code, ""); invalid != nil {
			c.hub.logger().Error("grouphub: callback returned a bad CloseError", "callback", name, "error", invalid)
			c.outbox.CloseWith(closeInternalError, closing.Reason)
			return
		}
		c.outbox.CloseWith(closing.Code, closing.Reason)
	case errors.As(err, &bad):
		c.hub.count.dropped.Add(1)
		c.hub.logger().Error("grouphub: event dropped", "callback", name, "error", err)
	case errors.Is(err, ErrUnavailable), errors.Is(err, ErrUncertain):
		c.outbox.CloseWith(closeTryAgainLater, "try again later")
	default:
		if c.ctx.Err() == nil {
			c.hub.logger().Error("grouphub: callback failed", "callback", name, "channel", c.channel, "error", err)
		}
		c.outbox.CloseWith(closeInternalError, "internal error")
	}
}

// owner is the Conn as its outbox and its strand see it.
type owner Conn

func (o *owner) Lost(frames int)            { o.hub.count.dropped.Add(uint64(frames)) }
func (o *owner) Spawn(f func())             { o.hub.callbacks.Go(f) }
func (o *owner) Wait(taken <-chan struct{}) { o.outbox.PingUntil(taken) }
func (o *owner) Idle()                      { (*Conn)(o).finish() }
func (o *owner) Limit() int                 { return o.hub.limits.Pending }

func (o *owner) Ending(how outbox.Ending) {
	c := (*Conn)(o)
	if how != outbox.Closed && c.peerCode.Load() != 0 {
		return // the client has closed already: see end
	}
	c.hub.count.dropped.Add(uint64(c.strand.Close()))
	switch how {
	case outbox.Slow:
		c.hub.count.slowClosed.Add(1)
	case outbox.Dead:
		c.cancel()
	}
}

// end is called when the read loop has ended.
func (c *Conn) end() {
	if c.peerCode.Load() != 0 {
		// The client has closed. What it said before that still counts, until this
		// side closes.
		if dropped, ok := c.strand.Drain(); ok {
			c.hub.count.dropped.Add(uint64(dropped))
			c.mu.Lock()
			if !c.ended {
				c.farewell = time.AfterFunc(lastWords, c.finish)
			}
			c.mu.Unlock()
			return
		}
	}
	c.finish()
}

// finish cancels the context, leaves the groups, and queues Disconnect behind the
// callback that runs.
func (c *Conn) finish() {
	if c.finished.Swap(true) {
		return
	}
	c.cancel()
	c.hub.leaveAll(c)
	if c.farewell != nil { // ended is set, so it will not be set any more
		c.farewell.Stop() // or it would keep the connection
	}
	dropped := c.strand.Last(func() {
		defer c.hub.callbacks.Done()
		if c.expiry != nil {
			c.expiry.Stop()
		}
		if fn := c.endpoint.consumer.Disconnect; fn != nil && c.connected {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(c.ctx), disconnectTimeout)
			defer cancel()
			c.call("disconnect", func() error { fn(ctx, c, cmp.Or(c.outbox.Code(), closeAbnormal)); return nil })
		}
	})
	c.hub.count.dropped.Add(uint64(dropped))
}

// read reads messages until that fails. It does so for melody, which would read a
// message whole before it looks at its size, and keep a goroutine for each connection
// that only sends pings.
func (c *Conn) read(conn *websocket.Conn) {
	code := inbox.Read(conn, c.hub.options.MaxMessageSize, c.receive, c.outbox.CloseWith)
	c.peerCode.Store(int32(code))
}
