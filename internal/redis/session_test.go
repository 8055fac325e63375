package redis

import (
	"context"
	"crypto/tls"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/rueidis"

	"github.com/seed-29c60982/grouphub/internal/redistest"
)

func TestSilentDeathOfASubscriptionIsNoticed(t *testing.T) {
	t.Parallel()
	old, new := miniredis.RunT(t), miniredis.RunT(t)
	var address atomic.Pointer[string]
	use := func(m *miniredis.Miniredis) { a := m.Addr(); address.Store(&a) }
	use(old)
	var mu sync.Mutex
	var conns []net.Conn
	l := newTestLayer(t, "", Options{Heartbeat: time.Second, Client: func(o *rueidis.ClientOption) {
		o.InitAddress = []string{"the-service:6379"}
		o.ForceSingleClient = true
		o.DialCtxFn = func(ctx context.Context, _ string, dialer *net.Dialer, _ *tls.Config) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, "tcp", *address.Load())
			mu.Lock()
			defer mu.Unlock()
			conns = append(conns, conn)
			return conn, err
		}
	}})
	h := attachHub(t, l, "topic")
	await(t, "Up", h.Up)
	// The name now means another server. The subscriber's connection stays healthy.
	use(new)
	mu.Lock()
	conns[0].Close()
	mu.Unlock()
	h.untilLost("topic")
	mustPublish(t, l, "topic", "x")
	h.untilReceived("x")
}

func TestServerWhoseDiskIsFullIsUnsubscribedFromLater(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "gone") // what cannot be written to
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	s := redistest.Start(t, "--dir", dir)
	l := newTestLayer(t, s.URL(), Options{})
	h := attachHub(t, l, "stays", "goes")
	s.CLI("CONFIG", "SET", "save", "3600 1")
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	s.CLI("SET", "key", "value")
	s.CLI("BGSAVE")
	await(t, "MISCONF", func() bool { return strings.HasPrefix(s.CLI("PING"), "MISCONF") })
	h.Remove("goes")
	// What is awaited is that nothing happens when the server is told.
	for until := time.Now().Add(unsubscribeDelay * 3 / 2); time.Now().Before(until); time.Sleep(100 * time.Millisecond) {
		mustPublish(t, l, "stays", "meanwhile")
	}
	h.untilReceived("meanwhile")
	s.CLI("CONFIG", "SET", "save", "")
	s.CLI("CONFIG", "SET", "stop-writes-on-bgsave-error", "no")
	await(t, "the server to be told", func() bool { return !strings.Contains(s.CLI("PUBSUB", "CHANNELS"), "{goes}") })
	mustPublish(t, l, "stays", "afterwards")
	h.untilReceived("afterwards")
	if _, lost := h.state(); len(lost) > 0 {
		t.Errorf("lost %q, want nothing", lost)
	}
}
