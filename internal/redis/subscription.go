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

	stamps stampFilter // of what was received

	mu       sync.Mutex        // never held across I/O or a call of the receiver
	topics   map[string]*topic // by channel
	links    map[string]*link  // by node; "" is any
	unrouted *link             // never runs; has the topics whose node is not known
	owners   map[uint16]string // node by slot, where links have their own
}

// subscribeLocked starts a subscription, which tries to connect until it is closed.
func (l *Layer) subscribeLocked(kind, hub string, r layer.Receiver) *Subscription {
	s := &Subscription{layer: l, kind: kind, hub: hub, receiver: r, reroute: make(chan struct{}, 1),
		topics: make(map[string]*topic), links: make(map[string]*link)}
	s.ctx, s.cancel = context.WithCancel(l.ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unrouted = s.newLink("")
	if l.sharded && l.cluster {
		s.owners = make(map[uint16]string)
		l.running.Go(s.route)
	} else {
		s.startLocked("")
	}
	l.subscriptions[s] = struct{}{}
	own := s.topicLocked(hub)
	own.added = true
	own.setGap(gapStart) // Up is false until it is in force
	return s
}

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

// topicLocked returns a topic, which it makes if need be.
func (s *Subscription) topicLocked(name string) *topic {
	channel := s.layer.key(s.kind, name)
	t := s.topics[channel]
	if t == nil {
		t = &topic{name: name, channel: channel, link: s.unrouted}
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
	return s.unrouted
}

// forgetLocked gives up a topic that is no longer used: now, or a little later.
func (s *Subscription) forgetLocked(t *topic) {
	t.setGap(gapNone)
	if t.state == stateIdle {
		delete(s.topics, t.channel)
	} else if t.state != stateLeaving {
		t.link.unused = append(t.link.unused, t)
		notify(t.link.wake)
	}
}

// Add implements [layer.Subscription]. It waits until all of its topics are confirmed at
// the same time, or one is refused.
func (s *Subscription) Add(ctx context.Context, topics ...string) error {
	ctx, cancel := context.WithTimeout(ctx, s.layer.callTimeout)
	defer cancel()
	wait, added := s.request(topics)
	for {
		var ended error
		select {
		case <-wait.changed:
		case <-ctx.Done():
			ended = ctx.Err()
		case <-s.ctx.Done():
		}
		if done, err := s.settle(wait, added, topics, ended); done {
			return err
		}
	}
}

// request has topics subscribed to, for a caller who waits for it.
func (s *Subscription) request(topics []string) (*waiter, []*topic) {
	s.mu.Lock()
	defer s.mu.Unlock()
	wait := &waiter{changed: make(chan struct{}, 1)}
	added := make([]*topic, len(topics))
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
	return wait, added
}

// settle ends a wait if there is a reason to: its topics are in force, or there is an
// error, which may be that the caller's time has ended. Otherwise an interruption came
// before the caller had seen that nothing was missing, and it goes on waiting.
func (s *Subscription) settle(wait *waiter, added []*topic, names []string, ended error) (done bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	err = cmp.Or(ended, wait.err)
	switch {
	case s.ctx.Err() != nil:
		err = fmt.Errorf("%w: subscribe to %.300q", layer.ErrClosed, names)
	case err != nil:
		err = fmt.Errorf("%w: subscribe to %.300q: %w", layer.ErrUnavailable, names, err)
	case wait.missing > 0:
		return false, nil
	}
	for _, t := range added {
		i := slices.Index(t.waiters, wait)
		t.waiters = slices.Delete(t.waiters, i, i+1)
		if err == nil {
			t.added = true
		} else if !t.used() {
			s.forgetLocked(t)
		}
	}
	return true, err
}

// Remove implements [layer.Subscription].
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

// Up implements [layer.Subscription].
func (s *Subscription) Up() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	up := s.ctx.Err() == nil && s.unrouted.missing == 0
	for _, k := range s.links {
		up = up && k.up && k.missing == 0
	}
	return up
}

// Close implements [layer.Subscription]. It does not wait for an attempt to connect.
func (s *Subscription) Close() error {
	s.layer.mu.Lock()
	delete(s.layer.subscriptions, s)
	s.layer.mu.Unlock()
	s.mu.Lock()
	s.cancel()
	links := slices.Collect(maps.Values(s.links))
	s.mu.Unlock()
	for _, k := range links {
		k.currentGate().Shut()
	}
	return nil
}
