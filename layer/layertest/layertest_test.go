package layertest

import (
	"testing"
	"testing/synctest"

	"github.com/seed-29c60982/grouphub/internal/memory"
)

// The memory layer needs no server, so that a case runs in a bubble, where the time that it
// waits for costs none.
func TestTheMemoryLayerPassesEveryCase(t *testing.T) {
	for _, c := range cases() {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := memory.New()
				runCase(t, c, l, l)
			})
		})
	}
}
