package grouphub_test

import (
	"testing"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/layer/layertest"
)

func TestMemoryLayer(t *testing.T) {
	layertest.TestInBubbles(t, func(*testing.T) (a, b grouphub.Layer) {
		l := grouphub.NewMemoryLayer()
		return l, l
	})
}
