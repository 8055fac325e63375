package grouphub

import (
	"context"
	"errors"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestWaitingEndsWhenAllHasEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newWaitGroup()
		if err := g.wait(alreadyCancelled); err != nil {
			t.Errorf("nothing has begun: %v", err)
		}
		start := time.Now()
		var ran atomic.Int32
		g.Go(func() {
			time.Sleep(time.Second)
			g.Go(func() { // it may grow while somebody waits
				time.Sleep(time.Second)
				ran.Add(1)
			})
		})
		g.goDeep(func() { ran.Add(1) })
		g.begin() // a promise
		time.AfterFunc(3*time.Second, g.done)
		for range 3 { // all who wait hear of it
			go func() {
				if err := g.wait(context.Background()); err != nil || time.Since(start) != 3*time.Second {
					t.Errorf("%v after %v", err, time.Since(start))
				}
				ran.Add(1)
			}()
		}
		if err := g.wait(context.Background()); err != nil || time.Since(start) != 3*time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		synctest.Wait()
		if n := ran.Load(); n != 5 {
			t.Errorf("%d of 5 have run", n)
		}
		if err := g.wait(alreadyCancelled); err != nil {
			t.Errorf("all has ended: %v", err)
		}
	})
}

func TestWaitingEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newWaitGroup()
		g.begin()
		if err := g.wait(alreadyCancelled); !errors.Is(err, context.Canceled) {
			t.Errorf("a wait that may not last: %v", err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		start := time.Now()
		if err := g.wait(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		g.done()
		if err := g.wait(context.Background()); err != nil {
			t.Error(err)
		}
		// It is used again, as by a shard that begins a Render.
		g.begin()
		if err := g.wait(alreadyCancelled); err == nil {
			t.Error("a wait did not see that something has begun again")
		}
		g.done()
	})
}

func TestAGoroutineThatEndsItselfIsDone(t *testing.T) {
	g := newWaitGroup()
	g.Go(runtime.Goexit)
	if err := g.wait(t.Context()); err != nil {
		t.Error(err)
	}
}
