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

	"github.com/seed-29c60982/grouphub/internal/redistest"
	"github.com/seed-29c60982/grouphub/layer"
)

func TestServerThatIsFrozenKeepsNobodyLongerThanHisContext(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	l := newTestLayer(t, s.URL(), Options{Heartbeat: 300 * time.Millisecond})
	h := attachHub(t, l, "topic")
	var wg sync.WaitGroup
	s.Freeze()
	defer s.Thaw()
	for range 1500 {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
			defer cancel()
			start := time.Now()
			err := l.Publish(ctx, publication("topic", "x"))
			if !errors.Is(err, layer.ErrUnavailable) && !errors.Is(err, layer.ErrUncertain) || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%v, want ErrUnavailable or ErrUncertain, and the context's error", err)
			}
			if took := time.Since(start); took >= l.callTimeout {
				t.Errorf("took %v, want 200ms", took)
			}
		})
	}
	wg.Wait()
	await(t, "Up to be false", func() bool { return !h.Up() })
	start := time.Now()
	if err := l.Close(); err != nil || time.Since(start) >= l.callTimeout {
		t.Errorf("Close of a layer whose server is frozen: %v after %v", err, time.Since(start))
	}
}

func TestUnavailableMeansNeverAndUncertainPerhaps(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	l := newTestLayer(t, s.URL(), Options{})
	h := attachHub(t, l, "topic")
	await(t, "the first heartbeat, which would be on its way, too", s.HasBeaten)
	mustPublish(t, l, "topic", "behind the heartbeat")
	h.untilReceived("behind the heartbeat")
	s.Freeze()
	// As many as there are pipelines are on their way.
	for _, want := range []error{layer.ErrUncertain, layer.ErrUncertain, layer.ErrUnavailable, layer.ErrUnavailable} {
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond) // long enough to be sent
		err := l.Publish(ctx, publication("topic", want.Error()))
		if !errors.Is(err, want) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v, want %v and the context's error", err, want)
		}
		cancel()
	}
	s.Thaw()
	await(t, "Publish to work again", func() bool { return l.Publish(t.Context(), publication("topic", "after")) == nil })
	h.untilReceived("after")
	if got, _ := h.state(); slices.Contains(got, layer.ErrUnavailable.Error()) {
		t.Errorf("received %q: what was unavailable went out", got)
	}
}

func TestErrorsSayThatNothingHappened(t *testing.T) {
	t.Parallel()
	m := miniredis.RunT(t)
	l := newTestLayer(t, "redis://"+m.Addr(), Options{})
	h := attachHub(t, l, "topic")
	for _, answer := range []string{"LOADING Redis is loading the dataset in memory", "READONLY You can't write against a read only replica.",
		"NOAUTH Authentication required.", "CLUSTERDOWN The cluster is down", "MASTERDOWN Link with MASTER is down"} {
		m.SetError(answer)
		for _, err := range []error{
			l.Publish(t.Context(), publication("topic", "x")),
			l.Append(t.Context(), "queue", []byte("x")),
		} {
			if !errors.Is(err, layer.ErrUnavailable) || !strings.Contains(err.Error(), answer) {
				t.Errorf("%v, want ErrUnavailable with %q", err, answer)
			}
		}
	}
	m.SetError("")
	mustPublish(t, l, "topic", "last")
	h.untilReceived("last")
	if got, _ := h.state(); len(got) != 1 {
		t.Errorf("received %q, want only the last", got)
	}
}

func TestCallWhoseContextIsOverSendsNothing(t *testing.T) {
	m := miniredis.RunT(t)
	l := newTestLayer(t, "redis://"+m.Addr(), Options{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 10_000 {
		if err := l.Append(ctx, "queue", nil); !errors.Is(err, layer.ErrUnavailable) || !errors.Is(err, context.Canceled) {
			t.Fatalf("%v, want ErrUnavailable and the context's error", err)
		}
	}
	if _, err := l.Leases(t.Context(), "topic", nil); err != nil { // behind whatever was sent
		t.Fatal(err)
	}
	if keys := m.Keys(); len(keys) > 0 {
		t.Errorf("keys %q", keys)
	}
}
