package grouphub_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
)

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
