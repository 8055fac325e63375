package grouphub_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/seed-29c60982/grouphub"
)

// A faultyLayer loses, repeats and delays what it delivers, and numbers begin anew
// when it is told so. What it keeps is right.
type faultyLayer struct {
	*grouphub.MemoryLayer
	mu       sync.Mutex
	receiver grouphub.Receiver
	fault    func(p grouphub.Publication) []grouphub.Publication
	down     atomic.Bool // History fails
}

func (l *faultyLayer) Attach(hub string, r grouphub.Receiver) (grouphub.Subscription, error) {
	l.receiver = r
	return l.MemoryLayer.Attach(hub, faultyReceiver{r, l})
}

func (l *faultyLayer) History(ctx context.Context, topic string, after uint64) (grouphub.History, error) {
	if l.down.Load() {
		return grouphub.History{}, grouphub.ErrUnavailable
	}
	return l.MemoryLayer.History(ctx, topic, after)
}

func (l *faultyLayer) setFault(f func(p grouphub.Publication) []grouphub.Publication) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fault = f
}

type faultyReceiver struct {
	grouphub.Receiver
	layer *faultyLayer
}

func (r faultyReceiver) Deliver(p grouphub.Publication) {
	r.layer.mu.Lock()
	defer r.layer.mu.Unlock()
	out := []grouphub.Publication{p}
	if r.layer.fault != nil && strings.HasPrefix(p.Topic, "g:") {
		out = r.layer.fault(p)
	}
	for _, p := range out {
		r.Receiver.Deliver(p)
	}
}

// dropAndRepeat returns a fault that drops some publications, repeats others, and delays
// yet others until a later one has been delivered.
func dropAndRepeat() func(grouphub.Publication) []grouphub.Publication {
	var late []grouphub.Publication
	return func(p grouphub.Publication) (out []grouphub.Publication) {
		switch rand.IntN(6) {
		case 0:
			return nil
		case 1:
			return []grouphub.Publication{p, p}
		case 2:
			late = append(late, p)
			return nil
		case 3:
			out = append([]grouphub.Publication{p}, late...)
			late = nil
			return out
		}
		return []grouphub.Publication{p}
	}
}

// A gatedLayer is a faulty one whose histories are read when the test says so.
type gatedLayer struct {
	faultyLayer
	reading func(topic string) // called before a history is returned
}

func (l *gatedLayer) History(ctx context.Context, topic string, after uint64) (grouphub.History, error) {
	history, err := l.faultyLayer.History(ctx, topic, after)
	l.reading(topic)
	return history, err
}

func newGatedLayer(reading func(topic string)) *gatedLayer {
	return &gatedLayer{faultyLayer{MemoryLayer: grouphub.NewMemoryLayer()}, reading}
}

// A cutOffLayer is one hub's way to a layer that others use, too. While it is cut, what
// they send does not arrive.
type cutOffLayer struct {
	*grouphub.MemoryLayer
	cut      atomic.Bool
	receiver grouphub.Receiver
}

func (l *cutOffLayer) Attach(hub string, r grouphub.Receiver) (grouphub.Subscription, error) {
	l.receiver = r
	return l.MemoryLayer.Attach(hub, cutOffReceiver{r, l})
}

func (l *cutOffLayer) History(ctx context.Context, topic string, after uint64) (grouphub.History, error) {
	if l.cut.Load() {
		return grouphub.History{}, grouphub.ErrUnavailable
	}
	return l.MemoryLayer.History(ctx, topic, after)
}

// mend connects the hub again, and tells it of the interruption.
func (l *cutOffLayer) mend() {
	l.cut.Store(false)
	l.receiver.Lost(nil)
}

type cutOffReceiver struct {
	grouphub.Receiver
	layer *cutOffLayer
}

func (r cutOffReceiver) Deliver(p grouphub.Publication) {
	if !r.layer.cut.Load() {
		r.Receiver.Deliver(p)
	}
}

// lossyLayer lets a test speak to its one hub as a layer does.
type lossyLayer struct {
	grouphub.Layer
	hub grouphub.Receiver
}

func (l *lossyLayer) Attach(hub string, r grouphub.Receiver) (grouphub.Subscription, error) {
	l.hub = r
	return l.Layer.Attach(hub, r)
}

// Publish delivers to the hub without asking whether there is room, as Redis does.
func (l *lossyLayer) Publish(_ context.Context, p grouphub.Publication) error {
	l.hub.Deliver(p)
	return nil
}

func newLossyLayer() *lossyLayer { return &lossyLayer{Layer: grouphub.NewMemoryLayer()} }

// resyncs returns a Resync that hands over what it is told.
func resyncs() (<-chan []string, func(*grouphub.Conn, []string)) {
	told := make(chan []string, 100)
	return told, func(_ *grouphub.Conn, groups []string) { told <- groups }
}

// brokenLayer is a layer whose Publish fails.
type brokenLayer struct {
	grouphub.Layer
	err error
}

func (l brokenLayer) Publish(context.Context, grouphub.Publication) error {
	return fmt.Errorf("%w: pulled the plug", l.err)
}

// A lateLayer confirms a subscription and reads a history just in time.
type lateLayer struct{ *grouphub.MemoryLayer }

func (l lateLayer) Attach(hub string, r grouphub.Receiver) (grouphub.Subscription, error) {
	s, err := l.MemoryLayer.Attach(hub, r)
	return lateSubscription{s}, err
}

func (l lateLayer) History(ctx context.Context, topic string, after uint64) (grouphub.History, error) {
	time.Sleep(late)
	return l.MemoryLayer.History(ctx, topic, after)
}

type lateSubscription struct{ grouphub.Subscription }

func (s lateSubscription) Add(ctx context.Context, topics ...string) error {
	if topics[0] == "g:g" {
		time.Sleep(late)
	}
	return s.Subscription.Add(ctx, topics...)
}

const late = 4 * time.Second

// A leaseLayer has a server that does not answer for the leases of some groups: each try
// takes five seconds, or as long as its context allows.
type leaseLayer struct {
	*grouphub.MemoryLayer
	frozen atomic.Value // the prefix of the groups
}

func (l *leaseLayer) Lease(ctx context.Context, topic, holder string, value []byte, life time.Duration) (bool, error) {
	if strings.HasPrefix(topic, "g:"+l.frozen.Load().(string)) {
		select {
		case <-time.After(5 * time.Second):
		case <-ctx.Done():
		}
		return false, grouphub.ErrUnavailable
	}
	return l.MemoryLayer.Lease(ctx, topic, holder, value, life)
}

func newLeaseLayer() *leaseLayer {
	l := &leaseLayer{MemoryLayer: grouphub.NewMemoryLayer()}
	l.frozen.Store("no group")
	return l
}

// flakyLeases refuses leases at once while it is down.
type flakyLeases struct {
	*grouphub.MemoryLayer
	down  atomic.Bool
	tries atomic.Int32
}

func (l *flakyLeases) Lease(ctx context.Context, topic, holder string, value []byte, life time.Duration) (bool, error) {
	if l.tries.Add(1); l.down.Load() {
		return false, grouphub.ErrUnavailable
	}
	return l.MemoryLayer.Lease(ctx, topic, holder, value, life)
}

// deafLayer does not deliver what is told to all hubs, and does not say so.
type deafLayer struct{ *grouphub.MemoryLayer }

func (l deafLayer) Attach(hub string, r grouphub.Receiver) (grouphub.Subscription, error) {
	return l.MemoryLayer.Attach(hub, deafReceiver{r})
}

type deafReceiver struct{ grouphub.Receiver }

func (r deafReceiver) Deliver(p grouphub.Publication) {
	if p.Topic != "c:all" {
		r.Receiver.Deliver(p)
	}
}
