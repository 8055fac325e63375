package grouphub

import (
	"context"
	"fmt"
	"time"

	"github.com/seed-29c60982/grouphub/layer"
)

// layerGrace is how long a layer may take to return after the context of a call has ended.
// The error that it returns then says more than that it did not return.
const layerGrace = 100 * time.Millisecond

// A boundedLayer ends calls that its layer does not end itself, with their context or after
// layerTimeout. Each call runs on a goroutine of its own, and is left alone when it takes too
// long. The layers of this package keep to their contexts, so a hub uses them as they are.
type boundedLayer struct {
	Layer
	calls *waitGroup // those under way, left alone or not
}

// bounded returns a layer whose calls end in time.
func bounded(l Layer) Layer {
	switch l.(type) {
	case *MemoryLayer, *RedisLayer:
		return l
	}
	return &boundedLayer{l, newWaitGroup()}
}

// waitForCalls waits until the calls that were left alone have returned, if l has any. It
// ends with ctx, or after layerTimeout: more cannot be done about them.
func waitForCalls(ctx context.Context, l Layer) {
	if l, ok := l.(*boundedLayer); ok {
		ctx, cancel := context.WithTimeout(ctx, layerTimeout)
		defer cancel()
		_ = l.calls.wait(ctx)
	}
}

// callBounded returns what fn returns, or an error that wraps kind and the context's error if
// fn does not return in time.
func callBounded[T any](ctx context.Context, calls *waitGroup, kind error, fn func(ctx context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, layerTimeout-layerGrace)
	defer cancel()
	type result struct {
		value T
		err   error
	}
	returned := make(chan result, 1)
	calls.Go(func() {
		value, err := fn(ctx)
		returned <- result{value, err}
	})
	select {
	case r := <-returned:
		return r.value, r.err
	case <-ctx.Done():
	}
	grace := time.NewTimer(layerGrace)
	defer grace.Stop()
	select {
	case r := <-returned:
		return r.value, r.err
	case <-grace.C:
		var none T
		return none, fmt.Errorf("%w: the layer does not return: %w", kind, ctx.Err())
	}
}

// run is callBounded for a call that only returns an error.
func (l *boundedLayer) run(ctx context.Context, kind error, fn func(ctx context.Context) error) error {
	_, err := callBounded(ctx, l.calls, kind, func(ctx context.Context) (struct{}, error) { return struct{}{}, fn(ctx) })
	return err
}

func (l *boundedLayer) Attach(hub string, r Receiver) (Subscription, error) {
	s, err := l.Layer.Attach(hub, r)
	if err != nil {
		return nil, err
	}
	return &boundedSubscription{s, l}, nil
}

func (l *boundedLayer) Publish(ctx context.Context, p Publication) error {
	return l.run(ctx, ErrUncertain, func(ctx context.Context) error { return l.Layer.Publish(ctx, p) })
}

func (l *boundedLayer) History(ctx context.Context, topic string, after uint64) (History, error) {
	return callBounded(ctx, l.calls, ErrUnavailable, func(ctx context.Context) (History, error) {
		return l.Layer.History(ctx, topic, after)
	})
}

// Positions implements [layer.Positioner], if the layer inside does.
func (l *boundedLayer) Positions(ctx context.Context, topics []string) ([]Position, error) {
	return callBounded(ctx, l.calls, ErrUnavailable, func(ctx context.Context) ([]Position, error) {
		return l.Layer.(layer.Positioner).Positions(ctx, topics)
	})
}

// positioner returns what says of many topics at once how far they are, nil if the layer does not.
func positioner(l Layer) layer.Positioner {
	if bounded, ok := l.(*boundedLayer); ok {
		if _, ok := bounded.Layer.(layer.Positioner); !ok {
			return nil
		}
	}
	p, _ := l.(layer.Positioner)
	return p
}

func (l *boundedLayer) Lease(ctx context.Context, topic, holder string, change LeaseChange) (bool, error) {
	return callBounded(ctx, l.calls, ErrUncertain, func(ctx context.Context) (bool, error) {
		return l.Layer.Lease(ctx, topic, holder, change)
	})
}

func (l *boundedLayer) Leases(ctx context.Context, topic string, known map[string]uint64) (map[string]Lease, error) {
	return callBounded(ctx, l.calls, ErrUnavailable, func(ctx context.Context) (map[string]Lease, error) {
		return l.Layer.Leases(ctx, topic, known)
	})
}

func (l *boundedLayer) Append(ctx context.Context, queue string, message []byte) error {
	return l.run(ctx, ErrUncertain, func(ctx context.Context) error { return l.Layer.Append(ctx, queue, message) })
}

// Take ends with its context. A message that the layer takes later goes back to the queue, to
// its end.
func (l *boundedLayer) Take(ctx context.Context, queue string) ([]byte, error) {
	type result struct {
		message []byte
		err     error
	}
	returned, left := make(chan result), make(chan struct{})
	l.calls.Go(func() {
		message, err := l.Layer.Take(ctx, queue)
		select {
		case returned <- result{message, err}:
		case <-left:
			if err == nil {
				_ = l.Append(context.Background(), queue, message) // there is nobody to tell
			}
		}
	})
	select {
	case r := <-returned:
		return r.message, r.err
	case <-ctx.Done():
	}
	grace := time.NewTimer(layerGrace)
	defer grace.Stop()
	select {
	case r := <-returned:
		return r.message, r.err
	case <-grace.C:
		close(left)
		return nil, fmt.Errorf("grouphub: take from %s: the layer does not return: %w", quoted(queue), ctx.Err())
	}
}

// A boundedSubscription is one of a boundedLayer.
type boundedSubscription struct {
	Subscription
	layer *boundedLayer
}

func (s *boundedSubscription) Add(ctx context.Context, topics ...string) error {
	return s.layer.run(ctx, ErrUnavailable, func(ctx context.Context) error { return s.Subscription.Add(ctx, topics...) })
}

// closeSubscription closes a subscription. It does not wait longer than ctx or layerTimeout
// for a layer that does not keep to its promises.
func closeSubscription(ctx context.Context, s Subscription) {
	if s, ok := s.(*boundedSubscription); ok {
		_ = s.layer.run(ctx, ErrUncertain, func(context.Context) error { return s.Subscription.Close() })
		return
	}
	_ = s.Close()
}
