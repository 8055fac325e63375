package memory

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"time"

	"github.com/seed-29c60982/grouphub/layer"
)

// A heldLease is a holder's value for a topic.
type heldLease struct {
	value []byte
	ends  time.Time
}

// Lease implements [layer.Layer].
func (l *Layer) Lease(_ context.Context, topic, holder string, value []byte, life time.Duration) (bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false, fmt.Errorf("%w: lease %q", layer.ErrClosed, topic)
	}
	held := l.unexpiredLocked(topic)
	lease, ok := held[holder]
	if value != nil {
		lease.value, ok = bytes.Clone(value), true
	}
	switch {
	case life <= 0:
		delete(held, holder)
		ok = true
	case ok:
		if held == nil {
			held = make(map[string]heldLease)
			l.leases[topic] = held
		}
		lease.ends = time.Now().Add(life)
		held[holder] = lease
	}
	if len(held) == 0 {
		delete(l.leases, topic)
	}
	return ok, nil
}

// Leases implements [layer.Layer].
func (l *Layer) Leases(_ context.Context, topic string) (map[string][]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, fmt.Errorf("%w: leases of %q", layer.ErrClosed, topic)
	}
	values := make(map[string][]byte)
	for holder, lease := range l.unexpiredLocked(topic) {
		values[holder] = bytes.Clone(lease.value)
	}
	return values, nil
}

// unexpiredLocked returns a topic's leases, nil if there are none, and forgets those that
// have ended.
func (l *Layer) unexpiredLocked(topic string) map[string]heldLease {
	held := l.leases[topic]
	now := time.Now()
	maps.DeleteFunc(held, func(_ string, lease heldLease) bool { return !lease.ends.After(now) })
	if len(held) == 0 {
		delete(l.leases, topic)
		return nil
	}
	return held
}
