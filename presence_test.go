package grouphub_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
)

// A leaseLayer has a server that does not answer for the leases of some groups: each try
// takes five seconds, or as long as its context allows.
type leaseLayer struct {
	*grouphub.MemoryLayer
	frozen atomic.Value // the prefix of the groups
}

func newLeaseLayer() *leaseLayer {
	l := &leaseLayer{MemoryLayer: grouphub.NewMemoryLayer()}
	l.frozen.Store("no group")
	return l
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

func TestShutdownEndsWithItsContextWhateverBecomesOfLeases(t *testing.T) {
	for allowed, most := range map[time.Duration]time.Duration{time.Second: time.Second, time.Hour: 5 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			layer := newLeaseLayer()
			hub, c := presenceHub(t, layer, 2000, "g")
			time.Sleep(time.Second)
			layer.frozen.Store("g")
			ctx, cancel := context.WithTimeout(background, allowed)
			defer cancel()
			begun := time.Now()
			// The connection answers at once, and so there is time for a last word.
			err := hub.Shutdown(ctx)
			if took := time.Since(begun); took > most || err != nil {
				t.Errorf("%v after %v", err, took)
			}
			c.Close()
			layer.Close()
		})
	}
}

func TestMembersAreListedThoughTheServerOfOthersIsFrozen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		layer := newLeaseLayer()
		one, c := presenceHub(t, layer, 1000, "frozen")
		two, d := presenceHub(t, layer, 1, "fine")
		three := grouphub.New(&grouphub.Options{Layer: layer, Policy: func(string) grouphub.GroupPolicy {
			return grouphub.GroupPolicy{Presence: true}
		}})
		e := hubtest.Dial(t, one.Handler(grouphub.Consumer{Connect: func(c *grouphub.Conn) error { return c.Join("fine0") }}), "/")
		time.Sleep(time.Second)
		layer.frozen.Store("frozen")
		for range 20 {
			time.Sleep(17 * time.Second)
			if members, err := three.Members(background, "fine0"); len(members) != 2 || err != nil {
				t.Fatalf("%d members, %v", len(members), err)
			}
		}
		for _, c := range []*hubtest.Client{c, d, e} {
			c.Close()
		}
		for _, hub := range []*grouphub.Hub{one, two, three} {
			hub.Shutdown(background)
		}
		layer.Close()
	})
}

func TestALeaseThatFailsIsTriedAgainLessAndLessOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		layer := &flakyLeases{MemoryLayer: grouphub.NewMemoryLayer()}
		layer.down.Store(true)
		hub, c := presenceHub(t, layer, 1, "g")
		time.Sleep(19 * time.Second)
		if n := layer.tries.Load(); n < 5 || n > 12 {
			t.Errorf("%d tries in 19 seconds", n)
		}
		layer.down.Store(false)
		time.Sleep(5 * time.Second)
		if leases, err := layer.Leases(background, "g:g0"); len(leases) != 1 || err != nil {
			t.Errorf("leases %q, %v", leases, err)
		}
		c.Close()
		hub.Shutdown(background)
		if leases, _ := layer.Leases(background, "g:g0"); len(leases) != 0 {
			t.Errorf("leases %q are left", leases)
		}
		layer.Close()
	})
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

type deafReceiver struct{ grouphub.Receiver }

func (l deafLayer) Attach(hub string, r grouphub.Receiver) (grouphub.Subscription, error) {
	return l.MemoryLayer.Attach(hub, deafReceiver{r})
}

func (r deafReceiver) Deliver(p grouphub.Publication) {
	if p.Topic != "c:all" {
		r.Receiver.Deliver(p)
	}
}

func TestAMissedGroupCloseIsNoticedWithoutHistoryOrPresence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		layer := grouphub.NewMemoryLayer()
		hub := grouphub.New(&grouphub.Options{Layer: deafLayer{layer}, Consumer: noteConsumer})
		c := hubtest.Dial(t, hub, "/")
		if err := hub.GroupClose(background, "all", 4000, "bye"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Second)
		c.ExpectClose(4000)
		c.Close()
		hub.Shutdown(background)
		layer.Close()
	})
}
