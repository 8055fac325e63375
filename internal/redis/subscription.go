package redis

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/seed-29c60982/grouphub/layer"
)

// A Subscription is what one hub is subscribed to. Its links, connections to Redis,
// do the work. There is one; with sharded pub/sub in a Cluster, one to each master.
type Subscription struct {
	layer    *Layer
	kind     string // of the keys that are the channels
	hub      string
	receiver layer.Receiver
	ctx      context.Context // ends with the subscription
	cancel   context.CancelFunc
	reroute  chan struct{} // has room for one: a topic has no link, or a link no connection

	mu     sync.Mutex        // never held across I/O or a call of the receiver
	topics map[string]*topic // by channel
	links  map[string]*link  // by node; "" is any
	limbo  *link             // never runs; has the topics whose node is not known
	owners map[uint16]string // node by slot, where links have their own
}

// subscribeLocked starts a subscription, which tries to connect until it is closed.
func (l *Layer) subscribeLocked(kind, hub string, r layer.Receiver) *Subscription {
	s := &Subscription{layer: l, kind: kind, hub: hub, receiver: r, reroute: make(chan struct{}, 1),
		topics: make(map[string]*topic), links: make(map[string]*link)}
	s.ctx, s.cancel = context.WithCancel(l.ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limbo = s.newLink("")
	if l.sharded && l.cluster {
		s.owners = make(map[uint16]string)
		l.running.Go(s.route)
	} else {
		s.startLocked("")
	}
	l.subscriptions[s] = struct{}{}
	own := s.topicLocked(hub)
	own.added = true
	own.setLost(true) // there is no subscription before this one is in force
	own.fresh = true
	return s
}

// A topic exists while it is used: somebody has added it, or waits for that. It
// outlives that for as long as its link is subscribed to it. Guarded by
// Subscription.mu.
type topic struct {
	name, channel string
	added         bool      // an Add has returned, and no Remove since
	waiters       []*waiter // of each Add that has not
	link          *link
	state         topicState
	lost          bool // was interrupted, and the receiver has not been told
	fresh         bool // lost only because it has not been in force yet: nothing to tell
}

type topicState int

const (
	stateIdle      topicState = iota // to be sent if it is used
	stateSent                        // perhaps in force
	stateConfirmed                   // publications arrive
	stateLeaving                     // being unsubscribed from, whether it is used or not
)

// A waiter is an Add that waits for confirmations.
type waiter struct {
	missing int           // guarded by Subscription.mu
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

func (t *topic) used() bool { return t.added || len(t.waiters) > 0 }

// setState keeps count of what is missing, for those who wait and for the link.
func (t *topic) setState(state topicState) {
	d := 0
	if t.state == stateConfirmed {
		d++
	}
	if state == stateConfirmed {
		d--
	}
	t.state = state
	for _, wait := range t.waiters {
		if wait.missing += d; wait.missing == 0 {
			notify(wait.changed)
		}
	}
	if t.lost {
		t.link.addMissing(d)
	}
}

func (t *topic) setLost(lost bool) {
	if t.lost == lost {
		return
	}
	d := 1
	if t.lost = lost; !lost {
		d = -1
	}
	t.link.lost += d
	if t.state != stateConfirmed {
		t.link.addMissing(d)
	}
}

// interrupt notes that the subscription has ended by itself.
func (t *topic) interrupt() {
	wasConfirmed := t.state == stateConfirmed
	t.setState(stateIdle)
	if wasConfirmed && t.used() {
		t.setLost(true)
		t.fresh = false
	}
}

// move gives an idle topic to a link, which is to subscribe to it.
func (t *topic) move(to *link) {
	lost := t.lost
	t.setLost(false)
	t.link = to
	t.setLost(lost)
	to.todo = append(to.todo, t)
	notify(to.wake)
	if to == to.s.limbo {
		notify(to.s.reroute)
	}
}

// topicLocked returns a topic, which it makes if need be.
func (s *Subscription) topicLocked(name string) *topic {
	channel := s.layer.key(s.kind, name)
	t := s.topics[channel]
	if t == nil {
		t = &topic{name: name, channel: channel, link: s.limbo}
		s.topics[channel] = t
		t.move(s.homeLocked(channel))
	}
	return t
}

// homeLocked returns the link that is to have a channel.
func (s *Subscription) homeLocked(channel string) *link {
	node := ""
	if s.owners != nil {
		node = s.owners[s.layer.slot(channel)]
	}
	if k := s.links[node]; k != nil && k.ctx.Err() == nil {
		return k
	}
	return s.limbo
}

// forgetLocked gives up a topic that is no longer used: now, or a little later.
func (s *Subscription) forgetLocked(t *topic) {
	t.setLost(false)
	if t.state == stateIdle {
		delete(s.topics, t.channel)
	} else if t.state != stateLeaving {
		t.link.unused = append(t.link.unused, t)
		notify(t.link.wake)
	}
}

// Add is as in [grouphub.Subscription].
func (s *Subscription) Add(ctx context.Context, topics ...string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	wait := &waiter{changed: make(chan struct{}, 1)}
	added := make([]*topic, len(topics))
	s.mu.Lock()
	for i, name := range topics {
		t := s.topicLocked(name)
		if t.state != stateConfirmed {
			wait.missing++
		}
		t.waiters = append(t.waiters, wait)
		added[i] = t
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
			err = ctx.Err()
		case <-s.ctx.Done():
		}
		s.mu.Lock()
		switch err = cmp.Or(err, wait.err); {
		case s.ctx.Err() != nil:
			err = fmt.Errorf("%w: subscribe to %.300q", layer.ErrClosed, topics)
		case err != nil:
			err = fmt.Errorf("%w: subscribe to %.300q: %w", layer.ErrUnavailable, topics, err)
		}
		// Without an error something may be missing again: an interruption came first.
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

// Remove is as in [grouphub.Subscription].
func (s *Subscription) Remove(topics ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range topics {
		if t := s.topics[s.layer.key(s.kind, name)]; t != nil && t.added {
			if t.added = false; !t.used() {
				s.forgetLocked(t)
			}
		}
	}
}

// Up is as in [grouphub.Subscription].
func (s *Subscription) Up() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	up := s.ctx.Err() == nil && s.limbo.missing == 0
	for _, k := range s.links {
		up = up && k.up && k.missing == 0
	}
	return up
}

// Close is as in [grouphub.Subscription]. It does not wait for an attempt to connect.
func (s *Subscription) Close() error {
	s.layer.mu.Lock()
	delete(s.layer.subscriptions, s)
	s.layer.mu.Unlock()
	s.mu.Lock()
	s.cancel()
	links := slices.Collect(maps.Values(s.links))
	s.mu.Unlock()
	for _, k := range links {
		k.calls().Shut()
	}
	return nil
}
