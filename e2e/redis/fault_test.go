package redis_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/seed-29c60982/grouphub"
)

func TestServerThatFreezesForTwentySeconds(t *testing.T) {
	t.Parallel()
	s := start(t)
	l := layer(t, s.url(), nil)
	h := attach(t, l, "topic")
	await(t, "Up", h.Up)
	w := publishTo(t, l, "topic")
	await(t, "the load", func() bool { return len(h.received("topic")) > 10 })
	s.process.Process.Signal(syscall.SIGSTOP)
	frozen := time.Now()
	await(t, "Up to be false", func() bool { return !h.Up() })
	noticed := time.Since(frozen)
	if noticed > 15*time.Second {
		t.Errorf("noticed after %v, want 15s at most", noticed)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	start := time.Now()
	if _, err := l.Take(ctx, "queue"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Take: %v, want its context's error", err)
	}
	if took := time.Since(start); took >= 5*time.Second { // as if it had none
		t.Errorf("Take took %v, want 200ms", took)
	}
	time.Sleep(20*time.Second - time.Since(frozen)) // the length of the outage, not a wait for anything
	s.process.Process.Signal(syscall.SIGCONT)
	back := time.Now()
	await(t, "Lost", func() bool { return h.losses("topic") > 0 && h.Up() })
	await(t, "Publish", func() bool {
		return l.Publish(t.Context(), grouphub.Publication{Topic: "topic", Payload: []byte("after")}) == nil
	})
	h.untilReceived("topic", "after")
	t.Logf("noticed after %v, back after %v", noticed, time.Since(back))
	w.stop()
	if w.errors(t) == 0 {
		t.Error("no Publish failed")
	}
	checkOrder(t, w, h, "topic")
}

func TestServerThatLoads(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.cli("DEBUG", "POPULATE", "20000", "key", "100")
	s.cli("SAVE")
	l := layer(t, s.url(), nil)
	h := attach(t, l, "topic")
	w := publishTo(t, l, "topic")
	s.kill()
	if err := s.run("--key-load-delay", "100", "--loading-process-events-interval-bytes", "1024"); err != nil {
		t.Fatal(err)
	}
	loading := false
	await(t, "Append", func() bool {
		err := l.Append(t.Context(), "queue", []byte("x"))
		if err != nil && strings.Contains(err.Error(), "LOADING") {
			loading = true
			if !errors.Is(err, grouphub.ErrUnavailable) {
				t.Errorf("Append to a server that loads: %v, want ErrUnavailable", err)
			}
		}
		return err == nil
	})
	if !loading {
		t.Error("the server never said LOADING")
	}
	await(t, "Lost", func() bool { return h.losses("topic") > 0 && h.Up() })
	if message, err := l.Take(t.Context(), "queue"); err != nil || string(message) != "x" {
		t.Errorf("Take: %q, %v", message, err)
	}
	w.stop()
	w.errors(t)
	checkOrder(t, w, h, "topic")
}

func TestHundredThousandTopics(t *testing.T) {
	s := start(t)
	l := layer(t, s.url(), nil)
	h := attach(t, l)
	topics := make([]string, 100_000)
	for i := range topics {
		topics[i] = fmt.Sprint("topic", i)
	}
	start := time.Now()
	if err := h.Add(t.Context(), topics...); err != nil {
		t.Fatal(err)
	}
	added := time.Since(start)
	start = time.Now()
	s.cli("CLIENT", "KILL", "TYPE", "pubsub")
	await(t, "Lost", func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return len(h.lost) == len(topics)+1 // the hub's own, too
	})
	again := time.Since(start)
	t.Logf("%d topics in %v, and again in %v", len(topics), added, again)
	if limit := 10 * time.Second; !raceEnabled && (added > limit || again > limit) {
		t.Errorf("%d topics in %v, and again in %v, want less than %v", len(topics), added, again, limit)
	}
}
