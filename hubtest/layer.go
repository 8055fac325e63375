package hubtest

import (
	"testing"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/layer/layertest"
)

// TestLayer checks that a layer of your own does what package layer promises. It is
// [layertest.Test], where everything about it is said.
func TestLayer(t *testing.T, newPair func(t *testing.T) (a, b grouphub.Layer)) {
	layertest.Test(t, newPair)
}
