package memory

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"time"

	"github.com/seed-29c60982/grouphub/layer"
)

// A heldLease is a holder's lease of a topic.
type heldLease struct {
	layer.Lease
	ends time.Time
}

// Lease implements [layer.Layer].
func (l *Layer) Lease(_ context.Context, topic, holder string, change layer.LeaseChange) (bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false, fmt.Errorf("%w: lease %q", layer.ErrClosed, topic)
	}
	held := l.unexpiredLocked(topic)
	lease := held[holder]
	replaces := change.After == 0 || change.Life <= 0
	if replaces && lease.Version > change.Version || !replaces && lease.Version != change.After {
		return false, nil
	}
	if change.Life <= 0 {
		delete(held, holder)
		if len(held) == 0 {
			delete(l.leases, topic)
		}
		return true, nil
	}
	if replaces {
		lease.Fields = make(map[string][]byte, len(change.Set))
	}
	for name, value := range change.Set {
		lease.Fields[name] = bytes.Clone(value)
	}
	for _, name := range change.Remove {
		delete(lease.Fields, name)
	}
	lease.Version, lease.ends = change.Version, time.Now().Add(change.Life)
	if held == nil {
		held = make(map[string]heldLease)
		l.leases[topic] = held
	}
	held[holder] = lease
	return true, nil
}

// Leases implements [layer.Layer].
func (l *Layer) Leases(_ context.Context, topic string, known map[string]uint64) (map[string]layer.Lease, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, fmt.Errorf("%w: leases of %q", layer.ErrClosed, topic)
	}
	leases := make(map[string]layer.Lease)
	for holder, held := range l.unexpiredLocked(topic) {
		lease := layer.Lease{Version: held.Version}
		if held.Version != known[holder] {
			lease.Fields = make(map[string][]byte, len(held.Fields))
			for name, value := range held.Fields {
				lease.Fields[name] = bytes.Clone(value)
			}
		}
		leases[holder] = lease
	}
	return leases, nil
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
