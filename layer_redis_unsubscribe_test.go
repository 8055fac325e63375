package grouphub_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestRedisWhoseDiskIsFullIsUnsubscribedFromLater(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "gone") // what cannot be written to
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	s := startRedis(t, "--dir", dir)
	l := redisLayer(t, s.url(), nil)
	h := attachRedis(t, l, "stays", "goes")
	s.cli("CONFIG", "SET", "save", "3600 1")
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	s.cli("SET", "key", "value")
	s.cli("BGSAVE")
	await(t, "MISCONF", func() bool { return strings.HasPrefix(s.cli("PING"), "MISCONF") })
	h.Remove("goes")
	// What is awaited is that nothing happens: rueidis would panic at the next answer.
	for until := time.Now().Add(4 * time.Second); time.Now().Before(until); time.Sleep(100 * time.Millisecond) {
		mustPublish(t, l, "stays", "meanwhile")
	}
	h.untilReceived("meanwhile")
	s.cli("CONFIG", "SET", "save", "")
	s.cli("CONFIG", "SET", "stop-writes-on-bgsave-error", "no")
	await(t, "the server to be told", func() bool { return !strings.Contains(s.cli("PUBSUB", "CHANNELS"), "{goes}") })
	mustPublish(t, l, "stays", "afterwards")
	h.untilReceived("afterwards")
	if _, lost := h.state(); len(lost) > 0 {
		t.Errorf("lost %q, want nothing", lost)
	}
}
