package layertest

import (
	"testing"

	"github.com/seed-29c60982/grouphub/internal/memory"
	"github.com/seed-29c60982/grouphub/layer"
)

func memoryPair(*testing.T) (a, b layer.Layer) {
	l := memory.New()
	return l, l
}

func TestTheMemoryLayerPassesEveryCaseInABubble(t *testing.T) { TestInBubbles(t, memoryPair) }
