package layertest

import (
	"context"
	"runtime"
	"slices"
	"sync"
	"testing"

	"github.com/seed-29c60982/grouphub/layer"
)

// A receiver records what is delivered to it, and fails the test where two calls for one
// topic overlap.
type receiver struct {
	layer.Subscription
	name    string
	t       testing.TB
	fixture *fixture

	mu      sync.Mutex
	got     map[string][]layer.Publication // by topic
	busy    map[string]bool                // topics with a call under way
	full    bool                           // Ready waits until its context ends
	closed  bool                           // every further call is an error
	mayLose bool                           // Lost may be called
	lost    map[string]int                 // how often Lost named a topic
	changed chan struct{}                  // closed and replaced when got changes
}

func newReceiver(f *fixture, name string) *receiver {
	return &receiver{name: name, t: f.t, fixture: f, got: make(map[string][]layer.Publication),
		busy: make(map[string]bool), lost: make(map[string]int), changed: make(chan struct{})}
}

// setFull says whether Ready waits from now on.
func (h *receiver) setFull(full bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.full = full
}

// forbidCalls makes every call from now on an error.
func (h *receiver) forbidCalls() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
}

// begin marks a call for a topic as under way.
func (h *receiver) begin(call, topic string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.busy[topic] {
		h.t.Errorf("%s of %q while another call for it is under way", call, topic)
	}
	if h.closed {
		h.t.Errorf("%s of %q after the subscription was closed", call, topic)
	}
	h.busy[topic] = true
}

func (h *receiver) Ready(ctx context.Context, topic string) error {
	h.begin("Ready", topic)
	runtime.Gosched()
	h.mu.Lock()
	full := h.full
	h.mu.Unlock()
	if full {
		<-ctx.Done()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.busy, topic)
	if full {
		return ctx.Err()
	}
	return nil
}

func (h *receiver) Deliver(p layer.Publication) {
	h.begin("Deliver", p.Topic)
	runtime.Gosched()
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.busy, p.Topic)
	h.got[p.Topic] = append(h.got[p.Topic], p)
	close(h.changed)
	h.changed = make(chan struct{})
}

func (h *receiver) Lost(topics []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.mayLose {
		h.t.Errorf("Lost(%q) while the layer was up", topics)
	}
	for _, topic := range topics {
		h.lost[topic]++
	}
	clear(topics) // the slice is the receiver's
}

// expectLoss allows Lost from now on, and forgets what it has said so far.
func (h *receiver) expectLoss() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.mayLose = true
	clear(h.lost)
}

// awaitLoss waits until Lost has named all of the topics.
func (h *receiver) awaitLoss(topics ...string) {
	h.t.Helper()
	var missing []string
	if !eventually(func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		missing = slices.DeleteFunc(slices.Clone(topics), func(topic string) bool { return h.lost[topic] > 0 })
		return len(missing) == 0
	}) {
		h.t.Fatalf("%s: Lost was not called for %q", h.name, missing)
	}
}

func (h *receiver) add(topics ...string) {
	h.t.Helper()
	if err := h.Add(h.fixture.ctx, topics...); err != nil {
		h.t.Fatalf("Add: %v", err)
	}
}

// publications returns what has been delivered of a topic.
func (h *receiver) publications(topic string) []layer.Publication {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.got[topic])
}

// received returns the payloads that have been delivered of a topic.
func (h *receiver) received(topic string) []string {
	publications := h.publications(topic)
	payloads := make([]string, len(publications))
	for i, p := range publications {
		payloads[i] = string(p.Payload)
	}
	return payloads
}

// count returns how many publications have been delivered of a topic.
func (h *receiver) count(topic string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.got[topic])
}

// await waits until n publications of the topic have arrived, and returns the payloads of
// all that have.
func (h *receiver) await(topic string, n int) []string {
	h.t.Helper()
	h.awaitCount(topic, n)
	return h.received(topic)
}

// awaitCount waits until n publications of the topic have arrived.
func (h *receiver) awaitCount(topic string, n int) {
	h.t.Helper()
	for {
		h.mu.Lock()
		changed, got := h.changed, len(h.got[topic])
		h.mu.Unlock()
		if got >= n {
			return
		}
		select {
		case <-changed:
		case <-h.fixture.ctx.Done():
			h.t.Fatalf("%s received %d of %d publications to %q", h.name, got, n, topic)
		}
	}
}

// expect waits for exactly these publications of the topic.
func (h *receiver) expect(topic string, want ...string) {
	h.t.Helper()
	if got := h.await(topic, len(want)); !slices.Equal(got, want) {
		h.t.Fatalf("%s received %.200q of %q, want %.200q", h.name, got, topic, want)
	}
}
