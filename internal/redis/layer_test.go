package redis

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/rueidis"

	"github.com/seed-29c60982/grouphub/internal/leak"
	"github.com/seed-29c60982/grouphub/internal/redistest"
	"github.com/seed-29c60982/grouphub/layer"
	"github.com/seed-29c60982/grouphub/layer/layertest"
)

// TestMain fails the suite if a goroutine outlives it.
func TestMain(m *testing.M) { leak.Check(m) }

func testPair(url func() string, opts Options) func(t *testing.T) (a, b layer.Layer) {
	return func(t *testing.T) (a, b layer.Layer) {
		opts := opts
		opts.Prefix = fmt.Sprint("test", names.Add(1))
		return newTestLayer(t, url(), opts), newTestLayer(t, url(), opts)
	}
}

// tick lets the time of a miniredis go on, until the end of the test.
func tick(t *testing.T, m *miniredis.Miniredis) {
	ctx, cancel := context.WithCancel(context.Background())
	var ticking sync.WaitGroup
	t.Cleanup(func() { cancel(); ticking.Wait() })
	ticking.Go(func() {
		const interval = 50 * time.Millisecond
		ticker := time.NewTicker(interval)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				m.FastForward(interval)
			case <-ctx.Done():
				return
			}
		}
	})
}

func TestLayerOnMiniredis(t *testing.T) {
	t.Parallel()
	m := miniredis.RunT(t)
	tick(t, m)
	url := func() string { return "redis://" + m.Addr() }
	// It is a part of this process, and may be slow.
	layertest.Test(t, testPair(url, Options{CallTimeout: 30 * time.Second,
		Client: func(o *rueidis.ClientOption) { o.ConnWriteTimeout = time.Minute }}))
}

func TestLayerOnRedis(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	layertest.TestWithHooks(t, func(t *testing.T) (a, b layer.Layer, hooks layertest.Hooks) {
		a, b = testPair(s.URL, Options{CallTimeout: 2 * time.Second})(t)
		return a, b, layertest.Hooks{
			Stop: s.Kill, Start: s.Restart,
			Stall: s.Freeze, Resume: s.Thaw,
			LoseLast: func(run func()) {
				s.CLI("SAVE")
				run()
				s.Kill()
				s.Restart()
			},
		}
	})
}

func TestLayerShardedAndEncrypted(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	layertest.Test(t, testPair(s.URL, Options{Sharded: true, EncryptionKeys: []string{"secret"}}))
}

func TestConnectsInManyWays(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "redis.sock")
	s := redistest.Start(t, "--unixsocket", socket, "--requirepass", "secret")
	secure := miniredis.NewMiniRedis()
	certificate := httptest.NewTLSServer(nil) // one that is at hand
	defer certificate.Close()
	if err := secure.StartTLS(&tls.Config{Certificates: certificate.TLS.Certificates}); err != nil {
		t.Fatal(err)
	}
	defer secure.Close()
	await(t, "an error about the certificate", func() bool {
		_, err := New("rediss://"+secure.Addr(), Options{})
		if err == nil || !strings.Contains(err.Error(), "certificate") && !strings.Contains(err.Error(), "no answer within") { // of a busy machine
			t.Fatalf("%v, want an error about the certificate", err)
		}
		return strings.Contains(err.Error(), "certificate")
	})
	for _, url := range []string{
		"rediss://" + secure.Addr() + "?skip_verify=true",
		"unix://:secret@" + socket + "?db=1",
		"redis://:secret@" + s.Address() + "/2",
		"redis://:secret@" + s.Address() + "?protocol=2",
	} {
		l := newTestLayer(t, url, Options{})
		h := attachHub(t, l, "topic")
		mustPublish(t, l, "topic", url)
		h.untilReceived(url)
	}
}

func TestCloseLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	client := s.Client()
	connections := func() int {
		list, err := client.Do(t.Context(), client.B().ClientList().Build()).ToString()
		if err != nil {
			t.Fatal(err)
		}
		return strings.Count(list, "\n")
	}
	before := connections()
	l := newTestLayer(t, s.URL(), Options{})
	h := attachHub(t, l, "topic")
	took := make(chan error)
	go func() {
		_, err := l.Take(context.Background(), "queue")
		took <- err
	}()
	mustPublish(t, l, "topic", "x")
	h.untilReceived("x")
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if err := <-took; !errors.Is(err, layer.ErrClosed) {
		t.Errorf("Take: %v, want ErrClosed", err)
	}
	await(t, "the connections to end", func() bool { return connections() == before })
}

func TestPermissionsOfAUser(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	s.CLI("ACL", "SETUSER", "app", "on", ">pa:ss", "~app:*", "&app:topic:{allowed*", "&app:beat:*", "&app:topic:{hub*", "+@all")
	l := newTestLayer(t, "redis://app:pa%3Ass@"+s.Address(), Options{Prefix: "app"})
	h := attachHub(t, l, "allowed")
	if err := h.Add(t.Context(), "allowed too", "forbidden"); !errors.Is(err, layer.ErrUnavailable) || !strings.Contains(err.Error(), "NOPERM") {
		t.Errorf("Add of a forbidden channel: %v, want ErrUnavailable with NOPERM", err)
	}
	if err := h.Add(t.Context(), "allowed three"); err != nil {
		t.Errorf("Add after one was forbidden: %v", err)
	}
	mustPublish(t, l, "allowed", "x")
	h.untilReceived("x")
	if _, lost := h.state(); len(lost) > 0 {
		t.Errorf("lost %q, want nothing", lost)
	}
}

func TestKeysOfDifferentNamesDiffer(t *testing.T) {
	l := &Layer{prefix: "p"}
	seen := make(map[string]string)
	for _, name := range []string{"a", "}", "{", "%", "%7D", "%7d", "a}", "a}b", "a%7Db", "{}", "%25"} {
		key := l.key("topic", name)
		if other, ok := seen[key]; ok {
			t.Errorf("%q and %q have the key %q", name, other, key)
		}
		seen[key] = name
		// Redis hashes what is between the first brace and the first that closes.
		if i := bytes.IndexByte([]byte(key), '}'); i != len(key)-1 {
			t.Errorf("%q: the hash tag of %q ends at %d", name, key, i)
		}
	}
}

func TestLayerLogsWhereItIsTold(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	logged := make(chan string, 100)
	l := newTestLayer(t, s.URL(), Options{Logger: slog.New(slog.NewTextHandler(lines(logged), nil))})
	h := attachHub(t, l, "topic")
	s.Publish(l.key("topic", "topic"), "garbage")
	if line := <-logged; !strings.Contains(line, "discarded") {
		t.Errorf("logged %s", line)
	}
	await(t, "Up", h.Up)
	s.Kill()
	if line := <-logged; !strings.Contains(line, "no subscription to redis") || !strings.Contains(line, h.name) {
		t.Errorf("logged %s", line)
	}
}

// lines hands over each line that is written.
type lines chan<- string

func (l lines) Write(line []byte) (int, error) {
	select {
	case l <- string(line):
	default:
	}
	return len(line), nil
}
