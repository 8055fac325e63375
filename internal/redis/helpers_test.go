package redis

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/seed-29c60982/grouphub/layer"
)

// newTestLayer returns a layer that is closed with the test.
func newTestLayer(t *testing.T, url string, opts Options) *Layer {
	t.Helper()
	l, err := New(url, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

var names atomic.Int64 // of hubs and prefixes that are used once

// testHub keeps what it receives, and signals changes.
type testHub struct {
	layer.Subscription
	t       *testing.T
	name    string        // its own topic, which is not among what is noted as lost
	changed chan struct{} // has room for one

	mu   sync.Mutex
	got  []string // payloads, in order
	lost []string // topics, those of each call sorted
}

func attach(t *testing.T, l layer.Layer, hub string, r layer.Receiver, topics ...string) layer.Subscription {
	t.Helper()
	s, err := l.Attach(hub, r)
	if err != nil {
		t.Fatal(err)
	}
	if len(topics) == 0 {
		return s
	}
	if err := s.Add(context.Background(), topics...); err != nil {
		t.Fatal(err)
	}
	return s
}

func attachHub(t *testing.T, l layer.Layer, topics ...string) *testHub {
	t.Helper()
	h := &testHub{t: t, name: fmt.Sprint("hub", names.Add(1)), changed: make(chan struct{}, 1)}
	h.Subscription = attach(t, l, h.name, h, topics...)
	return h
}

func (h *testHub) Ready(context.Context, string) error { return nil }

func (h *testHub) Deliver(p layer.Publication) { h.note(&h.got, string(p.Payload)) }

func (h *testHub) Lost(topics []string) {
	topics = slices.DeleteFunc(topics, func(topic string) bool { return topic == h.name })
	slices.Sort(topics)
	h.note(&h.lost, topics...)
}

func (h *testHub) note(where *[]string, what ...string) {
	h.mu.Lock()
	*where = append(*where, what...)
	h.mu.Unlock()
	select {
	case h.changed <- struct{}{}:
	default:
	}
}

func (h *testHub) state() (got, lost []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.got), slices.Clone(h.lost)
}

// until waits for a state.
func (h *testHub) until(what string, condition func(got, lost []string) bool) {
	h.t.Helper()
	patience := time.After(30 * time.Second)
	for {
		got, lost := h.state()
		if condition(got, lost) {
			return
		}
		select {
		case <-h.changed:
		case <-patience:
			h.t.Fatalf("waited for %s: received %.300q, lost %.300q", what, got, lost)
		}
	}
}

func (h *testHub) untilReceived(payload string) {
	h.t.Helper()
	h.until(payload, func(got, _ []string) bool { return slices.Contains(got, payload) })
}

func (h *testHub) untilLost(topics ...string) {
	h.t.Helper()
	h.until("Lost", func(_, lost []string) bool { return slices.Equal(lost, topics) })
}

// await polls for what gives no signal.
func await(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for patience := time.Now().Add(30 * time.Second); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(patience) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func mustPublish(t *testing.T, l layer.Layer, topic, payload string) {
	t.Helper()
	if err := l.Publish(context.Background(), publication(topic, payload)); err != nil {
		t.Fatal(err)
	}
}

func kept(topic, payload string, keep layer.Keep) layer.Publication {
	return layer.Publication{Topic: topic, Payload: []byte(payload), Keep: keep}
}

// payloadsOf returns what is kept of a topic.
func payloadsOf(t *testing.T, l *Layer, topic string) (payloads []string) {
	t.Helper()
	h, err := l.History(t.Context(), topic, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range h.Kept {
		payloads = append(payloads, string(p.Payload))
	}
	return payloads
}

func mustTake(t *testing.T, l *Layer, queue, want string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if message, err := l.Take(ctx, queue); err != nil || string(message) != want {
		t.Errorf("took %q, %v, want %q", message, err, want)
	}
}

func keep(t *testing.T, l *Layer, topic, payload string) {
	t.Helper()
	p := layer.Publication{Topic: topic, Payload: []byte(payload), Keep: layer.Keep{Count: 100, Life: time.Minute}}
	if err := l.Publish(t.Context(), p); err != nil {
		t.Fatal(err)
	}
}

func history(t *testing.T, l *Layer, topic string, after uint64) layer.History {
	t.Helper()
	h, err := l.History(t.Context(), topic, after)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func publication(topic, payload string) layer.Publication {
	return layer.Publication{Topic: topic, Payload: []byte(payload)}
}
