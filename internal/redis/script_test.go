package redis

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/alicebob/miniredis/v2/server"
	"github.com/redis/rueidis"

	"github.com/seed-29c60982/grouphub/internal/redistest"
	"github.com/seed-29c60982/grouphub/layer"
)

func TestServerThatForgetsItsScriptsIsNotNoticed(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	l := newTestLayer(t, s.URL(), Options{})
	h := attachHub(t, l, "topic")
	check := func(what string, err error, ok bool) {
		t.Helper()
		if err != nil || !ok {
			t.Errorf("%s: %v, and its result is good: %v", what, err, ok)
		}
	}
	// every calls each script once, and before before each of them.
	every := func(round int, before func()) {
		p := publication("topic", fmt.Sprint(round))
		p.Keep = layer.Keep{Count: 100, Life: time.Minute}
		before()
		check("Publish", l.Publish(t.Context(), p), true)
		p.Keep.Once = "key" // of the first round
		before()
		check("Publish with a key", l.Publish(t.Context(), p), true)
		before()
		history, err := l.History(t.Context(), "topic", 0)
		check("History", err, len(history.Kept) == round+2)
		before()
		ok, err := l.Lease(t.Context(), "topic", "holder", leaseOf(1, "x"))
		check("Lease", err, ok)
		before()
		ok, err = l.Lease(t.Context(), "topic", "holder", prolonged(1))
		check("Lease that is prolonged", err, ok)
		before()
		leases, err := l.Leases(t.Context(), "topic", nil)
		check("Leases", err, string(leases["holder"].Fields["field"]) == "x")
		before()
		ok, err = l.Lease(t.Context(), "topic", "holder", layer.LeaseChange{Version: 1})
		check("Lease that ends", err, ok)
		before()
		check("Append", l.Append(t.Context(), "queue", []byte("x")), true)
		before()
		message, err := l.Take(t.Context(), "queue")
		check("Take", err, string(message) == "x")
	}
	every(0, func() { s.CLI("SCRIPT", "FLUSH") })
	client := s.Client()
	flushing, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		for flushing.Err() == nil {
			client.Do(context.Background(), client.B().ScriptFlush().Build())
		}
	})
	for round := range 100 {
		every(round+1, func() {})
	}
	stop()
	running.Wait()
	mustPublish(t, l, "topic", "last")
	h.untilReceived("last")
	want := []string{"0", "0"} // the second with its key
	for round := range 100 {
		want = append(want, fmt.Sprint(round+1))
	}
	if got, _ := h.state(); !slices.Equal(got, append(want, "last")) {
		t.Errorf("received %q", got)
	}
}

func TestScriptThatIsSentTwiceTakesNoLonger(t *testing.T) {
	t.Parallel()
	m := miniredis.RunT(t)
	l := newTestLayer(t, "redis://"+m.Addr(), Options{CallTimeout: 2 * time.Second, Client: func(o *rueidis.ClientOption) { o.ConnWriteTimeout = time.Minute }})
	m.Server().SetPreHook(func(_ *server.Peer, command string, _ ...string) bool {
		if strings.HasPrefix(command, "EVAL") { // by its digest, and then in full
			time.Sleep(l.callTimeout * 3 / 4)
		}
		return false
	})
	begun := time.Now()
	_, err := l.Leases(t.Context(), "topic", nil)
	if took := time.Since(begun); !errors.Is(err, layer.ErrUncertain) || !errors.Is(err, context.DeadlineExceeded) || took > l.callTimeout*3/2 {
		t.Errorf("%v after %v, want ErrUncertain after %v", err, took, l.callTimeout)
	}
}

func TestServerThatIsFullRefuses(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	l := newTestLayer(t, s.URL(), Options{})
	s.CLI("CONFIG", "SET", "maxmemory", "1")
	if err := l.Append(t.Context(), "queue", []byte("x")); !errors.Is(err, layer.ErrUnavailable) || !strings.Contains(err.Error(), "OOM") {
		t.Errorf("Append to a full server: %v, want ErrUnavailable with OOM", err)
	}
	s.CLI("CONFIG", "SET", "maxmemory", "0")
	if err := l.Append(t.Context(), "queue", []byte("y")); err != nil {
		t.Error(err)
	}
	s.CLI("SCRIPT", "FLUSH")
	if message, err := l.Take(t.Context(), "queue"); err != nil || string(message) != "y" {
		t.Errorf("took %q, %v after SCRIPT FLUSH, want y", message, err)
	}
}

func TestKeyOfAnotherTypeIsNoHindrance(t *testing.T) {
	redistest.OnBoth(t, func(t *testing.T, url string) {
		l := newTestLayer(t, url, Options{})
		keys := append(append(l.historyKeys("topic"), l.onceKey("topic", "once"), l.leaseIndex("topic"), l.leaseKey("topic", "one")), l.queueKeys("topic")...)
		set := func(key string) { // a type that none of them has
			t.Helper()
			if _, err := l.do(t.Context(), "spoil", key, l.client.B().Setbit().Key(key).Offset(1).Value(1).Build()); err == nil {
				return
			}
			t.Fatal(key)
		}
		spoil := func(key string) {
			t.Helper()
			if _, err := l.do(t.Context(), "remove", key, l.client.B().Del().Key(key).Build()); err != nil {
				t.Fatal(err)
			}
			if strings.Contains(key, ":count:") || strings.Contains(key, ":once:") { // these are strings
				if _, err := l.do(t.Context(), "spoil", key, l.client.B().Sadd().Key(key).Member("x").Build()); err != nil {
					t.Fatal(err)
				}
				return
			}
			set(key)
		}
		p := kept("topic", "x", layer.Keep{Count: 10, Life: time.Minute, Once: "once"})
		for _, key := range keys {
			for _, c := range []struct {
				name string
				call func() error
			}{
				{"History", func() error { _, err := l.History(t.Context(), "topic", 0); return err }},
				{"Publish", func() error { return l.Publish(t.Context(), p) }},
				{"Leases", func() error { _, err := l.Leases(t.Context(), "topic", nil); return err }},
				{"Lease", func() error { _, err := l.Lease(t.Context(), "topic", "one", leaseOf(1, "x")); return err }},
				{"Append", func() error { return l.Append(t.Context(), "topic", []byte("x")) }},
				{"Take", func() error { _, err := l.Take(t.Context(), "topic"); return err }},
			} {
				if c.name != "Take" {
					spoil(key)
				}
				if err := c.call(); err != nil {
					t.Errorf("%s with %s of another type: %v", c.name, key, err)
				}
			}
		}
	})
}
