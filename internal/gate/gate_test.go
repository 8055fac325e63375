package gate_test

import (
	"testing"
	"testing/synctest"

	"github.com/seed-29c60982/grouphub/internal/gate"
)

func TestGateLetsCallsThroughUntilItIsShut(t *testing.T) {
	var g gate.Gate
	for range 3 {
		if !g.Enter() {
			t.Fatal("an open gate refused a call")
		}
	}
	for range 3 {
		g.Leave()
	}
	g.Shut()
	if g.Enter() {
		t.Error("a gate that is shut let a call through")
	}
	g.Shut() // a second time does nothing
}

func TestShutWaitsForTheCallsUnderWayAndRefusesOthersMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g gate.Gate
		if !g.Enter() || !g.Enter() {
			t.Fatal("an open gate refused a call")
		}
		shut := make(chan struct{})
		go func() {
			defer close(shut)
			g.Shut()
		}()
		synctest.Wait()
		if g.Enter() {
			t.Error("a gate that is being shut let a call through")
		}
		g.Leave()
		synctest.Wait()
		select {
		case <-shut:
			t.Error("Shut returned before the last call")
		default:
		}
		g.Leave()
		<-shut
	})
}
