package grouphub_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
)

// A deafLayer is a memory layer that from some time on neither answers nor looks at contexts,
// until it is released.
type deafLayer struct {
	*grouphub.MemoryLayer
	deaf     chan struct{} // closed when it no longer answers
	released chan struct{} // closed when it answers again
}

func newDeafLayer() *deafLayer {
	return &deafLayer{grouphub.NewMemoryLayer(), make(chan struct{}), make(chan struct{})}
}

func (l *deafLayer) wait() {
	select {
	case <-l.deaf:
		<-l.released
	default:
	}
}

func (l *deafLayer) Attach(hub string, r grouphub.Receiver) (grouphub.Subscription, error) {
	s, err := l.MemoryLayer.Attach(hub, r)
	return &deafSubscription{s, l}, err
}

func (l *deafLayer) Publish(ctx context.Context, p grouphub.Publication) error {
	l.wait()
	return l.MemoryLayer.Publish(ctx, p)
}

func (l *deafLayer) History(ctx context.Context, topic string, after uint64) (grouphub.History, error) {
	l.wait()
	return l.MemoryLayer.History(ctx, topic, after)
}

func (l *deafLayer) Positions(ctx context.Context, topics []string) ([]grouphub.Position, error) {
	l.wait()
	return l.MemoryLayer.Positions(ctx, topics)
}

func (l *deafLayer) Lease(ctx context.Context, topic, holder string, change grouphub.LeaseChange) (bool, error) {
	l.wait()
	return l.MemoryLayer.Lease(ctx, topic, holder, change)
}

func (l *deafLayer) Leases(ctx context.Context, topic string, known map[string]uint64) (map[string]grouphub.Lease, error) {
	l.wait()
	return l.MemoryLayer.Leases(ctx, topic, known)
}

func (l *deafLayer) Append(ctx context.Context, queue string, message []byte) error {
	l.wait()
	return l.MemoryLayer.Append(ctx, queue, message)
}

func (l *deafLayer) Take(ctx context.Context, queue string) ([]byte, error) {
	select {
	case <-l.deaf:
		ctx = background
	default:
	}
	return l.MemoryLayer.Take(ctx, queue)
}

type deafSubscription struct {
	grouphub.Subscription
	layer *deafLayer
}

func (s *deafSubscription) Add(ctx context.Context, topics ...string) error {
	s.layer.wait()
	return s.Subscription.Add(ctx, topics...)
}

func (s *deafSubscription) Close() error {
	s.layer.wait()
	return s.Subscription.Close()
}

func TestCallsEndThoughALayerIgnoresTheirContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		layer := newDeafLayer()
		conns := make(chan *grouphub.Conn, 1)
		hub := grouphub.New(&grouphub.Options{
			Layer: layer,
			Policy: func(group string) grouphub.GroupPolicy {
				if group == "kept" {
					return grouphub.GroupPolicy{History: 10, Presence: true}
				}
				return grouphub.GroupPolicy{Presence: true}
			},
			Consumer: grouphub.Consumer{Connect: func(c *grouphub.Conn) error { conns <- c; return c.Join("joined") }},
		})
		client := hubtest.Dial(t, hub, "/")
		c := <-conns
		synctest.Wait()
		close(layer.deaf)
		calls := map[string]func(ctx context.Context) error{
			"GroupSend": func(ctx context.Context) error { return hub.GroupSend(ctx, "joined", "e", nil) },
			"GroupSend to a group with history": func(ctx context.Context) error {
				return hub.GroupSend(ctx, "kept", "e", nil)
			},
			"GroupClose":       func(ctx context.Context) error { return hub.GroupClose(ctx, "joined", 4000, "") },
			"Members":          func(ctx context.Context) error { _, err := hub.Members(ctx, "joined"); return err },
			"Send to a queue":  func(ctx context.Context) error { return hub.Send(ctx, "queue", "e", nil) },
			"GroupAdd":         func(ctx context.Context) error { return hub.GroupAdd(ctx, "added", c.Channel()) },
			"GroupAdd of kept": func(ctx context.Context) error { return hub.GroupAdd(ctx, "kept", c.Channel()) },
			"Ping":             hub.Ping,
			"Join":             func(context.Context) error { return c.Join("more") },
		}
		for name, call := range calls {
			begun := time.Now()
			err := call(background)
			if took := time.Since(begun); took > 5*time.Second || !isLayerError(err) {
				t.Errorf("%s: %v after %v, want ErrUnavailable or ErrUncertain after five seconds", name, err, took)
			}
			if name == "Join" {
				continue // which has no context
			}
			ctx, cancel := context.WithTimeout(background, time.Second)
			begun = time.Now()
			err = call(ctx)
			cancel()
			if took := time.Since(begun); took > 1100*time.Millisecond || !isLayerError(err) || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: %v after %v, want ErrUnavailable or ErrUncertain with its context, after a second", name, err, took)
			}
		}
		if groups := c.Groups(); !slices.Equal(groups, []string{"joined"}) {
			t.Errorf("the connection is in %q", groups)
		}

		ctx, cancel := context.WithTimeout(background, 3*time.Second)
		defer cancel()
		begun := time.Now()
		closed := make(chan error)
		go func() { closed <- hub.Shutdown(ctx) }()
		client.ExpectClose(1001)
		if err := <-closed; err != nil || time.Since(begun) > 3500*time.Millisecond {
			t.Errorf("Shutdown: %v after %v", err, time.Since(begun))
		}
		close(layer.released)
		synctest.Wait()
		layer.Close()
	})
}

func TestReceiveLosesNothingThoughALayerIgnoresItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		layer := newDeafLayer()
		hub := grouphub.New(&grouphub.Options{Layer: layer})
		synctest.Wait()
		close(layer.deaf)
		close(layer.released) // all but Take does as it should
		ctx, cancel := context.WithTimeout(background, time.Second)
		defer cancel()
		begun := time.Now()
		_, err := hub.Receive(ctx, "queue")
		if took := time.Since(begun); !errors.Is(err, context.DeadlineExceeded) || took > 1100*time.Millisecond {
			t.Errorf("Receive: %v after %v, want its context's error after a second", err, took)
		}
		if err := hub.Send(background, "queue", "task", 1); err != nil {
			t.Fatal(err)
		}
		if e, err := hub.Receive(background, "queue"); err != nil || e.Type != "task" {
			t.Errorf("Receive: %+v, %v, want what nobody had waited for", e, err)
		}
		hub.Shutdown(background)
		layer.Close()
	})
}

func isLayerError(err error) bool {
	return errors.Is(err, grouphub.ErrUnavailable) || errors.Is(err, grouphub.ErrUncertain)
}

func TestALayersOwnErrorIsBetterThanNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		layer := newFaultyLayer()
		layer.publish = func(grouphub.Publication) error {
			time.Sleep(4950 * time.Millisecond) // past its context, but not by much
			return grouphub.ErrUnavailable
		}
		hub := grouphub.New(&grouphub.Options{Layer: layer})
		if err := hub.GroupSend(background, "g", "e", nil); !errors.Is(err, grouphub.ErrUnavailable) {
			t.Errorf("GroupSend: %v, want what the layer said", err)
		}
		hub.Shutdown(background)
		layer.Close()
	})
}
