package hubtest_test

import (
	"testing"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
)

func TestTheMemoryLayerPassesTestLayer(t *testing.T) {
	hubtest.TestLayer(t, func(*testing.T) (a, b grouphub.Layer) {
		l := grouphub.NewMemoryLayer()
		return l, l
	})
}
