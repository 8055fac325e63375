// Package memory has the layer that connects the hubs of one process. It runs no goroutine,
// and everything in it is guarded by one mutex, Layer.mu, which is never held while a
// receiver is called. Its files are the parts of [layer.Layer]: topics with their
// publishers, subscriptions, histories, leases, and queues.
package memory

import (
	"context"
	"fmt"
	"sync"

	"github.com/seed-29c60982/grouphub/layer"
)

// A Layer implements [layer.Layer]. It is what a grouphub.MemoryLayer is made of.
type Layer struct {
	done chan struct{} // closed by Close

	mu            sync.Mutex // guards what follows, and the topics, histories and queues in it
	closed        bool
	subscriptions map[*Subscription]struct{}
	topics        map[string]*topicState
	queues        map[string]*namedQueue
	leases        map[string]map[string]heldLease // by topic, then by holder
}

// New returns an empty layer.
func New() *Layer {
	return &Layer{
		done:          make(chan struct{}),
		subscriptions: make(map[*Subscription]struct{}),
		topics:        make(map[string]*topicState),
		queues:        make(map[string]*namedQueue),
		leases:        make(map[string]map[string]heldLease),
	}
}

// InUse returns how many topics and queues the layer has in memory.
func (l *Layer) InUse() (topics, queues int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.topics), len(l.queues)
}

// Attach implements [layer.Layer].
func (l *Layer) Attach(hub string, r layer.Receiver) (layer.Subscription, error) {
	s := &Subscription{layer: l, receiver: r, topics: make(map[string]struct{})}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, fmt.Errorf("%w: attach %q", layer.ErrClosed, hub)
	}
	l.subscriptions[s] = struct{}{}
	s.addLocked(hub)
	return s, nil
}

// Close implements [layer.Layer].
func (l *Layer) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return fmt.Errorf("%w: close the memory layer", layer.ErrClosed)
	}
	l.closed = true
	close(l.done)
	var subscriptions []*Subscription
	for s := range l.subscriptions {
		subscriptions = append(subscriptions, s)
	}
	for _, q := range l.queues {
		q.expiry.Stop()
	}
	clear(l.queues)
	for _, t := range l.topics {
		if t.history != nil {
			t.history.next.Stop()
		}
	}
	l.mu.Unlock()
	for _, s := range subscriptions {
		s.Close()
	}
	return nil
}
