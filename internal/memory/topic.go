package memory

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/seed-29c60982/grouphub/layer"
)

// callTimeout is how long Publish waits for its turn and for room.
const callTimeout = 5 * time.Second

// A topicState is a topic in use. It exists as long as it has subscribers, publishers or a
// history. If it were replaced by a new one while a publisher still uses it, two publishers
// could call one receiver at the same time.
type topicState struct {
	turn chan struct{} // holds a token while a publisher has its turn

	// Guarded by Layer.mu.
	subscribers []*Subscription // replaced and never changed, because publishers read it without the lock
	publishers  int             // that are between enter and leave
	history     *keptHistory    // nil if nothing is kept
}

// Publish implements [layer.Layer].
func (l *Layer) Publish(ctx context.Context, p layer.Publication) error {
	t, err := l.enter(p.Topic, p.Keep.Count > 0)
	if t == nil {
		return err
	}
	defer l.leave(t, p.Topic)
	// The first attempt does not wait. It nearly always succeeds, and a timer for the
	// second would be most of the cost.
	if l.publish(over, t, p) == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return l.publish(ctx, t, p)
}

// over is a context that has ended. With it, publish does not wait.
var over = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

// enter returns the topic and keeps it in use until leave is called. It returns nil if the
// topic does not exist and create is false: then there is nobody to publish to.
func (l *Layer) enter(topic string, create bool) (*topicState, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, fmt.Errorf("%w: publish to %q", layer.ErrClosed, topic)
	}
	t := l.topics[topic]
	if t == nil && create {
		t = l.addTopicLocked(topic)
	}
	if t != nil {
		t.publishers++
	}
	return t, nil
}

func (l *Layer) addTopicLocked(topic string) *topicState {
	t := &topicState{turn: make(chan struct{}, 1)}
	l.topics[topic] = t
	return t
}

// leave ends what enter began.
func (l *Layer) leave(t *topicState, topic string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t.publishers--
	l.forgetLocked(t, topic)
}

// forgetLocked removes a topic that is no longer in use.
func (l *Layer) forgetLocked(t *topicState, topic string) {
	if len(t.subscribers) == 0 && t.publishers == 0 && t.history == nil {
		delete(l.topics, topic)
	}
}

// publish waits for its turn and for room at every subscriber, until ctx ends, and then
// delivers.
func (l *Layer) publish(ctx context.Context, t *topicState, p layer.Publication) error {
	select {
	case t.turn <- struct{}{}:
	default:
		select {
		case t.turn <- struct{}{}:
		case <-ctx.Done():
			return fmt.Errorf("%w: publish to %q: %w", layer.ErrUnavailable, p.Topic, ctx.Err())
		case <-l.done:
			return fmt.Errorf("%w: publish to %q", layer.ErrClosed, p.Topic)
		}
	}
	defer func() { <-t.turn }()

	l.mu.Lock()
	subscribers := t.subscribers
	l.mu.Unlock()
	for _, s := range subscribers {
		if err := s.ready(ctx, p.Topic); err != nil {
			return fmt.Errorf("%w: publish to %q: %w", layer.ErrUnavailable, p.Topic, err)
		}
	}
	select {
	case <-l.done:
		return fmt.Errorf("%w: publish to %q", layer.ErrClosed, p.Topic)
	default:
	}
	p.Payload = bytes.Clone(p.Payload) // the receivers keep it, and the caller may change its own
	if p.Keep.Count > 0 && !l.keep(t, &p) {
		return nil
	}
	for _, s := range subscribers {
		s.deliver(p)
	}
	return nil
}
