package layertest

import (
	"slices"
	"testing"
	"testing/synctest"

	"github.com/seed-29c60982/grouphub/internal/memory"
	"github.com/seed-29c60982/grouphub/layer"
)

// A fault is a mistake that a layer may make. plant makes it in a layer that is otherwise
// the memory layer.
type fault struct {
	name   string
	caught string // the case that has to find it
	plant  func(l *faultyLayer)
}

func concatFaults() []fault {
	return slices.Concat(publishFaults, subscriptionFaults, historyFaults, positionerFaults, leaseFaults, queueFaults, closeFaults)
}

func TestEveryFaultThatIsPlantedIsFound(t *testing.T) {
	all := cases()
	for _, fault := range concatFaults() {
		t.Run(fault.name, func(t *testing.T) {
			for _, c := range all {
				if c.name == fault.caught {
					expectFound(t, c, func() pair {
						l := newFaultyLayer(memory.New())
						fault.plant(l)
						return pair{a: l, b: l}
					})
					return
				}
			}
			t.Fatalf("there is no case %s", fault.caught)
		})
	}
}

// expectFound runs a case in a bubble and checks that it fails.
func expectFound(t *testing.T, c testCase, newPair func() pair) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		failures := record(t, func(t testing.TB) { runCase(t, c, newPair) })
		if len(failures) == 0 {
			t.Errorf("%s passed", c.name)
			return
		}
		t.Logf("%s: %.300s", c.name, failures[0])
	})
}

func TestALayerWithoutAFaultPasses(t *testing.T) {
	TestInBubbles(t, func(*testing.T) (a, b layer.Layer) {
		l := newFaultyLayer(memory.New())
		return l, l
	})
}
