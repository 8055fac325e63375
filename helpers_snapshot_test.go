package grouphub_test

import (
	"context"
	"sync"
	"testing"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
)

// A counted is a state that changes by one at a time: a database, as far as snapshots go. A
// test may have its loads do something else first.
type counted struct {
	mu    sync.Mutex
	value int
	loads int
	first func(ctx context.Context, load int) error // called before a load reads, if it is not nil
}

// load is a GroupPolicy.Snapshot.
func (s *counted) load(ctx context.Context, _ string) (any, error) {
	s.mu.Lock()
	s.loads++
	load, first := s.loads, s.first
	s.mu.Unlock()
	if first != nil {
		if err := first(ctx, load); err != nil {
			return nil, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.value, nil
}

// loaded returns how many loads have begun.
func (s *counted) loaded() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.loads
}

// change adds one, and sends the new value to group g as an event of type "n".
func (s *counted) change(t testing.TB, hub *grouphub.Hub) {
	t.Helper()
	s.mu.Lock()
	s.value++
	value := s.value
	s.mu.Unlock()
	send(t, hub, "g", "n", value)
}

// policy is one by which every group keeps n events and begins with a snapshot.
func (s *counted) policy(n int) func(string) grouphub.GroupPolicy {
	return func(string) grouphub.GroupPolicy { return grouphub.GroupPolicy{History: n, Snapshot: s.load} }
}

// both are the handlers of a consumer that forwards snapshots and numbers.
var both = grouphub.Events{"snapshot": grouphub.Forward(), "n": grouphub.Forward()}

// countingHub returns a hub whose connections join g, which keeps n events.
func countingHub(t testing.TB, s *counted, n int, layer grouphub.Layer) *grouphub.Hub {
	t.Helper()
	return newHub(t, &grouphub.Options{Layer: layer, Policy: s.policy(n), Logger: quiet(), Consumer: grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error { return c.Join("g") },
		Events:  both,
	}})
}

// handOverCounted returns a hub whose connections join nothing by themselves, and arrive on
// the channel.
func handOverCounted(t testing.TB, s *counted, n int) (*grouphub.Hub, <-chan *grouphub.Conn) {
	t.Helper()
	conns := make(chan *grouphub.Conn, 100)
	return newHub(t, &grouphub.Options{Policy: s.policy(n), Logger: quiet(), Consumer: grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error { conns <- c; return nil },
		Events:  both,
	}}), conns
}

// inBackground returns the result of a call that may block.
func inBackground(f func() error) <-chan error {
	result := make(chan error, 1)
	go func() { result <- f() }()
	return result
}

// groupSize returns how many connections of the hub are in a group.
func groupSize(hub *grouphub.Hub, group string) (size int) {
	for _, n := range grouphub.ShardSizes(hub, group) {
		size += n
	}
	return size
}

// joinG is a Connect.
func joinG(c *grouphub.Conn) error { return c.Join("g") }

// mendGroup is mend for a hub that has members of a group.
func (l *faultyLayer) mendGroup(group string) {
	l.setFault(nil)
	l.down.Store(false)
	l.receiver.Lost([]string{"g:" + group})
}

// nextEvent returns the next message as an event.
func nextEvent(t testing.TB, c *hubtest.Client) (e grouphub.Event) {
	t.Helper()
	m := c.Next()
	if err := m.Decode(&e); err != nil {
		t.Fatalf("got %s: %v", m.Data, err)
	}
	return e
}
