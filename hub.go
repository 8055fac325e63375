// Package grouphub pushes to browsers from an existing net/http application. It
// gives the application what Django Channels gives Django: WebSocket consumers, a
// channel name for each connection, groups, and a channel layer that carries events
// between processes.
//
// A [Hub] is mounted on any mux. Each connection is served by a [Consumer], joins
// groups, and is sent events by backend code, wherever it runs:
//
//	hub := grouphub.New(nil)
//	mux.Handle("GET /ws/chat/{room}", hub.Handler(grouphub.Consumer{
//		Connect: func(c *grouphub.Conn) error {
//			return c.Join("room:" + c.PathValue("room"))
//		},
//		Events: grouphub.Events{"chat.message": grouphub.Forward()},
//	}))
//	...
//	err := hub.GroupSend(ctx, "room:lobby", "chat.message", message)
//
// # What the package promises
//
//   - Mounting. Any router works, and any middleware that supports
//     http.ResponseController. A plain HTTP request gets 426, a refused origin 403, a
//     full hub and one that shuts down 503, each with one line of text.
//   - Same origin by default. A browser's request from a page of another origin is
//     refused unless [AllowOrigins] names it, and one with two Origins always. Requests
//     without an Origin pass.
//   - Connect is part of the request: it runs before the mounted handler returns.
//   - One at a time, and Disconnect can still act: see [Consumer].
//   - Left means left, joined means joined: see [Conn.Leave] and [Conn.Join].
//   - Order. Events that one goroutine sends to one group, each after the last
//     returned nil, arrive in that order, and all members of a group on one hub see
//     one order; in a group with history all members everywhere do. Forward and Render
//     frames keep it among themselves, Handle calls among themselves; neither waits for
//     the other. There is no order across groups, nor between group events and
//     [Conn.Send].
//   - Senders never wait for receivers. A connection that cannot keep up gets a backlog
//     of MaxPending bytes; past that it is sent 1013 and is cut off CloseTimeout later.
//     No other connection notices. Bytes given to the kernel count as delivered.
//   - Nothing is lost in silence. In a group with history, an event that GroupSend has
//     accepted and the layer kept reaches every member exactly once and in order, across a
//     lost subscription and a client's reconnect, as long as history covers the gap. Where
//     it does not, and in groups without history, Resync tells exactly the connections
//     concerned. Every drop is counted in [Stats]. A failover of Redis may lose an event
//     that no hub has seen: whenever one is noticed, that is a Resync. A subscription that
//     is silently dead is noticed within 15 seconds.
//   - One policy: every process that sends to or joins a group uses the same Policy. Where
//     a hub sees that one does not, it logs an error and counts PolicyMismatch.
//   - Errors are the sender's. Every call that goes through the layer, except Receive,
//     ends with its context or after five seconds, whichever is first, with
//     [ErrUnavailable] or [ErrUncertain] when the layer is down. Sockets stay open; a
//     callback that returns either of them closes its own with 1013.
//   - Text is text: a text message that is not UTF-8 closes its sender with 1007.
//   - A layer belongs to whoever made it: Shutdown closes only one that New made.
//   - Event types without a handler are counted, logged at debug level, and go no further.
//   - A panic in a callback closes that connection with 1011 and is logged with its
//     stack. Every other connection goes on.
//   - Logout works: end the session, then GroupClose(ctx, UserGroup(id), 4401, "logged
//     out"), which reaches a hub that is cut off as soon as it is back. An upgrade that was
//     already authenticated can miss it: [User].Expires is the backstop.
//   - A user's group is nobody else's: only [Authenticate] makes members of it.
//   - Names of groups, channels and events are 1 to 255 bytes of UTF-8 without control
//     characters; anything else is [ErrInvalidName] and nothing happens. What the names
//     of channels mean says [Hub.Send].
//   - Shutdown returns nil when every connection is closed and every callback has
//     returned; no goroutine is left.
package grouphub

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"net/http"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/seed-29c60982/grouphub/internal/envelope"
	"github.com/seed-29c60982/grouphub/internal/lease"
	"github.com/seed-29c60982/grouphub/internal/outbox"
	"github.com/seed-29c60982/grouphub/internal/sequence"
	"github.com/seed-29c60982/grouphub/internal/track"
)

// Options configure a Hub. The zero value of each field is its default, and the
// defaults are safe. New copies them.
type Options struct {
	// Layer connects this hub with others. Nil is a memory layer of the hub's own.
	// A layer given here is not closed by Shutdown and may serve several hubs.
	Layer Layer

	// Consumer is what ServeHTTP serves.
	Consumer Consumer

	// Policy says which groups keep history and presence. Every process that sends to
	// or joins a group must say the same of it, workers included. It is asked often and
	// concurrently. Nil: no group does.
	Policy func(group string) GroupPolicy

	// MaxMessageSize is how many bytes a client may send in one message, inflated
	// if it was compressed; more closes it with 1009. 0: 64 KiB.
	MaxMessageSize int64

	// MaxEventSize is how many bytes an event's JSON may have, type and group
	// included; more is ErrTooLarge for its sender. 0: 1 MiB.
	MaxEventSize int

	// MaxPending is how many bytes may wait for one connection: of frames that its
	// socket does not take, and of events for its callbacks, with 200 more for each.
	// Past it the connection is closed with 1013. 0: 1 MiB.
	MaxPending int

	// MaxConns is how many connections the hub has at the most; one more gets 503
	// with Retry-After. 0: no limit, which leaves it to the file descriptors.
	MaxConns int

	// ReceiveRate is how many messages per second a client may send, averaged over
	// bursts of ReceiveBurst messages; more closes it with 1008. 0: no limit, and a
	// burst of twice the rate.
	ReceiveRate  float64
	ReceiveBurst int

	// A client is sent a ping every PingInterval, 0: 54 s, and is given up if it sends
	// nothing for PongTimeout, 0: 60 s; where one of the two is given, the other is in
	// proportion. One that takes no byte of what waits for it for WriteTimeout, 0: 10 s,
	// is given up too, after twice that at the latest. It has CloseTimeout, 0: 5 s, to
	// answer a close frame, and WriteTimeout more to take what waits before that. All but the
	// pings need a net.Conn that knows deadlines, which a channel of SSH does not.
	PingInterval, PongTimeout, WriteTimeout, CloseTimeout time.Duration

	// Compression offers permessage-deflate. It saves bandwidth for CPU: an event is
	// compressed once per hub, but each client's messages are inflated one by one.
	Compression bool

	// Logger gets what an operator should know. Nil: slog.Default() at the time of
	// each record.
	Logger *slog.Logger
}

// A GroupPolicy says what is kept of a group.
type GroupPolicy struct {
	History    int           // events kept, for those who join later or resume, in at most 16 × MaxEventSize bytes; 0: none
	HistoryTTL time.Duration // how long they are kept after the last one, give or take 20 s; 0: 5 min
	Presence   bool          // Members works
}

// keep returns what the layer is to keep of a group.
func (h *Hub) keep(p GroupPolicy) Keep {
	bytes := 16 * min(h.options.MaxEventSize, math.MaxInt/16)
	return Keep{Count: max(p.History, 0), Bytes: bytes, Life: cmp.Or(max(p.HistoryTTL, 0), 5*time.Minute)}
}

func (h *Hub) policy(group string) GroupPolicy {
	if h.options.Policy == nil {
		return GroupPolicy{}
	}
	return h.options.Policy(group)
}

// withDefaults returns a copy, or an error for what contradicts itself.
func (o *Options) withDefaults() (Options, error) {
	var d Options
	if o != nil {
		d = *o
	}
	for name, value := range map[string]float64{
		"MaxMessageSize": float64(d.MaxMessageSize), "MaxEventSize": float64(d.MaxEventSize),
		"MaxPending": float64(d.MaxPending), "MaxConns": float64(d.MaxConns),
		"ReceiveRate": d.ReceiveRate, "ReceiveBurst": float64(d.ReceiveBurst),
		"PingInterval": float64(d.PingInterval), "PongTimeout": float64(d.PongTimeout),
		"WriteTimeout": float64(d.WriteTimeout), "CloseTimeout": float64(d.CloseTimeout),
	} {
		if !(value >= 0) { // NaN included
			return d, fmt.Errorf("%s is %v", name, value)
		}
	}
	d.MaxMessageSize = cmp.Or(d.MaxMessageSize, 64<<10)
	d.MaxEventSize = cmp.Or(d.MaxEventSize, 1<<20)
	d.MaxPending = cmp.Or(d.MaxPending, 1<<20)
	d.ReceiveBurst = cmp.Or(d.ReceiveBurst, max(1, int(2*d.ReceiveRate)))
	// One of the two alone moves the other along.
	d.PongTimeout = cmp.Or(d.PongTimeout, max(60*time.Second, d.PingInterval/9*10))
	d.PingInterval = cmp.Or(d.PingInterval, d.PongTimeout/10*9)
	d.WriteTimeout = cmp.Or(d.WriteTimeout, 10*time.Second)
	d.CloseTimeout = cmp.Or(d.CloseTimeout, 5*time.Second)
	if d.PingInterval >= d.PongTimeout {
		return d, fmt.Errorf("PingInterval %v is not shorter than PongTimeout %v", d.PingInterval, d.PongTimeout)
	}
	return d, nil
}

// A Hub holds the connections of one process and sends events to their groups. It is
// an http.Handler that serves Options.Consumer; [Hub.Handler] makes more endpoints of
// the same hub. All methods may be called concurrently.
type Hub struct {
	// Static after construction.
	options      Options
	limits       outbox.Limits // of every connection's outbox
	name         string        // unique among all hubs, and part of its channels' names
	layer        Layer
	ownLayer     bool // New made the layer
	subscription Subscription
	root         *endpoint
	life         context.Context // ends with Shutdown
	endLife      context.CancelFunc
	down         chan struct{} // closed when Shutdown has come to its end

	lastConn   atomic.Uint64
	count      counters
	callbacks  *track.Group                    // callbacks that run or wait, and connections that owe a Disconnect
	goroutines *track.Group                    // everything else that the hub has started
	pings      sync.Map                        // of the channels to close, by the token that comes back
	changes    track.Lanes[*envelope.Envelope] // of membership, that other hubs have asked for, by connection
	own        *sequence.Sequence[Publication] // what other hubs tell this one
	everyone   *sequence.Sequence[Publication] // what is told to all hubs
	leases     *lease.Keeper                   // of the groups with presence
	upkeep     func()                          // starts the goroutine that renews and compares, once
	reads      chan struct{}                   // a token for each history that is being read
	unhandled  track.First                     // event types that were logged
	malformed  track.First                     // faults of payloads that were logged

	mu      sync.Mutex
	closing bool // no more upgrades
	seats   int  // connections and upgrades under way
	conns   map[string]*Conn

	groupsMu sync.RWMutex
	groups   map[string]*group
}

// New returns a hub. Nil options are all defaults. It panics if the options contradict
// themselves: a negative limit, a PingInterval that is not shorter than PongTimeout, or
// a Layer that has been closed.
func New(opts *Options) *Hub {
	o, err := opts.withDefaults()
	if err != nil {
		panic("grouphub: New: Options: " + err.Error())
	}
	h := &Hub{
		options:  o,
		name:     rand.Text(),
		layer:    o.Layer,
		ownLayer: o.Layer == nil,
		down:     make(chan struct{}),
		conns:    make(map[string]*Conn),
		groups:   make(map[string]*group),
		reads:    make(chan struct{}, maxReads),
	}
	h.limits = outbox.Limits{Pending: o.MaxPending, PingInterval: o.PingInterval, PongTimeout: o.PongTimeout,
		WriteTimeout: o.WriteTimeout, CloseTimeout: o.CloseTimeout}
	h.life, h.endLife = context.WithCancel(context.Background())
	h.callbacks, h.goroutines = track.NewGroup(), track.NewGroup()
	h.changes.Group, h.changes.Handle = h.goroutines, h.change
	h.leases = lease.New(h.life, h.goroutines, func(ctx context.Context, name string, value []byte, life time.Duration) (bool, error) {
		return h.layer.Lease(ctx, groupTopic(name), h.name, value, life)
	}, h.presenceValue)
	h.upkeep = sync.OnceFunc(func() { h.goroutines.Go(h.keepUp) })
	if h.ownLayer {
		h.layer = NewMemoryLayer()
	}
	h.root = newEndpoint(h, o.Consumer)
	h.own = h.controlSequence(hubTopic(h.name), h.lostOwn)
	h.everyone = h.controlSequence(controlTopic, h.lostEveryone)
	if h.subscription, err = h.layer.Attach(hubTopic(h.name), (*receiver)(h)); err != nil {
		panic("grouphub: New: " + err.Error())
	}
	h.listen()
	if !h.ownLayer { // else there is nothing to compare before the first group
		h.upkeep()
	}
	return h
}

// ServeHTTP serves Options.Consumer.
func (h *Hub) ServeHTTP(w http.ResponseWriter, r *http.Request) { h.root.ServeHTTP(w, r) }

// Handler returns a handler that upgrades requests and serves them with a consumer.
// It returns from a request when Connect has; the connection lives on.
func (h *Hub) Handler(c Consumer) http.Handler { return newEndpoint(h, c) }

// Ping sends a message through the layer to the hub itself and waits for it: nil
// means that events get out and come in. It ends with its context or after five
// seconds.
func (h *Hub) Ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, layerTimeout)
	defer cancel()
	token, back := rand.Text(), make(chan struct{})
	h.pings.Store(token, back)
	defer h.pings.Delete(token)
	topic := hubTopic(h.name)
	send := func() error {
		return h.publish(ctx, topic, (&envelope.Envelope{Kind: envelope.Ping, Name: token}).Encode(), Keep{})
	}
	up := h.subscription.Up()
	err := send()
	if err == nil && !up { // that was too early, as it can be right after New
		if err = h.subscription.Add(ctx, topic); err == nil {
			err = send()
		}
	}
	if err != nil {
		return fmt.Errorf("grouphub: ping: %w", err)
	}
	select {
	case <-back:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("grouphub: ping: sent, and not back in time: %w: %w", ErrUnavailable, ctx.Err())
	case <-h.life.Done():
		return fmt.Errorf("grouphub: ping: %w", ErrClosed)
	}
}

// Stats are what a hub has counted since New, and what it has now.
type Stats struct {
	Conns, Groups                  int    // connections; groups with members here
	Accepted, Rejected             uint64 // upgrades
	Received, Published, Delivered uint64 // client messages in; events accepted by the layer; frames queued to connections
	Dropped                        uint64 // frames and events that did not reach a connection that should have had them, and payloads that made no sense
	Unhandled                      uint64 // events that a connection's consumer has no handler for
	SlowClosed, Resyncs            uint64 // connections closed for slowness, and told to resync
	Recovered                      uint64 // events of groups with history that were missed, and found in it
	PolicyMismatch                 uint64 // unnumbered events received in groups that this hub keeps history of
	LayerUp                        bool
}

// counters are Stats' numbers while they grow.
type counters struct {
	accepted, rejected, received, published, delivered, dropped, unhandled,
	slowClosed, resyncs, recovered, mismatched atomic.Uint64
}

// Stats returns the numbers of this moment, each for itself.
func (h *Hub) Stats() Stats {
	h.mu.Lock()
	conns := len(h.conns)
	h.mu.Unlock()
	h.groupsMu.RLock()
	groups := len(h.groups)
	h.groupsMu.RUnlock()
	n := &h.count
	dropped := n.dropped.Load()
	if l, ok := h.layer.(*RedisLayer); ok {
		dropped += l.redis.Discarded()
	}
	return Stats{
		Conns: conns, Groups: groups,
		Accepted: n.accepted.Load(), Rejected: n.rejected.Load(),
		Received: n.received.Load(), Published: n.published.Load(), Delivered: n.delivered.Load(),
		Dropped: dropped, Unhandled: n.unhandled.Load(),
		SlowClosed: n.slowClosed.Load(), Resyncs: n.resyncs.Load(),
		Recovered: n.recovered.Load(), PolicyMismatch: n.mismatched.Load(),
		LayerUp: h.subscription.Up(),
	}
}

func (h *Hub) logger() *slog.Logger {
	if h.options.Logger != nil {
		return h.options.Logger
	}
	return slog.Default()
}

// logPanic logs what a callback has panicked with. A deferred function calls it.
func (h *Hub) logPanic(p any, callback, channel string) {
	h.logger().Error("grouphub: callback panicked", "callback", callback, "channel", channel,
		"panic", p, "stack", string(debug.Stack()))
}

// admit takes a seat for a connection, which release gives back. Shutdown waits for it:
// an Accept may be running, or an upgrade under way.
func (h *Hub) admit() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closing {
		return &Reject{http.StatusServiceUnavailable, "the server is shutting down"}
	}
	if most := h.options.MaxConns; most > 0 && h.seats >= most {
		return &Reject{http.StatusServiceUnavailable, "too many connections"}
	}
	h.seats++
	h.callbacks.Begin()
	return nil
}

// release gives a seat back. The connection, if it came to one, is over.
func (h *Hub) release(c *Conn) {
	h.mu.Lock()
	h.seats--
	if c != nil {
		delete(h.conns, c.channel)
	}
	h.mu.Unlock()
	h.callbacks.Done()
}

// register makes a connection known. It owes a Disconnect from now on.
func (h *Hub) register(c *Conn) {
	h.callbacks.Begin()
	h.mu.Lock()
	h.conns[c.channel] = c
	closing := h.closing
	h.mu.Unlock()
	if closing { // admitted before Shutdown, upgraded after it
		c.outbox.CloseWith(closeGoingAway, "server is shutting down")
	}
}

// conn returns a connection of this hub, nil if there is none of that name any more.
func (h *Hub) conn(channel string) *Conn {
	h.mu.Lock()
	defer h.mu.Unlock()
	if c := h.conns[channel]; c != nil && !c.finished.Load() {
		return c
	}
	return nil
}

func (h *Hub) connections() []*Conn {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Collect(maps.Values(h.conns))
}

// Shutdown refuses upgrades, closes every connection with 1001, waits for them and for
// all callbacks, and lets go of the layer. The closing is spread over time, half a
// millisecond for each connection but at most ten seconds and half of what ctx
// allows, so that the clients do not come back all at once.
//
// When ctx ends first, the sockets are dropped and its error is returned; then only
// callbacks that have not returned still run, and the members may be listed for another
// minute. http.Server.Shutdown does not wait for
// upgraded connections: call this too, before or after. Further calls wait like the first.
// Every other method is ErrClosed afterwards.
func (h *Hub) Shutdown(ctx context.Context) error {
	h.mu.Lock()
	first := !h.closing
	h.closing = true
	h.mu.Unlock()
	if !first {
		select {
		case <-h.down:
			if err := h.callbacks.Wait(ctx); err != nil {
				return fmt.Errorf("grouphub: shutdown: %w", err)
			}
			return nil
		case <-ctx.Done():
			h.dropSockets()
			return fmt.Errorf("grouphub: shutdown: %w", ctx.Err())
		}
	}
	defer close(h.down)
	track.Spread(ctx, h.connections(), 500*time.Microsecond, 10*time.Second, func(c *Conn) {
		c.outbox.CloseWith(closeGoingAway, "server is shutting down")
	})
	err := h.callbacks.Wait(ctx)
	if err != nil {
		h.dropSockets()
	}
	// Until here callbacks, Disconnect among them, could use the hub.
	h.endLife()
	// What is left ends by itself, and does not wait for callbacks: read loops of dead
	// sockets, workers, and last words to the layer.
	defer h.leases.End(ctx)()
	h.goroutines.Wait(context.Background())
	for err == nil && h.callbacks.Wait(track.Over) != nil { // a worker has begun a Render meanwhile
		err = h.callbacks.Wait(ctx)
		h.goroutines.Wait(context.Background())
	}
	h.subscription.Close()
	if h.ownLayer {
		h.layer.Close()
	}
	if err != nil {
		return fmt.Errorf("grouphub: shutdown: %w", err)
	}
	return nil
}

func (h *Hub) dropSockets() {
	for _, c := range h.connections() {
		c.outbox.Kill()
	}
}

// alive returns ErrClosed after Shutdown.
func (h *Hub) alive() error {
	if h.life.Err() != nil {
		return ErrClosed
	}
	return nil
}
