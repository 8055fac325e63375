package layertest

import (
	"context"

	"github.com/seed-29c60982/grouphub/internal/memory"
	"github.com/seed-29c60982/grouphub/layer"
)

// A faultyLayer is a layer whose methods can be replaced one by one. Each function that is
// not replaced calls the layer inside.
type faultyLayer struct {
	inside      *memory.Layer
	attach      func(hub string, r layer.Receiver) (layer.Subscription, error)
	publish     func(ctx context.Context, p layer.Publication) error
	history     func(ctx context.Context, topic string, after uint64) (layer.History, error)
	positionsOf func(ctx context.Context, topics []string) ([]layer.Position, error)
	lease       func(ctx context.Context, topic, holder string, change layer.LeaseChange) (bool, error)
	leases      func(ctx context.Context, topic string, known map[string]uint64) (map[string]layer.Lease, error)
	appendTo    func(ctx context.Context, queue string, message []byte) error
	take        func(ctx context.Context, queue string) ([]byte, error)
	close       func() error
}

func newFaultyLayer(inside *memory.Layer) *faultyLayer {
	return &faultyLayer{inside: inside, attach: inside.Attach, publish: inside.Publish, history: inside.History,
		positionsOf: inside.Positions, lease: inside.Lease, leases: inside.Leases, appendTo: inside.Append, take: inside.Take, close: inside.Close}
}

func (l *faultyLayer) Attach(hub string, r layer.Receiver) (layer.Subscription, error) {
	return l.attach(hub, r)
}

func (l *faultyLayer) Publish(ctx context.Context, p layer.Publication) error {
	return l.publish(ctx, p)
}

func (l *faultyLayer) History(ctx context.Context, topic string, after uint64) (layer.History, error) {
	return l.history(ctx, topic, after)
}

func (l *faultyLayer) Positions(ctx context.Context, topics []string) ([]layer.Position, error) {
	return l.positionsOf(ctx, topics)
}

func (l *faultyLayer) Lease(ctx context.Context, topic, holder string, change layer.LeaseChange) (bool, error) {
	return l.lease(ctx, topic, holder, change)
}

func (l *faultyLayer) Leases(ctx context.Context, topic string, known map[string]uint64) (map[string]layer.Lease, error) {
	return l.leases(ctx, topic, known)
}

func (l *faultyLayer) Append(ctx context.Context, queue string, message []byte) error {
	return l.appendTo(ctx, queue, message)
}

func (l *faultyLayer) Take(ctx context.Context, queue string) ([]byte, error) {
	return l.take(ctx, queue)
}

func (l *faultyLayer) Close() error { return l.close() }

// deliver replaces what receivers get: fn is called with each publication and the receiver's
// own Deliver.
func (l *faultyLayer) deliver(fn func(deliver func(layer.Publication), p layer.Publication)) {
	attach := l.attach
	l.attach = func(hub string, r layer.Receiver) (layer.Subscription, error) {
		return attach(hub, &faultyReceiver{r, fn})
	}
}

type faultyReceiver struct {
	layer.Receiver
	deliver func(deliver func(layer.Publication), p layer.Publication)
}

func (r *faultyReceiver) Deliver(p layer.Publication) { r.deliver(r.Receiver.Deliver, p) }

// subscribe replaces methods of the subscriptions: change is called with each new one.
func (l *faultyLayer) subscribe(change func(s *faultySubscription)) {
	attach := l.attach
	l.attach = func(hub string, r layer.Receiver) (layer.Subscription, error) {
		inside, err := attach(hub, r)
		if err != nil {
			return nil, err
		}
		s := &faultySubscription{inside, hub, r, inside.Add, inside.Remove, inside.Up, inside.Close}
		change(s)
		return s, nil
	}
}

// A faultySubscription is a subscription whose methods can be replaced one by one.
type faultySubscription struct {
	inside   layer.Subscription
	hub      string
	receiver layer.Receiver
	add      func(ctx context.Context, topics ...string) error
	remove   func(topics ...string)
	up       func() bool
	close    func() error
}

func (s *faultySubscription) Add(ctx context.Context, topics ...string) error {
	return s.add(ctx, topics...)
}

func (s *faultySubscription) Remove(topics ...string) { s.remove(topics...) }
func (s *faultySubscription) Up() bool                { return s.up() }
func (s *faultySubscription) Close() error            { return s.close() }
