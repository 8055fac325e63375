package browsers

import (
	"os"
	"testing"

	"github.com/seed-29c60982/grouphub/e2e/engine"
)

func TestMain(m *testing.M) {
	engine.AtTheSameTime()
	os.Exit(m.Run())
}
