package grouphub

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	mathrand "math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/redis/rueidis"
)

var (
	errSilentSubscription = errors.New("no heartbeat came through")
	errMovedHeartbeat     = errors.New("the heartbeat's slot has moved")
	errNoNode             = errors.New("no node to connect to")
)

// A redisSubscription is what one hub is subscribed to. The connections, links, do the
// work, each in a goroutine that is the only one to send on it. There is one; in a
// Cluster with sharded pub/sub there is one for each master.
type redisSubscription struct {
	layer    *RedisLayer
	kind     string // of the keys that are the channels
	hub      string
	receiver Receiver
	ctx      context.Context // ends with the subscription
	cancel   context.CancelFunc
	reroute  chan struct{} // has room for one: topics have no link

	mu     sync.Mutex             // never held across I/O or a call of the receiver
	topics map[string]*redisTopic // by channel
	links  map[string]*redisLink  // by node; "" is any
	limbo  *redisLink             // runs nothing, and has the topics whose node is unknown
	owners map[uint16]string      // node by slot, where there are such links
}

// A redisTopic is in use while somebody has added it or waits for that. It may outlive
// its use until the link has unsubscribed. Guarded by redisSubscription.mu.
type redisTopic struct {
	name, channel string
	link          *redisLink
	added         bool         // an Add has returned, and no Remove since
	waiters       []*redisWait // of each Add that has not returned
	sent          bool         // subscribed to on the present connection, perhaps not confirmed
	confirmed     bool         // publications arrive
	leaving       bool         // being unsubscribed from
	lost          bool         // was confirmed and interrupted; the receiver has not been told
}

func (t *redisTopic) used() bool { return t.added || len(t.waiters) > 0 }

// redisWait is an Add that waits for confirmations.
type redisWait struct {
	missing int           // guarded by redisSubscription.mu
	err     error         // likewise: the server refused
	changed chan struct{} // has room for one
}

// notify leaves a signal in a channel that has room for one.
func notify(signal chan struct{}) {
	select {
	case signal <- struct{}{}:
	default:
	}
}

// subscribeLocked starts a subscription, which tries to connect until it is closed.
func (l *RedisLayer) subscribeLocked(kind, hub string, r Receiver) *redisSubscription {
	s := &redisSubscription{layer: l, kind: kind, hub: hub, receiver: r, reroute: make(chan struct{}, 1),
		topics: make(map[string]*redisTopic), links: make(map[string]*redisLink)}
	s.ctx, s.cancel = context.WithCancel(l.ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limbo = s.newLink("")
	home := s.limbo
	if l.sharded && l.cluster {
		s.owners = make(map[uint16]string)
		l.running.Go(s.route)
	} else {
		home = s.startLocked("")
	}
	l.subscriptions[s] = struct{}{}
	own := s.addLocked(l.key(kind, hub), hub, home)
	own.added = true
	own.setLost(true) // there is no subscription before this one is in force
	return s
}

// Add implements [Subscription].
func (s *redisSubscription) Add(ctx context.Context, topics ...string) error {
	ctx, cancel := context.WithTimeout(ctx, layerTimeout)
	defer cancel()
	wait := &redisWait{changed: make(chan struct{}, 1)}
	s.mu.Lock()
	added := make([]*redisTopic, 0, len(topics))
	for _, name := range topics {
		channel := s.layer.key(s.kind, name)
		t := s.topics[channel]
		if t == nil {
			t = s.addLocked(channel, name, s.homeLocked(channel))
		}
		if !t.confirmed {
			wait.missing++
		}
		t.waiters = append(t.waiters, wait)
		added = append(added, t)
	}
	if wait.missing == 0 {
		notify(wait.changed)
	}
	s.mu.Unlock()

	var err error
	for done := false; !done; {
		select {
		case <-wait.changed:
		case <-ctx.Done():
			err = fmt.Errorf("%w: subscribe to %.300q: %w", ErrUnavailable, topics, ctx.Err())
		case <-s.ctx.Done():
			err = fmt.Errorf("%w: subscribe to %.300q", ErrClosed, topics)
		}
		s.mu.Lock()
		if s.ctx.Err() == nil && wait.err != nil {
			err = fmt.Errorf("%w: subscribe to %.300q: %w", ErrUnavailable, topics, wait.err)
		}
		if done = err != nil || wait.missing == 0; done {
			for _, t := range added {
				i := slices.Index(t.waiters, wait)
				t.waiters = slices.Delete(t.waiters, i, i+1)
				if err == nil {
					t.added = true
				} else if !t.used() {
					s.forgetLocked(t)
				}
			}
		}
		s.mu.Unlock()
	}
	return err
}

// homeLocked returns the link for a new topic. Where nodes have their slots the router
// knows better.
func (s *redisSubscription) homeLocked(channel string) *redisLink {
	node := ""
	if s.owners != nil {
		node = s.owners[s.layer.slot(channel)]
	}
	if k := s.links[node]; k != nil {
		return k
	}
	return s.limbo
}

func (s *redisSubscription) addLocked(channel, name string, home *redisLink) *redisTopic {
	t := &redisTopic{name: name, channel: channel, link: s.limbo}
	s.topics[channel] = t
	t.move(home)
	return t
}

// move gives the topic to a link, which is to subscribe to it.
func (t *redisTopic) move(to *redisLink) {
	if t.lost && !t.confirmed {
		t.link.addMissing(-1)
		to.addMissing(1)
	}
	t.link, t.sent, t.leaving = to, false, false
	to.todo = append(to.todo, t)
	notify(to.wake)
	if to == to.s.limbo {
		notify(to.s.reroute)
	}
}

// setConfirmed notes that publications arrive, or no longer do.
func (t *redisTopic) setConfirmed(confirmed bool) {
	if t.confirmed == confirmed {
		return
	}
	t.confirmed = confirmed
	d := 1
	if confirmed {
		d = -1
	}
	for _, wait := range t.waiters {
		wait.missing += d
		if wait.missing == 0 {
			notify(wait.changed)
		}
	}
	if t.lost {
		t.link.addMissing(d)
	}
}

func (t *redisTopic) setLost(lost bool) {
	if t.lost != lost && !t.confirmed {
		if lost {
			t.link.addMissing(1)
		} else {
			t.link.addMissing(-1)
		}
	}
	t.lost = lost
}

// interrupt notes that the subscription has ended by itself.
func (t *redisTopic) interrupt() {
	if t.confirmed {
		t.setConfirmed(false)
		if t.used() {
			t.setLost(true)
		}
	}
	t.sent, t.leaving = false, false
}

// Remove implements [Subscription].
func (s *redisSubscription) Remove(topics ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range topics {
		if t := s.topics[s.layer.key(s.kind, name)]; t != nil && t.added {
			t.added = false
			if !t.used() {
				s.forgetLocked(t)
			}
		}
	}
}

// forgetLocked gives up a topic that is no longer used: now, or when the link has
// unsubscribed from it.
func (s *redisSubscription) forgetLocked(t *redisTopic) {
	t.setLost(false)
	switch {
	case s.topics[t.channel] != t || t.leaving:
	case t.sent:
		t.link.unused = append(t.link.unused, t)
		notify(t.link.wake)
	default:
		delete(s.topics, t.channel)
	}
}

// Up implements [Subscription].
func (s *redisSubscription) Up() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil || s.limbo.missing > 0 {
		return false
	}
	for _, k := range s.links {
		if !k.up || k.missing > 0 {
			return false
		}
	}
	return true
}

// Close implements [Subscription]. It does not wait for an attempt to connect.
func (s *redisSubscription) Close() error {
	s.layer.mu.Lock()
	delete(s.layer.subscriptions, s)
	s.layer.mu.Unlock()
	s.mu.Lock()
	s.cancel()
	links := slices.Collect(maps.Values(s.links))
	var gates []*gate
	for _, k := range links {
		if k.gate != nil {
			gates = append(gates, k.gate)
		}
	}
	s.mu.Unlock()
	for _, g := range gates {
		g.shut()
	}
	return nil
}

// A redisLink is one connection of a subscription, made again whenever it ends.
type redisLink struct {
	s       *redisSubscription
	node    string          // its address; "" is any
	ctx     context.Context // ends with the subscription, or when the node has no slots
	cancel  context.CancelFunc
	wake    chan struct{} // has room for one, like the next three: todo or unused is not empty
	settled chan struct{} // nothing is missing
	beaten  chan struct{} // a heartbeat has come
	broken  chan struct{} // the heartbeat's channel has moved away

	// Guarded by s.mu.
	gate    *gate // calls of the present connection, which is over before the next begins
	up      bool  // connected, and Lost has been called
	missing int   // topics that are lost and not confirmed
	todo    []*redisTopic
	unused  []*redisTopic
}

func (s *redisSubscription) newLink(node string) *redisLink {
	k := &redisLink{s: s, node: node, wake: make(chan struct{}, 1), settled: make(chan struct{}, 1),
		beaten: make(chan struct{}, 1), broken: make(chan struct{}, 1)}
	k.ctx, k.cancel = context.WithCancel(s.ctx)
	return k
}

func (s *redisSubscription) startLocked(node string) *redisLink {
	k := s.newLink(node)
	s.links[node] = k
	s.layer.running.Go(k.run)
	return k
}

func (k *redisLink) addMissing(n int) {
	if k.missing += n; k.missing == 0 {
		notify(k.settled)
	}
}

// run keeps the link connected.
func (k *redisLink) run() {
	defer k.cancel()
	delay, told := redisBackoffMin, false
	for k.ctx.Err() == nil {
		wasUp, err := k.serve()
		if k.ctx.Err() != nil {
			return
		}
		if wasUp {
			delay, told = redisBackoffMin, false
		}
		if !told {
			told = true
			slog.Warn("grouphub: no subscription to redis, trying again", "hub", k.s.hub, "error", err)
		}
		notify(k.s.reroute) // perhaps the node is no more
		pause(k.ctx, delay)
		delay = min(2*delay, redisBackoffMax)
	}
}

// pause waits for half of delay at least, and delay at most.
func pause(ctx context.Context, delay time.Duration) {
	select {
	case <-time.After(delay/2 + mathrand.N(delay/2)):
	case <-ctx.Done():
	}
}

// serve connects, subscribes to all topics of the link, and follows their changes until
// the connection ends.
func (k *redisLink) serve() (wasUp bool, err error) {
	l := k.s.layer
	node := l.node(k.node)
	if node == nil {
		return false, errNoNode
	}
	client, _ := node.Dedicate()
	defer client.Close()
	g := &gate{}
	defer g.shut()
	heartbeats := k.begin(g)
	defer func() { wasUp = k.end() }()
	ended := client.SetPubSubHooks(rueidis.PubSubHooks{
		OnMessage: func(m rueidis.PubSubMessage) {
			if m.Channel == heartbeats {
				notify(k.beaten)
			} else if g.enter() {
				defer g.leave()
				k.message(m)
			}
		},
		OnSubscription: func(c rueidis.PubSubSubscription) {
			if c.Channel == heartbeats && c.Kind == "sunsubscribe" {
				notify(k.broken)
			} else if g.enter() {
				defer g.leave()
				k.confirmation(c)
			}
		},
	})
	if err := k.command(client, subscribe, []string{heartbeats}); err != nil {
		return false, err
	}
	notify(k.wake)
	var unsubscribing <-chan time.Time
	beat := time.NewTicker(l.heartbeat)
	defer beat.Stop()
	// Two heartbeats and most of the time until the third.
	silence := time.NewTimer(l.heartbeat * 13 / 5)
	defer silence.Stop()
	for {
		select {
		case <-k.ctx.Done():
			return false, k.ctx.Err()
		case err := <-ended:
			return false, err
		case <-k.broken:
			return false, errMovedHeartbeat
		case <-k.wake:
			if err := k.subscribe(client); err != nil {
				return false, err
			}
			if unsubscribing == nil && k.hasUnused() {
				unsubscribing = time.After(redisUnsubscribe)
			}
			k.settle(g)
		case <-unsubscribing:
			unsubscribing = nil
			if err := k.unsubscribe(client); err != nil {
				return false, err
			}
		case <-k.settled:
			k.settle(g)
		case <-beat.C:
			l.post(l.publish(heartbeats, nil))
		case <-k.beaten:
			silence.Reset(l.heartbeat * 13 / 5)
		case <-silence.C:
			return false, errSilentSubscription
		}
	}
}

// node returns the client of a node, or of any.
func (l *RedisLayer) node(address string) rueidis.Client {
	nodes := l.client.Nodes() // a map: the order is random
	if address != "" {
		return nodes[address]
	}
	for _, node := range nodes {
		return node
	}
	return nil
}

// begin makes a new connection the present one, with everything to be subscribed to, and
// returns a channel for its heartbeats: one of the node's own.
func (k *redisLink) begin(g *gate) (heartbeats string) {
	k.s.mu.Lock()
	defer k.s.mu.Unlock()
	k.gate = g
	if k.ctx.Err() != nil {
		g.closed = true
	}
	for {
		heartbeats = k.s.layer.key("beat", rand.Text())
		if k.node == "" || k.s.owners[k.s.layer.slot(heartbeats)] == k.node || k.ctx.Err() != nil {
			break
		}
	}
	k.todo, k.unused = nil, nil
	for _, t := range k.s.topics {
		if t.link == k {
			k.todo = append(k.todo, t)
		}
	}
	return heartbeats
}

// end notes that the connection has ended, and reports whether it had been up.
func (k *redisLink) end() (wasUp bool) {
	k.s.mu.Lock()
	defer k.s.mu.Unlock()
	wasUp, k.up = k.up, false
	for _, t := range k.s.topics {
		if t.link == k {
			t.interrupt()
			if !t.used() {
				k.s.forgetLocked(t)
			} else if k.ctx.Err() != nil {
				t.move(k.s.limbo)
			}
		}
	}
	return wasUp
}

// message delivers a publication. It is called by the connection's reader.
func (k *redisLink) message(m rueidis.PubSubMessage) {
	k.s.mu.Lock()
	t := k.s.topics[m.Channel]
	mine := t != nil && t.link == k && t.used()
	k.s.mu.Unlock()
	if !mine {
		return
	}
	if payload, ok := k.s.layer.open(m.Channel, m.Message); ok {
		k.s.receiver.Deliver(Publication{Topic: t.name, Payload: payload})
	}
}

// confirmation notes what the server says of a channel. It is called by the
// connection's reader.
func (k *redisLink) confirmation(c rueidis.PubSubSubscription) {
	k.s.mu.Lock()
	defer k.s.mu.Unlock()
	t := k.s.topics[c.Channel]
	switch {
	case t == nil || t.link != k || !t.sent || t.leaving:
	case c.Kind == "subscribe" || c.Kind == "ssubscribe":
		t.setConfirmed(true)
	case c.Kind == "sunsubscribe": // unasked: the slot has moved
		t.interrupt()
		t.move(k.s.limbo)
	}
}

// settle calls Lost when all that was lost is in force again, as it is at the start.
func (k *redisLink) settle(g *gate) {
	var lost []string
	k.s.mu.Lock()
	if k.missing > 0 {
		k.s.mu.Unlock()
		return
	}
	for _, t := range k.s.topics {
		if t.lost && t.link == k {
			t.setLost(false)
			if t.name != k.s.hub {
				lost = append(lost, t.name)
			}
		}
	}
	k.up = true
	k.s.mu.Unlock()
	if len(lost) > 0 && g.enter() {
		defer g.leave()
		k.s.receiver.Lost(lost)
	}
}

// subscribe sends what is to be subscribed to. Confirmations arrive by themselves.
func (k *redisLink) subscribe(client rueidis.DedicatedClient) error {
	for {
		k.s.mu.Lock()
		var batch []*redisTopic
		for len(k.todo) > 0 && len(batch) < redisBatch {
			t := k.todo[0]
			k.todo = k.todo[1:]
			if t.link == k && !t.sent && t.used() && k.s.topics[t.channel] == t {
				t.sent = true
				batch = append(batch, t)
			}
		}
		k.s.mu.Unlock()
		if len(batch) == 0 {
			return nil
		}
		if err := k.send(client, subscribe, batch); err != nil {
			return err
		}
	}
}

func (k *redisLink) hasUnused() bool {
	k.s.mu.Lock()
	defer k.s.mu.Unlock()
	return len(k.unused) > 0
}

// unsubscribe ends the subscription to what is still unused.
func (k *redisLink) unsubscribe(client rueidis.DedicatedClient) error {
	k.s.mu.Lock()
	var unused []*redisTopic
	for _, t := range k.unused {
		if t.link == k && t.sent && !t.leaving && !t.used() {
			t.leaving = true
			t.setConfirmed(false)
			unused = append(unused, t)
		}
	}
	k.unused = nil
	k.s.mu.Unlock()
	for batch := range slices.Chunk(unused, redisBatch) {
		if err := k.send(client, unsubscribe, batch); err != nil {
			return err
		}
		k.s.mu.Lock()
		for _, t := range batch {
			if t.link != k {
				continue
			}
			t.sent, t.leaving = false, false
			if t.used() { // added again meanwhile
				t.move(k)
			} else {
				k.s.forgetLocked(t)
			}
		}
		k.s.mu.Unlock()
	}
	return nil
}

const (
	subscribe = iota
	unsubscribe
)

// send subscribes to topics or unsubscribes from them. What the server refuses is the
// business of those who wait for it. An error means that the connection is of no use.
func (k *redisLink) send(client rueidis.DedicatedClient, what int, topics []*redisTopic) error {
	slots := map[uint16][]*redisTopic{0: topics}
	if k.node != "" { // a command's channels are of one slot
		slots = make(map[uint16][]*redisTopic)
		for _, t := range topics {
			slot := k.s.layer.slot(t.channel)
			slots[slot] = append(slots[slot], t)
		}
	}
	for _, group := range slots {
		channels := make([]string, len(group))
		for i, t := range group {
			channels[i] = t.channel
		}
		err := k.command(client, what, channels)
		if answer, ok := rueidis.IsRedisErr(err); ok {
			err = k.refused(what, group, answer)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// command sends one command and waits for the first of its confirmations.
func (k *redisLink) command(client rueidis.DedicatedClient, what int, channels []string) error {
	ctx, cancel := context.WithTimeout(k.ctx, layerTimeout)
	defer cancel()
	var command rueidis.Completed
	switch b := client.B(); {
	case what == subscribe && k.s.layer.sharded:
		command = b.Ssubscribe().Channel(channels...).Build()
	case what == subscribe:
		command = b.Subscribe().Channel(channels...).Build()
	case k.s.layer.sharded:
		command = b.Sunsubscribe().Channel(channels...).Build()
	default:
		command = b.Unsubscribe().Channel(channels...).Build()
	}
	return client.Do(ctx, command).Error()
}

// refused deals with an answer that is an error. Those that wait for a new topic get it;
// to get back one that was lost, only a new connection may help.
func (k *redisLink) refused(what int, topics []*redisTopic, answer *rueidis.RedisError) error {
	_, moved := answer.IsMoved()
	if what == unsubscribe {
		return nil
	}
	k.s.mu.Lock()
	defer k.s.mu.Unlock()
	for _, t := range topics {
		if t.link != k {
			continue
		}
		t.sent = false
		switch {
		case moved || answer.IsClusterDown():
			t.move(k.s.limbo)
		case t.added:
			return answer
		default:
			for _, wait := range t.waiters {
				wait.err = answer
				notify(wait.changed)
			}
		}
	}
	return nil
}
