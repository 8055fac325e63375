package redis

import (
	"context"
	"errors"
	mathrand "math/rand/v2"
	"strings"
	"time"

	"github.com/seed-29c60982/grouphub/internal/gate"
)

var (
	errSilent = errors.New("no heartbeat came through")
	errNoNode = errors.New("the node is no longer there")
)

// A link keeps a part of a subscription connected to one node of Redis, by one session
// after the other. What is to be subscribed to stands here and in the topics; the session
// brings the server there.
type link struct {
	s      *Subscription
	node   string          // its address; "" is any
	ctx    context.Context // ends with the subscription, or when the node has no slots
	cancel context.CancelFunc
	wake   chan struct{} // has room for one: something for the session to do
	beaten chan struct{} // has room for one: a heartbeat has come

	// Guarded by s.mu.
	gate    *gate.Gate // calls of the receiver pass it; each session has another
	up      bool       // a session is in force, and nothing is missing
	gaps    int        // topics whose gap is not gapNone
	missing int        // of these, topics that are not confirmed yet
	pending []*topic   // idle topics, and some that have changed since
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

// currentGate returns the gate of the present session.
func (k *link) currentGate() *gate.Gate {
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
			k.s.layer.logger().Warn("grouphub: no subscription to redis, trying again", "hub", k.s.hub, "error", err)
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

// connectTo returns the address of the node to connect to, the link's or any, and whether
// there is one.
func (k *link) connectTo() (string, bool) {
	nodes := k.s.layer.client.Nodes()
	if k.node != "" {
		return k.node, nodes[k.node] != nil
	}
	for address := range nodes { // in random order
		return address, true
	}
	return "", false
}

// begin returns the gate of a new session, which has everything to subscribe to.
func (k *link) begin() *gate.Gate {
	k.s.mu.Lock()
	defer k.s.mu.Unlock()
	k.gate = &gate.Gate{}
	if k.ctx.Err() != nil {
		k.gate.Shut() // the subscription has been closed, and did not see this gate
	}
	return k.gate
}

// end notes that the session has ended, and reports whether it had been up. What it was
// subscribed to is left to the next one.
func (k *link) end() (wasUp bool) {
	k.s.mu.Lock()
	defer k.s.mu.Unlock()
	wasUp, k.up = k.up, false
	k.pending, k.unused = nil, nil
	for _, t := range k.s.topics {
		if t.link != k {
			continue
		}
		t.interrupt()
		if !t.used() {
			k.s.forgetLocked(t)
		} else if k.ctx.Err() != nil {
			t.move(k.s.unrouted)
		} else {
			k.pending = append(k.pending, t)
		}
	}
	return wasUp
}

// deliver hands a publication to the receiver. It is called by the connection's reader.
func (k *link) deliver(channel string, message []byte, clock *clock) {
	k.s.mu.Lock()
	t := k.s.topics[channel]
	mine := t != nil && t.link == k && t.used()
	k.s.mu.Unlock()
	if !mine {
		return
	}
	if p, kept, ok := k.s.layer.openPublication(channel, message, &k.s.stamps); ok {
		p.Topic, p.Age = t.name, clock.age(kept, time.Now())
		k.s.receiver.Deliver(p)
	}
}

// confirmed notes that the server has subscribed to a channel. It is called by the
// connection's reader.
func (k *link) confirmed(channel string) {
	k.s.mu.Lock()
	defer k.s.mu.Unlock()
	if t := k.s.topics[channel]; t != nil && t.link == k && t.state == stateRequested {
		t.setState(stateConfirmed)
	}
}

// givenAway notes that the server has unsubscribed from a channel, which it does without
// being asked when the channel's slot has moved to another node. It is called by the
// connection's reader.
func (k *link) givenAway(channel string) {
	k.s.mu.Lock()
	defer k.s.mu.Unlock()
	if t := k.s.topics[channel]; t != nil && t.link == k && t.state != stateLeaving {
		t.interrupt()
		t.move(k.s.unrouted)
	}
}

// healed reports the topics whose gap has ended, once nothing is missing any more, and that
// the link is up, as it is at the start.
func (k *link) healed() (lost []string) {
	k.s.mu.Lock()
	defer k.s.mu.Unlock()
	k.up = k.missing == 0
	// All topics are gone through only after an interruption: whoever joins one group
	// after another would otherwise pay for all that came before.
	if !k.up || k.gaps == 0 {
		return nil
	}
	for _, t := range k.s.topics {
		if t.link != k {
			continue
		}
		if t.gap == gapLoss {
			lost = append(lost, t.name)
		}
		t.setGap(gapNone)
	}
	return lost
}

// takePending returns some of the topics that are to be subscribed to, and takes them for
// requested.
func (k *link) takePending() (batch []*topic) {
	k.s.mu.Lock()
	defer k.s.mu.Unlock()
	for len(k.pending) > 0 && len(batch) < batchSize {
		t := k.pending[0]
		k.pending = k.pending[1:]
		if t.link == k && t.state == stateIdle && t.used() {
			t.setState(stateRequested)
			batch = append(batch, t)
		}
	}
	return batch
}

func (k *link) hasUnused() bool {
	k.s.mu.Lock()
	defer k.s.mu.Unlock()
	return len(k.unused) > 0
}

// takeUnused returns the topics that are still unused, and takes them for leaving. Who adds
// one again meanwhile waits until it is subscribed to anew. What is not confirmed yet stays
// among the unused.
func (k *link) takeUnused() (leaving []*topic) {
	k.s.mu.Lock()
	defer k.s.mu.Unlock()
	var later []*topic
	for _, t := range k.unused {
		switch {
		case t.link != k || t.used():
		case t.state == stateConfirmed:
			t.setState(stateLeaving)
			leaving = append(leaving, t)
		case t.state == stateRequested:
			later = append(later, t)
		}
	}
	k.unused = later
	return leaving
}

// left notes that the server has unsubscribed from these topics.
func (k *link) left(topics []*topic) {
	k.s.mu.Lock()
	defer k.s.mu.Unlock()
	for _, t := range topics {
		if t.link != k || t.state != stateLeaving {
			continue
		}
		t.setState(stateIdle)
		if t.used() {
			t.move(k)
		} else {
			k.s.forgetLocked(t)
		}
	}
}

// stayed notes that the server has refused to unsubscribe from these topics.
func (k *link) stayed(topics []*topic) {
	k.s.mu.Lock()
	defer k.s.mu.Unlock()
	for _, t := range topics {
		if t.link != k || t.state != stateLeaving {
			continue
		}
		t.setState(stateConfirmed)
		if !t.used() {
			k.s.forgetLocked(t)
		}
	}
}

// A refusal is an error that the server answered with.
type refusal string

func (r refusal) Error() string { return string(r) }

// isElsewhere reports whether another node has the slot, or none.
func (r refusal) isElsewhere() bool {
	return strings.HasPrefix(string(r), "MOVED") || strings.HasPrefix(string(r), "CLUSTERDOWN")
}

// refused deals with the answer to a subscription that is an error. Those that wait for a
// new topic get it; to get back one that was lost, perhaps a new connection helps.
func (k *link) refused(topics []*topic, answer refusal) error {
	k.s.mu.Lock()
	defer k.s.mu.Unlock()
	for _, t := range topics {
		if t.link != k || t.state != stateRequested {
			continue
		}
		t.setState(stateIdle)
		switch {
		case !t.used():
			k.s.forgetLocked(t)
		case answer.isElsewhere():
			t.move(k.s.unrouted)
		case t.added:
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

// bySlot groups topics as commands may have them: in a Cluster, a command on sharded
// channels is about one slot.
func (k *link) bySlot(topics []*topic) (groups [][]*topic) {
	if k.node == "" {
		return [][]*topic{topics}
	}
	bySlot := make(map[uint16][]*topic)
	for _, t := range topics {
		slot := k.s.layer.slot(t.channel)
		bySlot[slot] = append(bySlot[slot], t)
	}
	for _, group := range bySlot {
		groups = append(groups, group)
	}
	return groups
}
