package grouphub

import (
	"context"
	"encoding/base64"
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

	"github.com/olahol/melody"

	"github.com/seed-29c60982/grouphub/internal/eventstream"
	"github.com/seed-29c60982/grouphub/internal/frame"
	"github.com/seed-29c60982/grouphub/internal/outbox"
	"github.com/seed-29c60982/grouphub/internal/sequence"
	"github.com/seed-29c60982/grouphub/internal/strand"
)

// A Conn is one client's connection. Its methods may be called from anywhere, also
// concurrently and after the connection has ended.
type Conn struct {
	// Static once Connect is called. What a push needs comes first, close together.
	outbox     outbox.Outbox
	endpoint   *endpoint
	channel    string
	hub        *Hub
	strand     strand.Strand
	request    keptRequest
	ctx        context.Context
	cancel     context.CancelFunc
	session    *melody.Session // nil in an event stream
	stream     *stream         // nil in a WebSocket
	subscriber *subscriber     // nil if there is a client
	upgraded   sync.WaitGroup  // until the upgrade has set session, or has failed

	user connUser // has a lock of its own

	wantsPositions bool         // static: the client is to be told where it is in groups with history
	connected      bool         // Connect is to be called, or was; owned by the goroutine of the callbacks
	hijacked       bool         // outbox is set; owned by the goroutine that upgrades
	peerCode       atomic.Int32 // of the peer's close frame, 0 if there was none
	finished       atomic.Bool

	mu         sync.Mutex // may be held while a shard's is taken, never the reverse
	ended      bool       // no more memberships
	groups     memberships
	resume     map[string]string // for each group that is not joined yet, the id of the last event that the client had
	drainTimer *time.Timer       // ends a connection that its client has closed; see drainTimeout
}

// Channel returns the connection's name, for [Hub.Send], GroupAdd and [Except]. It is
// unique among all hubs and contains a "!".
func (c *Conn) Channel() string { return c.channel }

// Hub returns the hub that the connection belongs to.
func (c *Conn) Hub() *Hub { return c.hub }

// Request returns the request that was upgraded. Its context is c.Context(), its body
// is empty, and it must not be changed.
func (c *Conn) Request() *http.Request { return c.request.get() }

// PathValue returns the request's value for a wildcard of the route's pattern. Routers other
// than net/http's may have to be asked for it: docs/frameworks.md shows how. A name that the route
// does not have is logged as an error, once, and its value is empty.
func (c *Conn) PathValue(name string) string {
	value := c.request.pathValue(name)
	if value == "" {
		c.hub.checkWildcard(c.request.pattern(), name)
	}
	return value
}

// Context returns a context with the request's values. It is cancelled when the
// connection ends, which is noticed within PongTimeout, also while a callback blocks and
// messages of the client wait. When the client has closed it properly, it is cancelled only
// after the messages before that have been handled, for which there is a second.
//
// The values are those of the context that the hub was given with the request. If that is a
// framework's own, which is used again for another request, they are that request's later;
// except the User, which stays.
func (c *Conn) Context() context.Context { return c.ctx }

// Set keeps a value under a key with the connection.
func (c *Conn) Set(key string, value any) {
	if c.stream != nil {
		c.stream.set(key, value)
		return
	}
	c.session.Set(key, value)
}

// Get returns the value that is kept under a key, and whether there is one.
func (c *Conn) Get(key string) (any, bool) {
	if c.stream != nil {
		return c.stream.get(key)
	}
	return c.session.Get(key)
}

// Stream reports whether the connection is an event stream, and not a WebSocket. What its
// client sends comes by POST, and binary messages to it are in base64.
func (c *Conn) Stream() bool { return c.stream != nil }

// Subprotocol returns the subprotocol that was negotiated, "" if there is none. One that has a
// token for [Bearer] is none.
func (c *Conn) Subprotocol() string {
	if c.stream != nil {
		return ""
	}
	if protocol := c.session.WebsocketConnection().Subprotocol(); !isBearerProtocol(protocol) {
		return protocol
	}
	return ""
}

// Send sends a text message, which must be UTF-8. Like SendBinary and SendJSON it
// copies the data, never waits for the client, and returns nil when the message has
// been given to the kernel or queued; ErrClosed means that it was not, because the
// connection is closing or was too slow.
func (c *Conn) Send(data []byte) error {
	if !utf8.Valid(data) {
		return errNotUTF8
	}
	return c.send(frame.Text, data)
}

var errNotUTF8 = errors.New("grouphub: send to connection: text is not valid UTF-8")

// SendBinary sends a binary message, as Send does.
func (c *Conn) SendBinary(data []byte) error { return c.send(frame.Binary, data) }

// SendJSON sends v's JSON as a text message, as Send does.
func (c *Conn) SendJSON(v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("grouphub: send to connection: %w", err)
	}
	return c.Send(data) // which checks for UTF-8, as a json.RawMessage need not be that
}

func (c *Conn) send(opcode byte, data []byte) error {
	if err := c.outbox.Push(c.newFrame(opcode, data)); err != nil {
		return fmt.Errorf("%w: send to connection: %w", ErrClosed, err)
	}
	c.hub.count.delivered.Add(1)
	return nil
}

// SendWait sends a text message as Send does, except that it waits for room where Send would
// have the connection closed for being slow. It returns nil when the message has been given to
// the kernel or waits with no more than MaxPending bytes in all, or when nothing else waits if
// it is larger than that alone; the error of ctx; or ErrClosed. So a backlog of any size reaches
// a slow client that keeps reading. The messages of calls that wait at the same time get room in
// the order of the calls. Events of groups have their own limit beside them.
//
// A callback that waits here keeps the connection's other callbacks waiting. It is not waited for
// in vain: the end of the connection, Close and Shutdown end the wait.
func (c *Conn) SendWait(ctx context.Context, data []byte) error {
	if !utf8.Valid(data) {
		return errNotUTF8
	}
	err := c.outbox.PushWait(ctx, c.newFrame(frame.Text, data))
	switch {
	case errors.Is(err, outbox.ErrClosed):
		return fmt.Errorf("%w: send to connection: %w", ErrClosed, err)
	case err != nil:
		return fmt.Errorf("grouphub: send to connection: wait for room: %w", err)
	}
	c.hub.count.delivered.Add(1)
	return nil
}

// newFrame returns a message as the connection's client is to get it.
func (c *Conn) newFrame(opcode byte, data []byte) []byte {
	switch {
	case c.stream == nil:
		return frame.New(opcode, data, c.outbox.Deflated())
	case opcode == frame.Binary:
		return eventstream.AppendBlock(nil, eventstream.Binary, base64.StdEncoding.AppendEncode(nil, data), "")
	default:
		return eventstream.AppendBlock(nil, "", data, "")
	}
}

// Join makes the connection a member of a group. When it returns nil, no event sent
// afterwards by anyone is missed; one that was sent shortly before, also by the callback that
// joins, may still arrive if the layer is not in memory. Joining twice is the same as joining once. It waits for
// the layer for no longer than five seconds, and ends with the connection's context.
//
// In a group with history, a client that says in its URL where it was, as client.js
// does, first gets what it missed, whatever the options say. If some of that is gone, it
// gets a Resync instead, as it does in a group without history. So does an EventSource that comes
// back; a group that it was not in is new to it. Any other client, and in a group that is new
// every client, first gets what the last of the options says. The replay waits for the client to take it, unless a
// Leave ends it. What Handle functions have no room for yet, within MaxPending, follows when
// they have run, which may be after Join has returned: it may be called by one of them. After
// a Join that failed, the next one replays.
//
// In a group with a Snapshot the client first gets
// {"type":"snapshot","group":…,"id":…,"data":…}, through the consumer's Events like any event,
// so that a consumer without an entry for it sends none. The id, a position to resume from, is
// there in a group with history. What was sent after the position follows. The state is
// loaded a moment later, so an event can repeat what the snapshot has. A resume, or an [After],
// that the history covers spares the client the snapshot, and [Last] means nothing. Where events
// are lost for the connection later, it gets another snapshot in place of a Resync, and nothing
// of the group in between.
//
// The connection is a member while Join waits for the snapshot. A load has three tries within
// ten seconds. If it fails, Join returns an error that wraps [ErrUnavailable], and the
// connection is no member; one that waits for a snapshot without a Join is closed with 1013.
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
// pushed, though bytes already queued may still arrive. In a group with history no Handle
// call begins any more. Leaving a group that the connection is not in does nothing. A client
// that asked for positions is told by {"type":"grouphub.left","group":…} that the one in a
// group with history has ended.
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
	for m := range c.groups.all() {
		if m.entered() && !strings.HasPrefix(m.group.name, userPrefix) {
			names = append(names, m.group.name)
		}
	}
	slices.Sort(names)
	return names
}

// In reports whether the connection is in a group, its user's included; in Disconnect, and
// afterwards, whether it was at its end.
func (c *Conn) In(group string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.groups.get(group).entered()
}

// Close sends what waits, then a close frame, and does not wait for either. The code
// is 1000, 1001, 1003, 1007 to 1013 or 3000 to 4999, and the reason UTF-8 of at most
// 123 bytes. No callback but Disconnect begins afterwards. The client has CloseTimeout to
// answer, and WriteTimeout more to take what waits. Closing twice is ErrClosed.
func (c *Conn) Close(code int, reason string) error {
	if err := frame.CheckClose(code, reason); err != nil {
		return fmt.Errorf("grouphub: close connection: %w", err)
	}
	if err := c.outbox.CloseWith(code, reason); err != nil {
		return fmt.Errorf("%w: close connection: %w", ErrClosed, err)
	}
	return nil
}
