package redis

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	mathrand "math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"github.com/seed-29c60982/grouphub/internal/gate"
	"github.com/seed-29c60982/grouphub/layer"
)

var (
	errSilent = errors.New("no heartbeat came through")
	errNoNode = errors.New("the node is no longer there")
)

// A link is one connection of a subscription, made again whenever it ends. Only its
// own goroutine sends on it; what the server says is noted by the connection's reader.
type link struct {
	s      *Subscription
	node   string          // its address; "" is any
	ctx    context.Context // ends with the subscription, or when the node has no slots
	cancel context.CancelFunc
	wake   chan struct{} // has room for one: look at what is guarded below
	beaten chan struct{} // has room for one: a heartbeat has come

	// Guarded by s.mu.
	gate    *gate.Gate // for calls of the receiver; each connection has another
	up      bool       // connected, and nothing is missing
	lost    int        // topics that were interrupted, and the receiver has not been told
	missing int        // of these, topics that are not yet confirmed again
	todo    []*topic   // idle ones, and some that are not or have moved on
	unused  []*topic   // to be unsubscribed from if they still are
}

func (s *Subscription) newLink(node string) *link {
	k := &link{s: s, node: node, wake: make(chan struct{}, 1), beaten: make(chan struct{}, 1), gate: &gate.Gate{}}
	k.ctx, k.cancel = context.WithCancel(s.ctx)
	return k
}

func (s *Subscription) startLocked(node string) {
	s.links[node] = s.newLink(node)
	s.layer.running.Go(s.links[node].run)
}

func (k *link) addMissing(n int) {
	if k.missing += n; k.missing == 0 {
		notify(k.wake)
	}
}

// calls returns the gate of the present connection.
func (k *link) calls() *gate.Gate {
	k.s.mu.Lock()
	defer k.s.mu.Unlock()
	return k.gate
}

// run keeps the link connected.
func (k *link) run() {
	defer k.stopped()
	delay := backoffMin
	for k.ctx.Err() == nil {
		wasUp, err := k.serve()
		if wasUp {
			delay = backoffMin
		}
		if delay == backoffMin && k.ctx.Err() == nil { // once per outage
			slog.Warn("grouphub: no subscription to redis, trying again", "hub", k.s.hub, "error", err)
		}
		notify(k.s.reroute)
		pause(k.ctx, delay)
		delay = min(2*delay, backoffMax)
	}
}

// stopped makes way for another link to the same node.
func (k *link) stopped() {
	k.cancel()
	k.s.mu.Lock()
	defer k.s.mu.Unlock()
	delete(k.s.links, k.node)
	notify(k.s.reroute)
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
func (k *link) serve() (wasUp bool, err error) {
	l := k.s.layer
	address, node := k.connectTo()
	if node == nil {
		return false, errNoNode
	}
	client, _ := node.Dedicate()
	defer client.Close()
	heartbeats, g := k.begin()
	defer func() { wasUp = k.end() }()
	defer g.Shut()
	ended := client.SetPubSubHooks(rueidis.PubSubHooks{
		OnMessage: func(m rueidis.PubSubMessage) {
			if m.Channel == heartbeats {
				notify(k.beaten)
			} else if g.Enter() {
				defer g.Leave()
				k.message(m)
			}
		},
		OnSubscription: func(c rueidis.PubSubSubscription) {
			if g.Enter() {
				defer g.Leave()
				k.confirmation(c)
			}
		},
	})
	for _, result := range k.command(client, true, [][]string{{heartbeats}}) {
		if err := result.Error(); err != nil {
			return false, err
		}
	}
	notify(k.wake)
	var unsubscribing <-chan time.Time
	beat := time.NewTicker(l.Heartbeat)
	defer beat.Stop()
	patience := l.Heartbeat * 13 / 5 // two heartbeats, and most of the time until the third
	silence := time.NewTimer(patience)
	defer silence.Stop()
	for {
		select {
		case <-k.ctx.Done():
			return false, k.ctx.Err()
		case err := <-ended:
			return false, err
		case <-k.wake:
			more, err := k.subscribe(client)
			if err != nil {
				return false, err
			}
			if more && unsubscribing == nil {
				unsubscribing = time.After(unsubscribeDelay)
			}
			k.settle(g)
		case <-unsubscribing:
			unsubscribing = nil
			safe, err := k.mayUnsubscribe(client)
			if err == nil && safe {
				err = k.unsubscribe(client)
			}
			if err != nil {
				return false, err
			}
			if !safe {
				unsubscribing = time.After(unsubscribeDelay)
			}
		case <-beat.C:
			if l.client.Nodes()[address] == nil { // after a failover, perhaps
				return false, errNoNode
			}
			l.post(l.publish(heartbeats, nil))
		case <-k.beaten:
			silence.Reset(patience)
		case <-silence.C:
			return false, errSilent
		}
	}
}

// connectTo returns the node to connect to: the link's, or any.
func (k *link) connectTo() (string, rueidis.Client) {
	nodes := k.s.layer.client.Nodes()
	if k.node != "" {
		return k.node, nodes[k.node]
	}
	for address, node := range nodes { // in random order
		return address, node
	}
	return "", nil
}

// begin makes a new connection the present one, with everything to be subscribed to, and
// returns a channel for its heartbeats: one that is the node's.
func (k *link) begin() (heartbeats string, g *gate.Gate) {
	k.s.mu.Lock()
	defer k.s.mu.Unlock()
	heartbeats = k.s.layer.key("beat", rand.Text())
	for k.node != "" && k.ctx.Err() == nil && k.s.owners[k.s.layer.slot(heartbeats)] != k.node {
		heartbeats = k.s.layer.key("beat", rand.Text())
	}
	k.gate = &gate.Gate{}
	if k.ctx.Err() != nil {
		k.gate.Shut() // the subscription has been closed, and does not come to do it
	}
	return heartbeats, k.gate
}

// end notes that the connection has ended, and reports whether it had been up. What it
// had is to be subscribed to by the next one.
func (k *link) end() (wasUp bool) {
	k.s.mu.Lock()
	defer k.s.mu.Unlock()
	wasUp, k.up = k.up, false
	k.todo, k.unused = nil, nil
	for _, t := range k.s.topics {
		if t.link != k {
			continue
		}
		t.interrupt()
		if !t.used() {
			k.s.forgetLocked(t)
		} else if k.ctx.Err() != nil {
			t.move(k.s.limbo)
		} else {
			k.todo = append(k.todo, t)
		}
	}
	return wasUp
}

// message delivers a publication. It is called by the connection's reader.
func (k *link) message(m rueidis.PubSubMessage) {
	k.s.mu.Lock()
	t := k.s.topics[m.Channel]
	mine := t != nil && t.link == k && t.used()
	k.s.mu.Unlock()
	if !mine {
		return
	}
	if at, payload, ok := k.s.layer.openMessage(m.Channel, m.Message); ok {
		k.s.receiver.Deliver(layer.Publication{Topic: t.name, Payload: payload, At: at})
	}
}

// confirmation notes what the server says of a channel. It is called by the
// connection's reader.
func (k *link) confirmation(c rueidis.PubSubSubscription) {
	k.s.mu.Lock()
	defer k.s.mu.Unlock()
	t := k.s.topics[c.Channel]
	if t == nil || t.link != k {
		return
	}
	switch c.Kind {
	case "subscribe", "ssubscribe":
		if t.state == stateSent {
			t.setState(stateConfirmed)
		}
	case "sunsubscribe":
		if t.state != stateLeaving { // unasked: the slot has moved
			t.interrupt()
			t.move(k.s.limbo)
		}
	}
}

// settle calls Lost when all that was lost is in force again, as it is at the start.
func (k *link) settle(g *gate.Gate) {
	var lost []string
	k.s.mu.Lock()
	// All topics are gone through only after an interruption: whoever joins one group
	// after another would otherwise pay for all that came before.
	if k.up = k.missing == 0; k.up && k.lost > 0 {
		for _, t := range k.s.topics {
			if t.lost && t.link == k {
				t.setLost(false)
				if !t.fresh {
					lost = append(lost, t.name)
				}
				t.fresh = false
			}
		}
	}
	k.s.mu.Unlock()
	if len(lost) > 0 && g.Enter() {
		defer g.Leave()
		k.s.receiver.Lost(lost)
	}
}

// subscribe sends what is to be subscribed to; confirmations arrive by themselves. It
// reports whether there is something to unsubscribe from.
func (k *link) subscribe(client rueidis.DedicatedClient) (unused bool, err error) {
	for {
		var batch []*topic
		k.s.mu.Lock()
		for len(k.todo) > 0 && len(batch) < batchSize {
			t := k.todo[0]
			k.todo = k.todo[1:]
			if t.link == k && t.state == stateIdle && t.used() {
				t.setState(stateSent)
				batch = append(batch, t)
			}
		}
		unused = len(k.unused) > 0
		k.s.mu.Unlock()
		if len(batch) == 0 {
			return unused, nil
		}
		groups, channels := k.bySlot(batch)
		for i, result := range k.command(client, true, channels) {
			err := result.Error()
			if answer, ok := rueidis.IsRedisErr(err); ok {
				err = k.refused(groups[i], answer)
			}
			if err != nil {
				return false, err
			}
		}
	}
}

// refused deals with an answer that is an error. Those that wait for a new topic get it;
// to get back one that was lost, perhaps a new connection helps.
func (k *link) refused(topics []*topic, answer *rueidis.RedisError) error {
	_, moved := answer.IsMoved()
	k.s.mu.Lock()
	defer k.s.mu.Unlock()
	for _, t := range topics {
		if t.link != k || t.state != stateSent {
			continue
		}
		t.setState(stateIdle)
		if moved || answer.IsClusterDown() {
			t.move(k.s.limbo)
		} else if t.added {
			return answer
		}
		for _, wait := range t.waiters {
			if t.link == k {
				wait.err = answer
				notify(wait.changed)
			}
		}
	}
	return nil
}

// mayUnsubscribe reports whether the server answers PING as rueidis needs it: it sends
// one behind each UNSUBSCRIBE, and what it does not expect there ends the process with a
// panic. A server whose disk is full, for one, answers with an error.
func (k *link) mayUnsubscribe(client rueidis.DedicatedClient) (bool, error) {
	ctx, cancel := context.WithTimeout(k.ctx, callTimeout)
	defer cancel()
	err := client.Do(ctx, client.B().Ping().Build()).Error()
	if answer, ok := rueidis.IsRedisErr(err); ok {
		return strings.HasPrefix(answer.Error(), "NOPERM"), nil // this one it expects
	}
	return err == nil, err
}

// unsubscribe ends the subscription to what is still unused. Who adds it again meanwhile
// waits until it is subscribed to anew.
func (k *link) unsubscribe(client rueidis.DedicatedClient) error {
	var unused []*topic
	k.s.mu.Lock()
	for _, t := range k.unused {
		if t.link == k && !t.used() && (t.state == stateSent || t.state == stateConfirmed) {
			t.setState(stateLeaving)
			unused = append(unused, t)
		}
	}
	k.unused = nil
	k.s.mu.Unlock()
	for batch := range slices.Chunk(unused, batchSize) {
		_, channels := k.bySlot(batch)
		for _, result := range k.command(client, false, channels) {
			if err := result.NonRedisError(); err != nil {
				return err
			}
		}
		k.s.mu.Lock()
		for _, t := range batch {
			t.setState(stateIdle)
			if t.used() {
				t.move(k)
			} else {
				k.s.forgetLocked(t)
			}
		}
		k.s.mu.Unlock()
	}
	return nil
}

// bySlot groups topics, and their channels, as commands may have them: in a Cluster, a
// command on sharded channels is about one slot.
func (k *link) bySlot(topics []*topic) (groups [][]*topic, channels [][]string) {
	bySlot := make(map[uint16][]*topic)
	for _, t := range topics {
		slot := uint16(0)
		if k.node != "" {
			slot = k.s.layer.slot(t.channel)
		}
		bySlot[slot] = append(bySlot[slot], t)
	}
	for _, group := range bySlot {
		var names []string
		for _, t := range group {
			names = append(names, t.channel)
		}
		groups, channels = append(groups, group), append(channels, names)
	}
	return groups, channels
}

// command subscribes to each list of channels, or unsubscribes from it, and returns the
// first answer about each.
func (k *link) command(client rueidis.DedicatedClient, subscribe bool, lists [][]string) []rueidis.RedisResult {
	ctx, cancel := context.WithTimeout(k.ctx, callTimeout)
	defer cancel()
	var commands []rueidis.Completed
	for _, channels := range lists {
		switch b, sharded := client.B(), k.s.layer.sharded; {
		case subscribe && sharded:
			commands = append(commands, b.Ssubscribe().Channel(channels...).Build())
		case subscribe:
			commands = append(commands, b.Subscribe().Channel(channels...).Build())
		case sharded:
			commands = append(commands, b.Sunsubscribe().Channel(channels...).Build())
		default:
			commands = append(commands, b.Unsubscribe().Channel(channels...).Build())
		}
	}
	return client.DoMulti(ctx, commands...)
}
