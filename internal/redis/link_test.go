package redis

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/seed-29c60982/grouphub/internal/redistest"
	"github.com/seed-29c60982/grouphub/layer"
)

func TestRestartIsSurvived(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	l := newTestLayer(t, s.URL(), Options{})
	h := attachHub(t, l, "one", "two")
	mustPublish(t, l, "one", "before")
	h.untilReceived("before")
	await(t, "Up", h.Up)
	s.Kill()
	await(t, "Up to be false", func() bool { return !h.Up() })
	for _, call := range []func(context.Context) error{
		func(ctx context.Context) error { return l.Publish(ctx, publication("one", "x")) },
		func(ctx context.Context) error { return l.Append(ctx, "queue", []byte("x")) },
		func(ctx context.Context) error { return h.Add(ctx, "three") },
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		start := time.Now()
		// A command on its way while the connection broke may be uncertain.
		if err := call(ctx); !errors.Is(err, layer.ErrUnavailable) && !errors.Is(err, layer.ErrUncertain) {
			t.Errorf("%v, want ErrUnavailable", err)
		}
		if took := time.Since(start); took >= l.callTimeout {
			t.Errorf("took %v, want no more than its context", took)
		}
		cancel()
	}
	if err := l.Publish(t.Context(), publication("one", "x")); !errors.Is(err, layer.ErrUnavailable) {
		t.Errorf("Publish while the server is down: %v, want ErrUnavailable", err)
	}
	s.Restart()
	back := time.Now()
	h.untilLost("one", "two")
	await(t, "Up", h.Up)
	mustPublish(t, l, "one", "after")
	h.untilReceived("after")
	if took := time.Since(back); took > 5*time.Second {
		t.Errorf("publications flow again after %v, want 5s at most", took)
	}
	if got, _ := h.state(); !slices.Equal(got, []string{"before", "after"}) {
		t.Errorf("received %q", got)
	}
}

func TestSubscriberThatIsKilledAgainAndAgain(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	l := newTestLayer(t, s.URL(), Options{})
	h := attachHub(t, l, "topic")
	var sent []string
	for i := range 20 {
		s.CLI("CLIENT", "KILL", "TYPE", "pubsub")
		for j := range 10 {
			sent = append(sent, fmt.Sprint(i, ":", j))
			mustPublish(t, l, "topic", sent[len(sent)-1])
		}
	}
	h.until("Lost", func(_, lost []string) bool { return len(lost) > 0 })
	await(t, "Up", h.Up)
	h.Add(t.Context(), "more")
	mustPublish(t, l, "topic", "last")
	h.untilReceived("last")
	got, _ := h.state()
	rest := sent // what arrived is a subsequence: in order, nothing twice
	for _, payload := range got[:len(got)-1] {
		i := slices.Index(rest, payload)
		if i < 0 {
			t.Fatalf("received %q out of order or twice: %q", payload, got)
		}
		rest = rest[i+1:]
	}
	s.CLI("CLIENT", "KILL", "TYPE", "normal")
	await(t, "Publish to work again", func() bool { return l.Publish(t.Context(), publication("topic", "again")) == nil })
	h.untilReceived("again")
}

func TestManyTopicsComeBackAfterALostConnection(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	l := newTestLayer(t, s.URL(), Options{})
	h := attachHub(t, l)
	topics := make([]string, 10_000)
	for i := range topics {
		topics[i] = fmt.Sprintf("topic%06d", i)
	}
	if err := h.Add(t.Context(), topics...); err != nil {
		t.Fatal(err)
	}
	s.CLI("CLIENT", "KILL", "TYPE", "pubsub")
	h.untilLost(topics...)
	mustPublish(t, l, topics[7777], "x")
	h.untilReceived("x")
	h.Remove(topics...)
	await(t, "the server to forget", func() bool { return strings.Count(s.CLI("PUBSUB", "CHANNELS"), "\n") < 10 })
}

func TestLostNamesTheHubsOwnTopic(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	l := newTestLayer(t, s.URL(), Options{})
	h := &testHub{t: t, changed: make(chan struct{}, 1)}
	h.Subscription = attach(t, l, "own", h, "own")
	await(t, "Up", h.Up)
	if _, lost := h.state(); len(lost) > 0 {
		t.Errorf("lost %q at the start", lost)
	}
	s.CLI("CLIENT", "KILL", "TYPE", "pubsub")
	h.untilLost("own")
	s.CLI("CLIENT", "KILL", "TYPE", "pubsub")
	h.until("the second Lost", func(_, lost []string) bool { return slices.Equal(lost, []string{"own", "own"}) })
}
