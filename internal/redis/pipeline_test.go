package redis

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/alicebob/miniredis/v2/server"
	"github.com/redis/rueidis"

	"github.com/seed-29c60982/grouphub/layer"
)

// await polls for what gives no signal.
func await(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for patience := time.Now().Add(30 * time.Second); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(patience) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func TestHeartbeatGetsThroughWhenTheQueueIsFull(t *testing.T) {
	m := miniredis.RunT(t)
	// By itself it is taken for a Cluster.
	l := newTestLayer(t, m, Options{Client: func(o *rueidis.ClientOption) { o.ForceSingleClient = true }})
	var mu sync.Mutex
	var seen []string // channels
	held := make(chan struct{})
	m.Server().SetPreHook(func(_ *server.Peer, command string, args ...string) bool {
		if command == "PUBLISH" {
			mu.Lock()
			seen = append(seen, args[0])
			mu.Unlock()
			<-held
		}
		return false
	})
	var publishers sync.WaitGroup
	defer publishers.Wait()
	for len(l.jobs) < cap(l.jobs) {
		publishers.Go(func() {
			if err := l.Publish(t.Context(), layer.Publication{Topic: "topic"}); err != nil {
				t.Error(err)
			}
		})
		time.Sleep(10 * time.Microsecond)
	}
	const beat = "beat"
	l.post(l.publish(beat, nil))
	close(held)
	await(t, "the heartbeat", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return slices.Contains(seen, beat)
	})
}

func TestScriptThatIsSentTwiceTakesNoLonger(t *testing.T) {
	t.Parallel()
	m := miniredis.RunT(t)
	l := newTestLayer(t, m, Options{Client: func(o *rueidis.ClientOption) { o.ConnWriteTimeout = time.Minute }})
	m.Server().SetPreHook(func(_ *server.Peer, command string, _ ...string) bool {
		if strings.HasPrefix(command, "EVAL") {
			time.Sleep(callTimeout * 3 / 4)
		}
		return false
	})
	begun := time.Now()
	_, err := l.Leases(t.Context(), "topic")
	if took := time.Since(begun); !errors.Is(err, layer.ErrUncertain) || !errors.Is(err, context.DeadlineExceeded) || took > callTimeout*5/4 {
		t.Errorf("%v after %v, want ErrUncertain after %v", err, took, callTimeout)
	}
}

func TestCallWhoseContextIsOverSendsNothing(t *testing.T) {
	m := miniredis.RunT(t)
	l := newTestLayer(t, m, Options{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 10_000 {
		if err := l.Append(ctx, "queue", nil); !errors.Is(err, layer.ErrUnavailable) || !errors.Is(err, context.Canceled) {
			t.Fatalf("%v, want ErrUnavailable and the context's error", err)
		}
	}
	if _, err := l.Leases(t.Context(), "topic"); err != nil { // behind whatever was sent
		t.Fatal(err)
	}
	if keys := m.Keys(); len(keys) > 0 {
		t.Errorf("keys %q", keys)
	}
}
