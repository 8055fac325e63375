package postgres

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/seed-29c60982/grouphub/layer"
)

// A topic is one that subscriptions have. It exists as long as they have it.
type topic struct {
	name    string
	members []*membership
}

// A membership is a subscription's place in a topic. It exists while it was added, or an Add
// waits. It is active from the moment at which what was published before the first Add has
// been received, whether a session listens at present or not. Guarded by Layer.mu.
type membership struct {
	subscription *Subscription
	topic        *topic
	added        bool // an Add has returned, and no Remove since
	waiting      int  // Adds that have not returned
	active       bool
}

// A Subscription is one hub on a layer. It implements [layer.Subscription].
type Subscription struct {
	layer    *Layer
	receiver layer.Receiver
	calls    sync.WaitGroup // of the receiver; grows under layer.mu, and not once closed

	// Guarded by layer.mu.
	closed bool
	topics map[string]*membership
}

// membershipLocked returns the subscription's place in a topic, and makes it if need be.
func (s *Subscription) membershipLocked(name string) *membership {
	if m := s.topics[name]; m != nil {
		return m
	}
	encoded := encodeName(name)
	t := s.layer.topics[encoded]
	if t == nil {
		t = &topic{name: name}
		s.layer.topics[encoded] = t
	}
	m := &membership{subscription: s, topic: t}
	t.members = append(t.members, m)
	s.topics[name] = m
	return m
}

// releaseLocked forgets a place that is not used any more.
func (m *membership) releaseLocked() {
	if m.added || m.waiting > 0 {
		return
	}
	s, t := m.subscription, m.topic
	delete(s.topics, t.name)
	t.members = slices.DeleteFunc(t.members, func(other *membership) bool { return other == m })
	if len(t.members) == 0 {
		delete(s.layer.topics, encodeName(t.name))
	}
}

// Add implements [layer.Subscription]. There is nothing to tell the server, since the layer
// listens to all topics. A marker of its own tells Add that what was published before has
// been received.
func (s *Subscription) Add(ctx context.Context, topics ...string) error {
	places, inForce, err := s.enter(topics)
	if err != nil {
		return fmt.Errorf("%w: subscribe to %q", err, topics)
	}
	if !inForce {
		err = s.awaitMarker(ctx, places)
	}
	s.layer.mu.Lock()
	defer s.layer.mu.Unlock()
	for _, m := range places {
		m.waiting--
		m.added = m.added || err == nil
		if !s.closed {
			m.releaseLocked()
		}
	}
	if s.closed {
		err = layer.ErrClosed
	}
	if err != nil {
		return fmt.Errorf("grouphub: subscribe to %q: %w", topics, err)
	}
	return nil
}

// enter prepares an Add, and reports whether all of the topics are in force already.
func (s *Subscription) enter(topics []string) (places []*membership, inForce bool, err error) {
	s.layer.mu.Lock()
	defer s.layer.mu.Unlock()
	if s.closed {
		return nil, false, layer.ErrClosed
	}
	inForce = s.layer.session != nil
	for _, name := range topics {
		m := s.membershipLocked(name)
		m.waiting++
		places = append(places, m)
		inForce = inForce && m.active
	}
	return places, inForce, nil
}

// awaitMarker sends markers until one has come, and has it make the topics active.
func (s *Subscription) awaitMarker(ctx context.Context, places []*membership) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	activate := func() {
		s.layer.mu.Lock()
		defer s.layer.mu.Unlock()
		for _, m := range places {
			m.active = true
		}
	}
	for {
		err := s.layer.roundTrip(ctx, activate)
		switch {
		case err == nil:
			return nil
		case s.layer.ctx.Err() != nil:
			return layer.ErrClosed
		case ctx.Err() != nil:
			return fmt.Errorf("%w: %w", layer.ErrUnavailable, ctx.Err())
		}
		sleep(ctx, backoffMin) // the server is away
	}
}

// Remove implements [layer.Subscription].
func (s *Subscription) Remove(topics ...string) {
	s.layer.mu.Lock()
	defer s.layer.mu.Unlock()
	for _, name := range topics {
		if m := s.topics[name]; m != nil {
			m.added = false
			m.releaseLocked()
		}
	}
}

// Up implements [layer.Subscription].
func (s *Subscription) Up() bool {
	s.layer.mu.Lock()
	defer s.layer.mu.Unlock()
	return s.layer.session != nil && !s.closed && !s.layer.closed
}

// Close implements [layer.Subscription].
func (s *Subscription) Close() error {
	s.layer.mu.Lock()
	s.closed = true
	delete(s.layer.subscriptions, s)
	for _, m := range s.topics {
		m.added, m.waiting = false, 0
		m.releaseLocked()
	}
	s.layer.mu.Unlock()
	s.calls.Wait()
	return nil
}

// enterCall reports whether the receiver may be called; if so, s.calls.Done follows.
func (s *Subscription) enterCall() bool {
	s.layer.mu.Lock()
	defer s.layer.mu.Unlock()
	if s.closed || s.layer.closed {
		return false
	}
	s.calls.Add(1)
	return true
}

// deliver hands a publication to the receiver, unless the subscription has ended.
func (s *Subscription) deliver(p layer.Publication) {
	if s.enterCall() {
		defer s.calls.Done()
		s.receiver.Deliver(p)
	}
}

// lost tells the receiver that publications may have been lost.
func (s *Subscription) lost(topics []string) {
	if len(topics) > 0 && s.enterCall() {
		defer s.calls.Done()
		s.receiver.Lost(topics)
	}
}

// activeLocked returns the topics that the subscription was subscribed to so far.
func (s *Subscription) activeLocked() (topics []string) {
	for name, m := range s.topics {
		if m.active {
			topics = append(topics, name)
		}
	}
	return topics
}
