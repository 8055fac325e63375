package grouphub

import (
	"context"
	"crypto/rand"
	"fmt"
	"iter"
	"maps"
	"math"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/seed-29c60982/grouphub/internal/envelope"
	"github.com/seed-29c60982/grouphub/internal/outbox"
	"github.com/seed-29c60982/grouphub/internal/sequence"
	"github.com/seed-29c60982/grouphub/layer"
)

// A Hub holds the connections of one process and sends events to their groups. It is
// an http.Handler that serves Options.Consumer; [Hub.Handler] makes more endpoints of
// the same hub. All methods may be called concurrently.
type Hub struct {
	// Static after construction.
	options      Options
	limits       outbox.Limits // of every WebSocket's outbox
	streamLimits outbox.Limits // of every event stream's outbox
	name         string        // unique among all hubs, and part of its channels' names
	layer        Layer
	positioner   layer.Positioner // the layer; nil if it is none
	ownLayer     bool             // New made the layer
	subscription Subscription
	fullShard    int32           // defaultFullShard, except in tests
	root         *endpoint       // serves Options.Consumer
	subscribers  *endpoint       // of the members for Subscribe
	life         context.Context // ends with Shutdown
	endLife      context.CancelFunc
	down         chan struct{} // closed when Shutdown has come to its end

	heartbeatLimits sync.Map // of *outbox.Limits, by seconds: the limits for connections with heartbeats

	lastConn   atomic.Uint64 // number of the connection that was made last
	streams    atomic.Int64  // event streams among the connections
	count      counters
	callbacks  *waitGroup // callbacks that run or wait, and connections that owe a Disconnect
	goroutines *waitGroup // everything else that the hub has started
	unhandled  seenKeys   // event types that were logged
	malformed  seenKeys   // faults of payloads that were logged
	wildcards  seenKeys   // names of path values that a route did not have, and that were logged

	answers            sync.Map                        // the channels that wait for the status of a post, by the token that comes back
	pings              sync.Map                        // the channels to close, by the token that comes back
	hubCommands        *sequence.Sequence[Publication] // that other hubs send to this one
	sharedCommands     *sequence.Sequence[Publication] // that are sent to all hubs
	membershipCommands membershipCommands
	lostEpochs         lostEpochs    // of sharedCommands
	closes             closeOrder    // of groups without history
	leases             *leaseKeeper  // of the groups with presence
	hubLeases          *hubLeases    // of the hubs themselves
	startUpkeep        func()        // starts the goroutine that runs upkeep, once
	reads              chan struct{} // holds a token for each history that is being read

	loads    context.Context // of the loads of snapshots; ends when Shutdown begins
	endLoads context.CancelFunc
	loading  sync.Map // of channels that are closed when the load that runs for a group has returned, by its name

	mu      sync.Mutex
	closing bool // no more upgrades
	seats   int  // connections and upgrades under way
	conns   map[string]*Conn

	subscriptions map[*Conn]struct{} // of Subscribe

	groupsMu sync.RWMutex
	groups   map[string]*group
	turns    upkeepTurns // of the groups that need upkeep
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
		options: o,
		limits: outbox.Limits{Pending: o.MaxPending, PingInterval: o.PingInterval, PongTimeout: o.PongTimeout,
			WriteTimeout: o.WriteTimeout, CloseTimeout: o.CloseTimeout,
			ReceiveRate: o.ReceiveRate, ReceiveBurst: o.ReceiveBurst},
		name:       rand.Text(),
		layer:      o.Layer,
		ownLayer:   o.Layer == nil,
		fullShard:  defaultFullShard,
		down:       make(chan struct{}),
		callbacks:  newWaitGroup(),
		goroutines: newWaitGroup(),
		reads:      make(chan struct{}, maxReads),
		conns:      make(map[string]*Conn),
		groups:     make(map[string]*group),
	}
	if h.ownLayer {
		h.layer = NewMemoryLayer()
	}
	h.layer = bounded(h.layer)
	h.positioner = positioner(h.layer)
	h.life, h.endLife = context.WithCancel(context.Background())
	h.loads, h.endLoads = context.WithCancel(context.Background())
	h.membershipCommands.hub = h
	h.lostEpochs.hub = h
	h.closes.hub = h
	h.leases = newLeaseKeeper(h)
	h.hubLeases = newHubLeases(h)
	h.startUpkeep = sync.OnceFunc(func() { h.goroutines.Go(h.upkeep) })
	h.streamLimits = h.limits
	h.streamLimits.PingInterval = min(o.PingInterval, maxComment)
	h.streamLimits.PongTimeout = math.MaxInt64 // the client of a stream says nothing
	h.root = newEndpoint(h, o.Consumer)
	h.subscribers = newSubscribers(h)
	h.hubCommands = h.commandSequence(hubTopic(h.name), h.hubCommandsLost, nil)
	h.sharedCommands = h.commandSequence(controlTopic, h.sharedCommandsLost, h.lostEpochs.lostHere)
	if h.subscription, err = h.layer.Attach(hubTopic(h.name), (*receiver)(h)); err != nil {
		panic("grouphub: New: " + err.Error())
	}
	h.subscribeToCommands()
	h.hubLeases.renew()
	if !h.ownLayer { // in the hub's own layer there is nothing to compare before the first group
		h.startUpkeep()
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
	if err == nil && !up { // it was sent before the subscription was confirmed, as can happen right after New
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

// policy asks Options.Policy. It may not be called with a lock held.
func (h *Hub) policy(group string) GroupPolicy {
	if h.options.Policy == nil {
		return GroupPolicy{}
	}
	policy := h.options.Policy(group)
	policy.Presence = policy.Presence || policy.Announce
	return policy
}

// publish hands an encoded envelope to the layer.
func (h *Hub) publish(ctx context.Context, topic string, payload []byte, keep Keep) error {
	return h.publishTo(ctx, h.layer, topic, payload, keep)
}

func (h *Hub) publishTo(ctx context.Context, to layer.Publisher, topic string, payload []byte, keep Keep) error {
	if err := h.alive(); err != nil {
		return err
	}
	return to.Publish(ctx, Publication{Topic: topic, Payload: payload, Keep: keep})
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
	h.callbacks.begin()
	return nil
}

// release gives a seat back. The connection, if there came to be one, is over.
func (h *Hub) release(c *Conn) {
	h.mu.Lock()
	h.seats--
	if c != nil {
		delete(h.conns, c.channel)
	}
	h.mu.Unlock()
	h.callbacks.done()
}

// register makes a connection known. It owes a Disconnect from now on.
func (h *Hub) register(c *Conn) {
	h.callbacks.begin()
	h.mu.Lock()
	h.conns[c.channel] = c
	closing := h.closing
	h.mu.Unlock()
	if closing { // it was admitted before Shutdown, and upgraded after it
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

// Conns returns this hub's connections, as they are when the iteration begins. Connect may not
// have run yet for some of them, and some may have ended meanwhile.
func (h *Hub) Conns() iter.Seq[*Conn] {
	return func(yield func(*Conn) bool) {
		for _, c := range h.connections() {
			if !c.finished.Load() && !yield(c) {
				return
			}
		}
	}
}

func (h *Hub) connections() []*Conn {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Collect(maps.Values(h.conns))
}
