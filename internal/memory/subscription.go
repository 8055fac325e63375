package memory

import (
	"context"
	"fmt"
	"slices"

	"github.com/seed-29c60982/grouphub/internal/gate"
	"github.com/seed-29c60982/grouphub/layer"
)

// A Subscription is one hub on a memory layer. It implements [layer.Subscription].
type Subscription struct {
	layer    *Layer
	receiver layer.Receiver
	ctx      context.Context // ends with the subscription
	cancel   context.CancelFunc
	gate     gate.Gate // every call of the receiver passes it

	topics map[string]struct{} // guarded by layer.mu
}

// Add implements [layer.Subscription].
func (s *Subscription) Add(_ context.Context, topics ...string) error {
	s.layer.mu.Lock()
	defer s.layer.mu.Unlock()
	if _, ok := s.layer.subscriptions[s]; !ok {
		return fmt.Errorf("%w: subscribe to %q", layer.ErrClosed, topics)
	}
	for _, topic := range topics {
		s.addLocked(topic)
	}
	return nil
}

func (s *Subscription) addLocked(topic string) {
	if _, ok := s.topics[topic]; ok {
		return
	}
	s.topics[topic] = struct{}{}
	t := s.layer.topics[topic]
	if t == nil {
		t = s.layer.addTopicLocked(topic)
	}
	t.subscribers = append(slices.Clip(t.subscribers), s)
}

// Remove implements [layer.Subscription].
func (s *Subscription) Remove(topics ...string) {
	s.layer.mu.Lock()
	defer s.layer.mu.Unlock()
	for _, topic := range topics {
		s.removeLocked(topic)
	}
}

func (s *Subscription) removeLocked(topic string) {
	if _, ok := s.topics[topic]; !ok {
		return
	}
	delete(s.topics, topic)
	t := s.layer.topics[topic]
	t.subscribers = slices.DeleteFunc(slices.Clone(t.subscribers), func(other *Subscription) bool { return other == s })
	s.layer.forgetLocked(t, topic)
}

// Up implements [layer.Subscription].
func (s *Subscription) Up() bool { return s.ctx.Err() == nil }

// Close implements [layer.Subscription].
func (s *Subscription) Close() error {
	s.layer.mu.Lock()
	delete(s.layer.subscriptions, s)
	for topic := range s.topics {
		s.removeLocked(topic)
	}
	s.layer.mu.Unlock()
	s.cancel()
	s.gate.Shut()
	return nil
}

// ready waits until the receiver has room. A subscription that has ended, or ends
// meanwhile, counts as one with room: nothing is delivered to it.
func (s *Subscription) ready(ctx context.Context, topic string) error {
	if !s.gate.Enter() {
		return nil
	}
	defer s.gate.Leave()
	if ctx != over {
		var cancel context.CancelFunc
		ctx, cancel = context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(s.ctx, cancel)()
	}
	err := s.receiver.Ready(ctx, topic)
	if s.ctx.Err() != nil {
		return nil
	}
	return err
}

// deliver hands a publication to the receiver, unless the subscription has ended.
func (s *Subscription) deliver(p layer.Publication) {
	if !s.gate.Enter() {
		return
	}
	defer s.gate.Leave()
	s.receiver.Deliver(p)
}
