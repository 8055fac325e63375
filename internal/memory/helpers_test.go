package memory

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/seed-29c60982/grouphub/layer"
)

// waitingReceiver collects what it is given. Where full is set, Ready waits.
type waitingReceiver struct {
	full chan struct{} // holds a token while there is no room

	mu  sync.Mutex
	got []string
}

func newWaitingReceiver() *waitingReceiver { return &waitingReceiver{full: make(chan struct{}, 1)} }

func (r *waitingReceiver) Ready(ctx context.Context, _ string) error {
	select {
	case r.full <- struct{}{}:
		<-r.full
		return nil
	default:
	}
	select {
	case r.full <- struct{}{}:
		<-r.full
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (r *waitingReceiver) Deliver(p layer.Publication) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.got = append(r.got, string(p.Payload))
}

func (r *waitingReceiver) Lost([]string) {}

func (r *waitingReceiver) received() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return fmt.Sprint(r.got)
}

func attach(t *testing.T, l *Layer, hub string, r layer.Receiver, topics ...string) layer.Subscription {
	t.Helper()
	s, err := l.Attach(hub, r)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Add(context.Background(), topics...); err != nil {
		t.Fatal(err)
	}
	return s
}

func publication(topic, payload string) layer.Publication {
	return layer.Publication{Topic: topic, Payload: []byte(payload)}
}

// discard is a receiver that always has room and keeps nothing.
type discard struct{}

func (discard) Ready(context.Context, string) error { return nil }
func (discard) Deliver(layer.Publication)           {}
func (discard) Lost([]string)                       {}

func publish(t *testing.T, l *Layer, payload string, keep layer.Keep) {
	t.Helper()
	if err := l.Publish(context.Background(), layer.Publication{Topic: "topic", Payload: []byte(payload), Keep: keep}); err != nil {
		t.Fatal(err)
	}
}

func history(t *testing.T, l *Layer) layer.History {
	t.Helper()
	h, err := l.History(context.Background(), "topic", 0)
	if err != nil {
		t.Fatal(err)
	}
	return h
}
