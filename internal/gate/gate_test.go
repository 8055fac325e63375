package gate_test

import (
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/seed-29c60982/grouphub/internal/gate"
)

func TestShutWaitsForCallsUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g gate.Gate
		for range 2 {
			if !g.Enter() {
				t.Fatal("an open gate refused a call")
			}
		}
		var shut atomic.Bool
		go func() {
			g.Shut()
			shut.Store(true)
		}()
		synctest.Wait()
		if g.Enter() {
			t.Error("a gate that is being shut let a call through")
		}
		g.Leave()
		synctest.Wait()
		if shut.Load() {
			t.Error("Shut returned while a call was under way")
		}
		g.Leave()
		synctest.Wait()
		if !shut.Load() {
			t.Error("Shut did not return after the last call")
		}
		g.Shut() // a second time it has nothing to wait for
	})
}

func TestNoCallIsUnderWayAfterShut(t *testing.T) {
	for range 100 {
		var g gate.Gate
		var under atomic.Int32
		var callers sync.WaitGroup
		for range 4 {
			callers.Go(func() {
				for g.Enter() {
					under.Add(1)
					under.Add(-1)
					g.Leave()
				}
			})
		}
		g.Shut()
		if n := under.Load(); n != 0 {
			t.Fatalf("%d calls are under way", n)
		}
		callers.Wait()
	}
}
