package grouphub

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/seed-29c60982/grouphub/internal/sequence"
)

// resyncEvent is the type of the event that tells a subscriber, or a client, that events may be lost.
const resyncEvent = "resync"

// A subscriber is what a Conn has that is the member of a group for Hub.Subscribe. It has no
// client: its outbox is never pushed to, and its consumer has nothing but a Handle for all
// events, so that it takes the same ways as a client's connection.
type subscriber struct {
	fn   func(Event) // static
	stop func() bool // ends the wait for the end of its context; guarded by Hub.mu
	late atomic.Bool // events were dropped, and a job waits that makes up for it
}

// Subscribe calls fn with a group's events, one at a time and in the group's order, until ctx ends.
// It has joined when it returns nil: no event that is sent afterwards is missed. It is for
// programs that act on events themselves, and has no client.
//
// The options are those of [Conn.Join]: events that are kept come first. In a group with a
// Snapshot the first event has that, as for a connection. Events that fn may have missed are told
// by one of type "resync", or "snapshot" in such a group, behind those that were sent before. So
// it is if fn is too slow: events of MaxPending bytes wait for it, and what comes beyond that is
// dropped, and counted, until fn has had them. Load anew what the events were to tell.
//
// A subscriber counts in no presence, and GroupClose does not concern it. If fn panics, that is
// logged with its stack, and the next event is delivered. Shutdown ends all subscriptions, and
// waits for the call of fn that runs. No call begins once ctx has ended, but for one that is
// beginning at that moment.
func (h *Hub) Subscribe(ctx context.Context, group string, fn func(Event), opts ...JoinOption) error {
	err := checkName("subscribe", group)
	if err == nil && ctx.Err() != nil {
		err = fmt.Errorf("grouphub: subscribe to %s: %w", quoted(group), ctx.Err())
	}
	if err != nil {
		return err
	}
	var r sequence.Replay
	for _, o := range opts {
		r = o.replay
	}
	c := &Conn{hub: h, endpoint: h.subscribers, subscriber: &subscriber{fn: fn}}
	c.ctx, c.cancel = context.WithCancel(ctx)
	c.user.current.Store(&nobody)
	c.outbox.InitIdle(&h.limits)
	c.strand.Init((*connOwner)(c))
	defer c.strand.Release()
	if err = h.addSubscriber(ctx, c); err == nil {
		if err = h.join(c.ctx, c, group, r); err != nil {
			c.endSubscription()
		}
	}
	if err != nil && ctx.Err() != nil {
		err = ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("grouphub: subscribe to %s: %w", quoted(group), err)
	}
	return nil
}

// newSubscribers returns the endpoint of all subscribers. Nobody is served by it.
func newSubscribers(h *Hub) *endpoint {
	return &endpoint{hub: h, callsBack: true, consumer: Consumer{
		Events: Events{"*": Handle(func(c *Conn, e Event) error {
			c.subscriber.fn(e)
			return nil
		})},
		Resync: func(c *Conn, groups []string) {
			for _, group := range groups {
				c.subscriber.fn(Event{Type: resyncEvent, Group: group})
			}
		},
	}}
}

// addSubscriber makes a subscriber known, for which Shutdown waits until it has ended.
func (h *Hub) addSubscriber(ctx context.Context, c *Conn) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closing {
		c.cancel()
		return ErrClosed
	}
	if h.subscriptions == nil {
		h.subscriptions = make(map[*Conn]struct{})
	}
	h.subscriptions[c] = struct{}{}
	h.callbacks.begin()
	c.subscriber.stop = context.AfterFunc(ctx, c.endSubscription)
	return nil
}

// endSubscription ends a subscriber. The call that runs may not have returned yet.
func (c *Conn) endSubscription() {
	h := c.hub
	h.mu.Lock()
	delete(h.subscriptions, c)
	stop := c.subscriber.stop
	h.mu.Unlock()
	stop()
	c.finish()
}

// endSubscriptions is called by Shutdown, after which there are no new ones.
func (h *Hub) endSubscriptions() {
	h.mu.Lock()
	var all []*Conn
	for c := range h.subscriptions {
		all = append(all, c)
	}
	h.mu.Unlock()
	for _, c := range all {
		c.endSubscription()
	}
}

// fallBehind notes that an event was dropped, since too much waits for fn. Until what waits has
// been handled, everything is dropped: then the subscriber is told. It never blocks.
func (c *Conn) fallBehind() {
	if !c.subscriber.late.Swap(true) {
		c.strand.Continue(c.makeUp)
	}
}

// makeUp tells the subscriber that events are lost, or gets it a snapshot. Whatever comes
// afterwards is behind that.
func (c *Conn) makeUp() {
	c.hub.count.resyncs.Add(1)
	m := c.subscribed()
	if m != nil && m.group.loader != nil {
		m.shard.lose(m, func() { c.subscriber.late.Store(false) })
		return
	}
	c.subscriber.late.Store(false) // before the call, so that it covers all that was dropped
	if m != nil {
		c.call(resyncEvent, func() error {
			c.endpoint.consumer.Resync(c, []string{m.group.name})
			return nil
		})
	}
}

// subscribed returns the membership of a subscriber, nil if there is none any more.
func (c *Conn) subscribed() *membership {
	c.mu.Lock()
	defer c.mu.Unlock()
	for m := range c.groups.all() {
		if m.entered() && !c.ended {
			return m
		}
	}
	return nil
}

// lose says that events of the group may be lost for a member, and calls f before others come.
func (s *shard) lose(m *membership, f func()) {
	s.lock()
	defer s.mu.Unlock()
	f()
	if !m.left.Load() && m.index < len(s.places) && s.places[m.index].membership == m {
		s.loseLocked(&s.places[m.index])
	}
}

// snapshotRetry is how long a subscriber waits until it asks again for a snapshot that failed.
const snapshotRetry = time.Second

// retrySnapshot has a subscriber wait for another snapshot, since it has no client that would
// come back.
func (c *Conn) retrySnapshot() {
	c.hub.goroutines.Go(func() {
		select {
		case <-time.After(snapshotRetry):
		case <-c.ctx.Done():
			return
		}
		if m := c.subscribed(); m != nil {
			m.shard.lose(m, func() {
				if m.wait != nil && m.wait.state == waitFailed {
					m.wait = nil
				}
			})
		}
	})
}
