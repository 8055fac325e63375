//go:build unix

package load

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/e2e/eventsource"
)

// startRedis runs a redis-server until the end of the test, and returns its URL.
func startRedis(t *testing.T) string {
	t.Helper()
	program, err := exec.LookPath("redis-server")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("redis-server is not installed")
		}
		t.Skip("redis-server is not installed")
	}
	folder, err := os.MkdirTemp("", "redis") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(folder, "socket")
	server := exec.Command(program, "--port", "0", "--unixsocket", socket, "--save", "", "--dir", folder)
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		server.Process.Kill()
		server.Wait()
		os.RemoveAll(folder)
	})
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if conn, err := net.Dial("unix", socket); err == nil {
			conn.Close()
			return "unix://" + socket
		} else if time.Now().After(deadline) {
			t.Fatalf("redis-server does not listen: %v", err)
		}
	}
}

// serveHub runs a hub until the end of the test, and returns its URL. Whoever connects joins
// the groups, which keep a history.
func serveHub(t *testing.T, layer grouphub.Layer, history int, groups ...string) (*grouphub.Hub, string) {
	t.Helper()
	hub := grouphub.New(&grouphub.Options{
		Layer:  layer,
		Logger: slog.New(slog.DiscardHandler),
		Policy: func(string) grouphub.GroupPolicy { return grouphub.GroupPolicy{History: history} },
		Consumer: grouphub.Consumer{
			Connect: func(c *grouphub.Conn) error {
				for _, group := range groups {
					if err := c.Join(group); err != nil {
						return err
					}
				}
				return nil
			},
			Events: grouphub.Events{"number": grouphub.Forward()},
		},
	})
	server := httptest.NewServer(hub)
	t.Cleanup(func() {
		if err := hub.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		server.Close()
	})
	return hub, server.URL
}

// TestEventSourceIsCutAHundredTimesAndGetsEverythingOnce moves a plain EventSource between two
// hubs on a real Redis, while a publisher goes on without a pause in fifty groups.
func TestEventSourceIsCutAHundredTimesAndGetsEverythingOnce(t *testing.T) {
	const (
		cuts    = 100
		history = 1000
	)
	url := startRedis(t)
	var groups []string
	for i := range 50 {
		groups = append(groups, fmt.Sprint("group", i))
	}
	var hub *grouphub.Hub
	var urls []string
	for range 2 {
		layer, err := grouphub.NewRedisLayer(url, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { layer.Close() })
		h, at := serveHub(t, layer, history, groups...)
		hub, urls = h, append(urls, at)
	}
	source := new(eventsource.Source)
	if err := source.Connect(urls[0]); err != nil {
		t.Fatal(err)
	}
	defer source.Cut()
	for range 1 + len(groups) { // open, and a position of each group
		if b, err := source.Next(); err != nil || b.Name == "" {
			t.Fatalf("the stream begins with %+v, %v", b, err)
		}
	}

	sent, got := make([]int, len(groups)), make(map[string]int)
	stop := make(chan struct{})
	// The publisher is never further ahead than the history goes.
	ahead := make(chan struct{}, history/2*len(groups))
	var publishing sync.WaitGroup
	defer publishing.Wait()
	publishing.Go(func() {
		for i := 0; ; i = (i + 1) % len(groups) {
			select {
			case <-stop:
				return
			case ahead <- struct{}{}:
			}
			sent[i]++
			if err := hub.GroupSend(t.Context(), groups[i], "number", sent[i]); err != nil {
				t.Error(err)
				return
			}
		}
	})
	// take reads a block, and reports whether the connection goes on.
	take := func() bool {
		b, err := source.Next()
		if err != nil {
			return false
		}
		if b.Name != "" {
			return true
		}
		var e grouphub.Event
		var n int
		if err := cmp.Or(json.Unmarshal([]byte(b.Data), &e), e.Decode(&n)); err != nil || e.Type != "number" || n != got[e.Group]+1 {
			close(stop)
			t.Fatalf("got %s after number %d of its group", b.Data, got[e.Group])
		}
		got[e.Group] = n
		<-ahead
		return true
	}
	reconnect := func(cut int) {
		source.Cut()
		if err := source.Connect(urls[(cut+1)%2]); err != nil {
			close(stop)
			t.Fatal(err)
		}
	}
	for cut := range cuts {
		for range rand.N(300) {
			if !take() {
				break // a slow one is rightly cut by the hub, too
			}
		}
		reconnect(cut)
	}
	close(stop)
	publishing.Wait()
	total := 0
	for i, group := range groups {
		total += sent[i]
		for again := 0; got[group] < sent[i]; {
			if !take() {
				if again++; again > 100 {
					t.Fatalf("%s: %d of %d numbers", group, got[group], sent[i])
				}
				reconnect(again)
			}
		}
	}
	t.Logf("%d events in %d groups, once each, over %d cuts", total, len(groups), cuts)
}
