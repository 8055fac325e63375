package grouphub_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-29c60982/grouphub"
)

func TestALeaseThatFailsIsTriedAgainLessAndLessOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var down atomic.Bool
		var tries atomic.Int32
		layer := newFaultyLayer()
		layer.lease = func(_ context.Context, topic string) error {
			if topic == "g:g0" {
				tries.Add(1)
			}
			if down.Load() {
				return grouphub.ErrUnavailable
			}
			return nil
		}
		down.Store(true)
		hub, c := presenceHub(t, layer, 1, "g")
		time.Sleep(19 * time.Second)
		if n := tries.Load(); n < 5 || n > 12 {
			t.Errorf("%d tries in 19 seconds", n)
		}
		down.Store(false)
		time.Sleep(5 * time.Second)
		if leases, err := layer.Leases(background, "g:g0", nil); len(leases) != 1 || err != nil {
			t.Errorf("leases %v, %v", leases, err)
		}
		c.Close()
		hub.Shutdown(background)
		if leases, _ := layer.Leases(background, "g:g0", nil); len(leases) != 0 {
			t.Errorf("leases %v are left", leases)
		}
		layer.Close()
	})
}

func TestShutdownEndsWithItsContextWhateverBecomesOfLeases(t *testing.T) {
	for allowed, most := range map[time.Duration]time.Duration{time.Second: time.Second, time.Hour: 5 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			layer, freeze := newFreezingLayer()
			hub, c := presenceHub(t, layer, 2000, "g")
			time.Sleep(time.Second)
			freeze("g")
			ctx, cancel := context.WithTimeout(background, allowed)
			defer cancel()
			begun := time.Now()
			// The connection answers at once, so there is time to remove the lease.
			err := hub.Shutdown(ctx)
			if took := time.Since(begun); took > most || err != nil {
				t.Errorf("%v after %v", err, took)
			}
			c.Close()
			layer.Close()
		})
	}
}
