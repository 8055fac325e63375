package grouphub_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
)

// A faultyLayer stands between a hub and a memory layer. A test can make it lose, repeat and
// delay what is delivered, refuse and hold up calls, and call the hub as a layer does. What
// the memory layer keeps is right.
type faultyLayer struct {
	*grouphub.MemoryLayer
	receiver grouphub.Receiver // the hub that was attached last
	down     atomic.Bool       // histories cannot be read

	// Each of these may be nil. It is called before the layer does what it is asked for, and
	// if it returns an error, the layer does not do it. They are set before the hub is made.
	adding func(topics []string) error
	lease  func(ctx context.Context, topic string) error
	// In place of the layer's Publish.
	publish func(p grouphub.Publication) error
	// Called when a history was read, and before it is returned.
	reading func(topic string)
	// In place of the layer's Positions.
	positions func(ctx context.Context, topics []string) ([]grouphub.Position, error)

	mu    sync.Mutex
	fault func(p grouphub.Publication) []grouphub.Publication // what arrives of a publication; nil: all
}

func newFaultyLayer() *faultyLayer {
	return &faultyLayer{MemoryLayer: grouphub.NewMemoryLayer()}
}

func (l *faultyLayer) Attach(hub string, r grouphub.Receiver) (grouphub.Subscription, error) {
	l.receiver = r
	s, err := l.MemoryLayer.Attach(hub, faultyReceiver{r, l})
	return faultySubscription{s, l}, err
}

func (l *faultyLayer) Publish(ctx context.Context, p grouphub.Publication) error {
	if l.publish != nil {
		return l.publish(p)
	}
	return l.MemoryLayer.Publish(ctx, p)
}

func (l *faultyLayer) History(ctx context.Context, topic string, after uint64) (grouphub.History, error) {
	if l.down.Load() {
		return grouphub.History{}, grouphub.ErrUnavailable
	}
	history, err := l.MemoryLayer.History(ctx, topic, after)
	if l.reading != nil {
		l.reading(topic)
	}
	return history, err
}

func (l *faultyLayer) Positions(ctx context.Context, topics []string) ([]grouphub.Position, error) {
	if l.positions != nil {
		return l.positions(ctx, topics)
	}
	return l.MemoryLayer.Positions(ctx, topics)
}

func (l *faultyLayer) Lease(ctx context.Context, topic, holder string, change grouphub.LeaseChange) (bool, error) {
	if l.lease != nil {
		if err := l.lease(ctx, topic); err != nil {
			return false, err
		}
	}
	return l.MemoryLayer.Lease(ctx, topic, holder, change)
}

func (l *faultyLayer) setFault(f func(p grouphub.Publication) []grouphub.Publication) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fault = f
}

// cut makes the hub hear nothing, and read no history, until mend.
func (l *faultyLayer) cut() {
	l.down.Store(true)
	l.setFault(loseAll)
}

// mend connects the hub again, and tells it of the interruption.
func (l *faultyLayer) mend() {
	l.setFault(nil)
	l.down.Store(false)
	l.receiver.Lost(nil)
}

type faultySubscription struct {
	grouphub.Subscription
	layer *faultyLayer
}

func (s faultySubscription) Add(ctx context.Context, topics ...string) error {
	if s.layer.adding != nil {
		if err := s.layer.adding(topics); err != nil {
			return err
		}
	}
	return s.Subscription.Add(ctx, topics...)
}

type faultyReceiver struct {
	grouphub.Receiver
	layer *faultyLayer
}

func (r faultyReceiver) Deliver(p grouphub.Publication) {
	r.layer.mu.Lock()
	defer r.layer.mu.Unlock()
	out := []grouphub.Publication{p}
	if r.layer.fault != nil {
		out = r.layer.fault(p)
	}
	for _, p := range out {
		r.Receiver.Deliver(p)
	}
}

// loseAll is a fault.
func loseAll(grouphub.Publication) []grouphub.Publication { return nil }

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

// newBluntLayer returns a layer that delivers without asking whether there is room, as
// Redis does.
func newBluntLayer() *faultyLayer {
	l := newFaultyLayer()
	l.publish = func(p grouphub.Publication) error { l.receiver.Deliver(p); return nil }
	return l
}

// resyncs returns a Resync that hands over what it is told.
func resyncs() (<-chan []string, func(*grouphub.Conn, []string)) {
	told := make(chan []string, 100)
	return told, func(_ *grouphub.Conn, groups []string) { told <- groups }
}

// newFreezingLayer returns a layer, and a function after whose call there is no answer for
// the leases of the groups whose names begin with a prefix: each call takes five seconds, or
// as long as its context allows.
func newFreezingLayer() (l *faultyLayer, freeze func(groups string)) {
	var frozen atomic.Pointer[string]
	l = newFaultyLayer()
	l.lease = func(ctx context.Context, topic string) error {
		prefix := frozen.Load()
		if prefix == nil || !strings.HasPrefix(topic, "g:"+*prefix) {
			return nil
		}
		select {
		case <-time.After(5 * time.Second):
		case <-ctx.Done():
		}
		return grouphub.ErrUnavailable
	}
	return l, func(groups string) { frozen.Store(&groups) }
}

// presenceHub returns a hub with presence, and a member in each of so many groups.
func presenceHub(t *testing.T, layer grouphub.Layer, groups int, name string) (*grouphub.Hub, *hubtest.Client) {
	hub := grouphub.New(&grouphub.Options{
		Layer:  layer,
		Policy: func(string) grouphub.GroupPolicy { return grouphub.GroupPolicy{Presence: true} },
		Consumer: grouphub.Consumer{Connect: func(c *grouphub.Conn) error {
			var err error
			for i := range groups {
				err = errors.Join(err, c.Join(fmt.Sprint(name, i)))
			}
			return err
		}},
	})
	return hub, hubtest.Dial(t, hub, "/")
}
