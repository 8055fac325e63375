package redis

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/seed-29c60982/grouphub/layer"
)

// A Lazy is a layer that is there before its server: it tries to connect for as long as it
// takes. Until it has, its subscriptions are not up, Take waits, and every other call ends with
// ErrUnavailable.
type Lazy struct {
	// Static after construction.
	url    string
	opts   Options
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	ready  chan struct{} // closed when connected is set

	running sync.WaitGroup // the goroutine that connects

	mu        sync.Mutex
	closed    bool
	attempt   *Layer                         // that is being connected; nil: none
	connected *Layer                         // nil: not yet
	err       error                          // of the last attempt
	waiting   map[*lazySubscription]struct{} // to be attached to the layer once it is connected
}

// NewLazy returns a layer that connects to Redis on its own. It says at once what is wrong with
// the options.
func NewLazy(url string, opts Options) (*Lazy, error) {
	if _, _, err := prepare(url, opts); err != nil {
		return nil, err
	}
	l := &Lazy{url: url, opts: opts, ready: make(chan struct{}), waiting: make(map[*lazySubscription]struct{})}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	l.running.Go(l.connect)
	return l, nil
}

// connect tries to connect until it succeeds or the layer is closed.
func (l *Lazy) connect() {
	for backoff := backoffMin; l.ctx.Err() == nil; backoff = min(2*backoff, backoffMax) {
		err := l.try()
		if err == nil || l.ctx.Err() != nil {
			return
		}
		if backoff == backoffMin {
			cmp.Or(l.opts.Logger, slog.Default()).Warn("grouphub: no connection to redis, trying again", "error", err)
		}
		select {
		case <-time.After(backoff/2 + rand.N(backoff/2)):
		case <-l.ctx.Done():
		}
	}
}

// try makes one attempt to connect.
func (l *Lazy) try() error {
	attempt, option, err := prepare(l.url, l.opts)
	if err == nil {
		l.setAttempt(attempt)
		err = attempt.start(option)
		l.setAttempt(nil)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err = err; err != nil {
		return err
	}
	l.connected = attempt // Close closes it
	for s := range l.waiting {
		s.inner, s.err = attempt.Attach(s.hub, s.receiver)
	}
	l.waiting = nil
	close(l.ready)
	return nil
}

// setAttempt notes what Close has to interrupt.
func (l *Lazy) setAttempt(attempt *Layer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.attempt = attempt
	if attempt != nil && l.closed {
		attempt.connections.close()
	}
}

// get returns the layer, or why there is none.
func (l *Lazy) get() (*Layer, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.closed:
		return nil, fmt.Errorf("%w: the redis layer", layer.ErrClosed)
	case l.connected == nil && l.err == nil:
		return nil, fmt.Errorf("%w: not connected to redis yet", layer.ErrUnavailable)
	case l.connected == nil:
		return nil, l.err // wraps ErrUnavailable
	}
	return l.connected, nil
}

// Attach implements [layer.Layer].
func (l *Lazy) Attach(hub string, r layer.Receiver) (layer.Subscription, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, fmt.Errorf("%w: attach %q", layer.ErrClosed, hub)
	}
	if l.connected != nil {
		return l.connected.Attach(hub, r)
	}
	s := &lazySubscription{layer: l, hub: hub, receiver: r}
	l.waiting[s] = struct{}{}
	return s, nil
}

// Publish implements [layer.Layer].
func (l *Lazy) Publish(ctx context.Context, p layer.Publication) error {
	inner, err := l.get()
	if err != nil {
		return err
	}
	return inner.Publish(ctx, p)
}

// History implements [layer.Layer].
func (l *Lazy) History(ctx context.Context, topic string, after uint64) (layer.History, error) {
	inner, err := l.get()
	if err != nil {
		return layer.History{}, err
	}
	return inner.History(ctx, topic, after)
}

// Positions implements [layer.Positioner].
func (l *Lazy) Positions(ctx context.Context, topics []string) ([]layer.Position, error) {
	inner, err := l.get()
	if err != nil {
		return nil, err
	}
	return inner.Positions(ctx, topics)
}

// Lease implements [layer.Layer].
func (l *Lazy) Lease(ctx context.Context, topic, holder string, change layer.LeaseChange) (bool, error) {
	inner, err := l.get()
	if err != nil {
		return false, err
	}
	return inner.Lease(ctx, topic, holder, change)
}

// Leases implements [layer.Layer].
func (l *Lazy) Leases(ctx context.Context, topic string, known map[string]uint64) (map[string]layer.Lease, error) {
	inner, err := l.get()
	if err != nil {
		return nil, err
	}
	return inner.Leases(ctx, topic, known)
}

// Append implements [layer.Layer].
func (l *Lazy) Append(ctx context.Context, queue string, message []byte) error {
	inner, err := l.get()
	if err != nil {
		return err
	}
	return inner.Append(ctx, queue, message)
}

// Take implements [layer.Layer].
func (l *Lazy) Take(ctx context.Context, queue string) ([]byte, error) {
	select {
	case <-l.ready:
	case <-l.ctx.Done():
	case <-ctx.Done():
		return nil, fmt.Errorf("take from %q: %w", queue, ctx.Err())
	}
	inner, err := l.get()
	if err != nil {
		return nil, err
	}
	return inner.Take(ctx, queue)
}

// Discarded returns how many payloads could not be opened.
func (l *Lazy) Discarded() uint64 {
	if inner, err := l.get(); err == nil {
		return inner.Discarded()
	}
	return 0
}

// Close implements [layer.Layer].
func (l *Lazy) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return fmt.Errorf("%w: close the redis layer", layer.ErrClosed)
	}
	l.closed = true
	if l.attempt != nil {
		l.attempt.connections.close()
	}
	l.mu.Unlock()
	l.cancel()
	l.running.Wait()
	if l.connected != nil { // nobody sets it any more
		return l.connected.Close()
	}
	return nil
}

// A lazySubscription is one that was made before the layer was connected.
type lazySubscription struct {
	layer    *Lazy
	hub      string
	receiver layer.Receiver

	// Guarded by layer.mu.
	inner layer.Subscription // nil before the layer is connected, and if that has failed
	err   error              // of Attach, or that it was closed before
}

// get returns the subscription on the connected layer, or why there is none.
func (s *lazySubscription) get() (layer.Subscription, error) {
	if _, err := s.layer.get(); err != nil {
		return nil, err
	}
	s.layer.mu.Lock()
	defer s.layer.mu.Unlock()
	return s.inner, s.err
}

// Add implements [layer.Subscription].
func (s *lazySubscription) Add(ctx context.Context, topics ...string) error {
	inner, err := s.get()
	if err != nil {
		return err
	}
	return inner.Add(ctx, topics...)
}

// Remove implements [layer.Subscription]. Before the layer is connected there are no topics.
func (s *lazySubscription) Remove(topics ...string) {
	if inner, err := s.get(); err == nil {
		inner.Remove(topics...)
	}
}

// Up implements [layer.Subscription].
func (s *lazySubscription) Up() bool {
	inner, err := s.get()
	return err == nil && inner.Up()
}

// Close implements [layer.Subscription].
func (s *lazySubscription) Close() error {
	s.layer.mu.Lock()
	delete(s.layer.waiting, s)
	inner := s.inner
	if inner == nil { // and it will have none
		s.err = fmt.Errorf("%w: the subscription of %q", layer.ErrClosed, s.hub)
	}
	s.layer.mu.Unlock()
	if inner == nil {
		return nil
	}
	return inner.Close()
}
