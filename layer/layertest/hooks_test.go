package layertest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-29c60982/grouphub/internal/memory"
	"github.com/seed-29c60982/grouphub/layer"
)

// A server is a memory layer that many connections share, and that can fail. Its
// connections are layers that do what package layer says, but for the fault they are given.
type server struct {
	faults serverFaults

	mu            sync.Mutex
	store         *memory.Layer
	up            bool
	resumed       chan struct{} // closed while the server answers
	subscriptions []*connectionSubscription
}

// serverFaults are the mistakes that a connection may make when its server fails.
type serverFaults struct {
	neverLost      bool // Lost is not called
	onlyGroupsLost bool // Lost does not name the hub's own topic
	earlyLost      bool // Lost is called before publications arrive again
	silentSend     bool // a send without a server returns nil
	upWithout      bool // Up is true without a server
	takeFails      bool // Take returns an error while the server is away
	noLimit        bool // a call waits for the server without a limit
	unsafe         bool // a send that the stalled server took returns ErrUnavailable
	samePositions  bool // what was sent after a loss has the positions of what was lost
}

func newServer(faults serverFaults) *server {
	s := &server{faults: faults, store: memory.New(), up: true, resumed: make(chan struct{})}
	close(s.resumed)
	return s
}

func (s *server) hooks() Hooks {
	return Hooks{
		Stop:     s.stop,
		Start:    func() { s.start(false) },
		Stall:    s.stall,
		Resume:   s.resume,
		LoseLast: func(run func()) { run(); s.stop(); s.start(true) },
	}
}

func (s *server) stall() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.resumed = make(chan struct{})
}

func (s *server) resume() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.resumed)
}

func (s *server) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.up = false
}

// start begins with an empty store if empty says so.
func (s *server) start(empty bool) {
	s.mu.Lock()
	if empty {
		s.store.Close()
		s.store = memory.New()
	}
	s.up = true
	s.mu.Unlock()
	for _, c := range s.subscriptions {
		c.restored(empty)
	}
}

// call runs fn on the store, when the server answers.
func (s *server) call(ctx context.Context, fn func(store *memory.Layer) error) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	s.mu.Lock()
	up, resumed, store := s.up, s.resumed, s.store
	s.mu.Unlock()
	if !up {
		if s.faults.silentSend {
			return nil
		}
		return fmt.Errorf("%w: the server is away", layer.ErrUnavailable)
	}
	if s.faults.noLimit {
		<-resumed
	}
	select {
	case <-resumed:
		return fn(store)
	default:
	}
	select {
	case <-resumed:
		return fn(store)
	case <-ctx.Done():
		if s.faults.unsafe {
			go func() { <-resumed; fn(store) }() // the server has it, and does it later
		}
		return fmt.Errorf("%w: %w", layer.ErrUnavailable, ctx.Err())
	}
}

// connect returns a layer on the server.
func (s *server) connect() layer.Layer {
	l := newFaultyLayer(s.store)
	l.publish = func(ctx context.Context, p layer.Publication) error {
		return s.call(ctx, func(store *memory.Layer) error { return store.Publish(ctx, p) })
	}
	l.history = func(ctx context.Context, topic string, after uint64) (h layer.History, err error) {
		err = s.call(ctx, func(store *memory.Layer) error { h, err = store.History(ctx, topic, after); return err })
		return h, err
	}
	l.positionsOf = func(ctx context.Context, topics []string) (positions []layer.Position, err error) {
		err = s.call(ctx, func(store *memory.Layer) error { positions, err = store.Positions(ctx, topics); return err })
		return positions, err
	}
	l.lease = func(ctx context.Context, topic, holder string, change layer.LeaseChange) (ok bool, err error) {
		err = s.call(ctx, func(store *memory.Layer) error { ok, err = store.Lease(ctx, topic, holder, change); return err })
		return ok, err
	}
	l.leases = func(ctx context.Context, topic string, known map[string]uint64) (leases map[string]layer.Lease, err error) {
		err = s.call(ctx, func(store *memory.Layer) error { leases, err = store.Leases(ctx, topic, known); return err })
		return leases, err
	}
	l.appendTo = func(ctx context.Context, queue string, message []byte) error {
		return s.call(ctx, func(store *memory.Layer) error { return store.Append(ctx, queue, message) })
	}
	l.take = func(ctx context.Context, queue string) ([]byte, error) {
		s.mu.Lock()
		up, store := s.up, s.store
		s.mu.Unlock()
		if !up && s.faults.takeFails {
			return nil, layer.ErrUnavailable
		}
		return store.Take(ctx, queue)
	}
	l.attach = s.attach
	if s.faults.samePositions {
		l.positions(func(at *layer.Position) { at.Epoch, at.Nonce = "epoch", fmt.Sprint(at.Number) })
	}
	return l
}

func (s *server) attach(hub string, r layer.Receiver) (layer.Subscription, error) {
	c := &connectionSubscription{server: s, hub: hub, receiver: r, topics: []string{hub}}
	var err error
	if c.Subscription, err = s.store.Attach(hub, c); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.subscriptions = append(s.subscriptions, c)
	return c, nil
}

// A connectionSubscription passes on what arrives while the server is up.
type connectionSubscription struct {
	layer.Subscription
	server   *server
	hub      string
	receiver layer.Receiver
	topics   []string
}

func (c *connectionSubscription) Ready(ctx context.Context, topic string) error {
	return c.receiver.Ready(ctx, topic)
}

func (c *connectionSubscription) Deliver(p layer.Publication) { c.receiver.Deliver(p) }
func (c *connectionSubscription) Lost([]string)               {}

func (c *connectionSubscription) Add(ctx context.Context, topics ...string) error {
	return c.server.call(ctx, func(*memory.Layer) error {
		c.topics = append(c.topics, topics...)
		return c.Subscription.Add(ctx, topics...)
	})
}

func (c *connectionSubscription) Up() bool {
	c.server.mu.Lock()
	defer c.server.mu.Unlock()
	return c.server.up || c.server.faults.upWithout
}

// restored subscribes again, if the store is another one, and says what may have been lost.
func (c *connectionSubscription) restored(empty bool) {
	faults := c.server.faults
	topics := slices.Clone(c.topics)
	if faults.onlyGroupsLost {
		topics = slices.DeleteFunc(topics, func(topic string) bool { return topic == c.hub })
	}
	if faults.earlyLost {
		c.receiver.Lost(topics)
		c.Subscription.Close()
		return
	}
	if empty {
		c.Subscription, _ = c.server.store.Attach(c.hub, c)
		c.Subscription.Add(context.Background(), c.topics...)
	}
	if !faults.neverLost {
		c.receiver.Lost(topics)
	}
}

func (s *server) pair() pair {
	a, b := s.connect().(*faultyLayer), s.connect().(*faultyLayer)
	a.close = func() error { return s.store.Close() }
	b.close = func() error { return nil }
	return pair{a, b, s.hooks()}
}

func TestALayerWhoseServerFailsPasses(t *testing.T) {
	for _, c := range hookCases {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { runCase(t, c, newServer(serverFaults{}).pair) })
		})
	}
}

func TestEveryFaultOfALayerWhoseServerFailsIsFound(t *testing.T) {
	for _, fault := range []struct {
		name   string
		caught string
		faults serverFaults
	}{
		{"Lost is never called", "TheServerGoesAwayAndEveryTopicIsLost", serverFaults{neverLost: true}},
		{"Lost leaves the hub's own topic out", "TheServerGoesAwayAndEveryTopicIsLost", serverFaults{onlyGroupsLost: true}},
		{"Lost is called before publications arrive again", "TheServerGoesAwayAndEveryTopicIsLost", serverFaults{earlyLost: true}},
		{"a send without a server is no error", "TheServerGoesAwayAndEveryTopicIsLost", serverFaults{silentSend: true}},
		{"Up is true without a server", "TheServerGoesAwayAndEveryTopicIsLost", serverFaults{upWithout: true}},
		{"Take does not wait for the server", "TakeWaitsWhileTheServerIsAway", serverFaults{takeFails: true}},
		{"calls wait for the server without a limit", "CallsEndThoughTheServerDoesNotAnswer", serverFaults{noLimit: true}},
		{"ErrUnavailable for what the server does later", "CallsEndThoughTheServerDoesNotAnswer", serverFaults{unsafe: true}},
		{"a position is given out again", "TheServerLosesWritesAndNoPositionIsGivenOutTwice", serverFaults{samePositions: true}},
	} {
		t.Run(fault.name, func(t *testing.T) {
			i := slices.IndexFunc(hookCases, func(c testCase) bool { return c.name == fault.caught })
			expectFound(t, hookCases[i], newServer(fault.faults).pair)
		})
	}
}

func TestACaseWithoutItsHookIsSkipped(t *testing.T) {
	run(t, hookCases, withoutHooks(memoryPair))
}
