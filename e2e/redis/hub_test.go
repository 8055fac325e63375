package redis_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
)

// frozenLoad sends numbers to a group from several goroutines.
type frozenLoad struct {
	stop func()

	mu       sync.Mutex
	accepted map[string]bool // GroupSend returned nil
	refused  map[string]bool // ErrUnavailable: must not arrive
	failures int
}

func (w *frozenLoad) note(event string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case err == nil:
		w.accepted[event] = true
	case errors.Is(err, grouphub.ErrUnavailable):
		w.refused[event] = true
		w.failures++
	default:
		w.failures++
	}
}

func sendTo(t *testing.T, hub *grouphub.Hub, group string, senders int) *frozenLoad {
	ctx, cancel := context.WithCancel(context.Background())
	var sending sync.WaitGroup
	w := &frozenLoad{accepted: make(map[string]bool), refused: make(map[string]bool)}
	w.stop = func() { cancel(); sending.Wait() }
	t.Cleanup(w.stop)
	for sender := range senders {
		sending.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				event := fmt.Sprint(sender, ".", i)
				const limit = 250 * time.Millisecond
				limited, done := context.WithTimeout(context.Background(), limit)
				start := time.Now()
				err := hub.GroupSend(limited, group, "note", event)
				done()
				if took := time.Since(start); took >= 5*time.Second { // as if it had none
					t.Errorf("GroupSend took %v, want %v at most", took, limit)
				}
				if err != nil && !errors.Is(err, grouphub.ErrUnavailable) && !errors.Is(err, grouphub.ErrUncertain) {
					t.Errorf("GroupSend: %v", err)
				}
				w.note(event, err)
				select {
				case <-ctx.Done():
				case <-time.After(2 * time.Millisecond):
				}
			}
		})
	}
	return w
}

func TestHubsWhoseRedisFreezesForTwentySeconds(t *testing.T) {
	t.Parallel()
	s := start(t)
	consumer := grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error { return c.Join("all") },
		Receive: func(c *grouphub.Conn, m grouphub.Message) error { return c.Send(m.Data) },
		Events:  grouphub.Events{"*": grouphub.Forward()},
	}
	newHub := func() *grouphub.Hub {
		hub := grouphub.New(&grouphub.Options{Layer: layer(t, s.url(), nil), Consumer: consumer})
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			defer cancel()
			if err := hub.Shutdown(ctx); err != nil {
				t.Errorf("Shutdown: %v", err)
			}
		})
		return hub
	}
	hubs := []*grouphub.Hub{newHub(), newHub()}
	clients := []*hubtest.Client{hubtest.Dial(t, hubs[0], "/"), hubtest.Dial(t, hubs[1], "/")}
	const senders = 4
	w := sendTo(t, hubs[0], "all", senders)
	await(t, "the load", func() bool { return hubs[1].Stats().Delivered > 100 })

	s.process.Process.Signal(syscall.SIGSTOP)
	frozen := time.Now()
	for _, hub := range hubs {
		await(t, "LayerUp to be false", func() bool { return !hub.Stats().LayerUp })
	}
	if noticed := time.Since(frozen); noticed > 15*time.Second {
		t.Errorf("noticed after %v, want 15s at most", noticed)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := hubs[0].Ping(ctx); !errors.Is(err, grouphub.ErrUnavailable) && !errors.Is(err, grouphub.ErrUncertain) {
		t.Errorf("Ping: %v, want ErrUnavailable or ErrUncertain", err)
	}
	time.Sleep(20*time.Second - time.Since(frozen)) // the length of the outage, not a wait for anything
	s.process.Process.Signal(syscall.SIGCONT)
	back := time.Now()
	for _, hub := range hubs {
		await(t, "Resync", func() bool { return hub.Stats().Resyncs > 0 && hub.Stats().LayerUp })
		await(t, "Ping", func() bool { return hub.Ping(t.Context()) == nil })
	}
	arrived := hubs[1].Stats().Delivered
	await(t, "events", func() bool { return hubs[1].Stats().Delivered > arrived+100 })
	took := time.Since(back)
	t.Logf("events flow again after %v", took)
	if took > 5*time.Second {
		t.Errorf("events flow again after %v, want 5s at most", took)
	}
	w.stop()
	for i, hub := range hubs {
		await(t, "a last event", func() bool { return hub.GroupSend(t.Context(), "all", "last", i) == nil })
	}

	for i, c := range clients {
		seen := make(map[string]bool)
		last := make(map[string]int) // the number of the last accepted event, by sender
		resyncs, ends := 0, 0
		for ends < len(hubs) {
			var e grouphub.Event
			m := c.Next()
			if err := json.Unmarshal(m.Data, &e); err != nil {
				t.Fatal(err)
			}
			switch e.Type {
			case "resync":
				resyncs++
				continue
			case "last":
				ends++
				continue
			}
			var event string
			if err := e.Decode(&event); err != nil {
				t.Fatal(err)
			}
			if seen[event] {
				t.Errorf("client %d: got %s twice", i, event)
			}
			seen[event] = true
			if w.refused[event] {
				t.Errorf("client %d: got %s, whose sender was told that it did not go out", i, event)
			}
			if !w.accepted[event] {
				continue // uncertain, and may go out after later ones
			}
			var sender string
			var n int
			if _, err := fmt.Sscanf(event, "%1s.%d", &sender, &n); err != nil {
				t.Fatal(err)
			}
			if before, ok := last[sender]; ok && n < before {
				t.Errorf("client %d: got %s after %d", i, event, before)
			}
			last[sender] = n
		}
		if resyncs != 1 {
			t.Errorf("client %d was told %d times that events may be lost, want once", i, resyncs)
		}
		missed := 0
		for event := range w.accepted {
			if !seen[event] {
				missed++
			}
		}
		t.Logf("client %d: %d events, %d accepted ones are missing", i, len(seen), missed)
		c.Send("still here")
		c.Expect("still here")
	}
	if w.failures == 0 {
		t.Error("no GroupSend failed")
	}
	for i, hub := range hubs {
		if n := hub.Stats(); n.Dropped > 0 || n.Conns != 1 || n.SlowClosed > 0 {
			t.Errorf("hub %d: %+v", i, n)
		}
	}
}

func TestCallsThroughAFrozenRedisEndInTime(t *testing.T) {
	t.Parallel()
	s := start(t)
	conns := make(chan *grouphub.Conn, 1)
	newHub := func() (*grouphub.Hub, *grouphub.Conn) {
		hub := grouphub.New(&grouphub.Options{Layer: layer(t, s.url(), nil), Logger: slog.New(slog.DiscardHandler),
			Policy: func(group string) grouphub.GroupPolicy {
				if strings.HasPrefix(group, "kept") {
					return grouphub.GroupPolicy{History: 10, Presence: true}
				}
				return grouphub.GroupPolicy{}
			},
			Consumer: grouphub.Consumer{Connect: func(c *grouphub.Conn) error {
				conns <- c
				return c.Join("kept")
			}}})
		t.Cleanup(func() { hub.Shutdown(context.Background()) })
		hubtest.Dial(t, hub, "/")
		return hub, <-conns
	}
	hub, here := newHub()
	_, there := newHub()
	calls := map[string]func(context.Context) error{
		"GroupSend":              func(ctx context.Context) error { return hub.GroupSend(ctx, "g", "n", 1) },
		"GroupSend with history": func(ctx context.Context) error { return hub.GroupSend(ctx, "kept", "n", 1) },
		"GroupSend with Once":    func(ctx context.Context) error { return hub.GroupSend(ctx, "kept", "n", 1, grouphub.Once("key")) },
		"GroupClose":             func(ctx context.Context) error { return hub.GroupClose(ctx, "g", 4000, "") },
		"GroupAdd":               func(ctx context.Context) error { return hub.GroupAdd(ctx, "new", here.Channel()) },
		"GroupAdd elsewhere":     func(ctx context.Context) error { return hub.GroupAdd(ctx, "new", there.Channel()) },
		"GroupDiscard elsewhere": func(ctx context.Context) error { return hub.GroupDiscard(ctx, "kept", there.Channel()) },
		"Send to a connection":   func(ctx context.Context) error { return hub.Send(ctx, there.Channel(), "n", 1) },
		"Send to a queue":        func(ctx context.Context) error { return hub.Send(ctx, "queue", "n", 1) },
		"Members":                func(ctx context.Context) error { _, err := hub.Members(ctx, "kept"); return err },
		"Ping":                   hub.Ping,
		"Join":                   func(context.Context) error { return here.Join("another") },
		"Join with history":      func(context.Context) error { return here.Join("kept too", grouphub.Last(3)) },
	}
	await(t, "Ping", func() bool { return hub.Ping(t.Context()) == nil })
	if err := s.process.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer s.process.Process.Signal(syscall.SIGCONT)
	// A loaded machine may take a little longer.
	const patience, promise, slack = 200 * time.Millisecond, 5 * time.Second, 2 * time.Second
	var calling sync.WaitGroup
	for name, call := range calls {
		for _, limit := range []time.Duration{patience, promise} {
			if limit == patience && strings.HasPrefix(name, "Join") {
				continue // has the connection's context
			}
			calling.Go(func() {
				ctx := context.Background()
				if limit == patience {
					limited, cancel := context.WithTimeout(ctx, patience)
					defer cancel()
					ctx = limited
				}
				begun := time.Now()
				err := call(ctx)
				if took := time.Since(begun); took > limit+slack {
					t.Errorf("%s took %v, want %v", name, took, limit)
				}
				if !errors.Is(err, grouphub.ErrUnavailable) && !errors.Is(err, grouphub.ErrUncertain) {
					t.Errorf("%s: %v, want ErrUnavailable or ErrUncertain", name, err)
				}
			})
		}
	}
	calling.Wait()
}

func TestHundredThousandGroupsOfOneHub(t *testing.T) {
	const groups, joiners, limit = 100_000, 512, 2 * time.Minute
	s := start(t)
	conns := make(chan *grouphub.Conn, 1)
	var told atomic.Int64
	hub := grouphub.New(&grouphub.Options{Layer: layer(t, s.url(), nil), Logger: slog.New(slog.DiscardHandler),
		Consumer: grouphub.Consumer{
			Connect: func(c *grouphub.Conn) error { conns <- c; return nil },
			Resync:  func(_ *grouphub.Conn, groups []string) { told.Add(int64(len(groups))) },
			Events:  grouphub.Events{"n": grouphub.Forward()},
		}})
	t.Cleanup(func() { hub.Shutdown(context.Background()) })
	client := hubtest.Dial(t, hub, "/")
	conn := <-conns
	begun := time.Now()
	var next atomic.Int64
	var joining sync.WaitGroup
	for range joiners {
		joining.Go(func() {
			for n := next.Add(1); n <= groups; n = next.Add(1) {
				if err := conn.Join(fmt.Sprint("group", n)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	joining.Wait()
	joined := time.Since(begun)
	if n := hub.Stats().Groups; n != groups {
		t.Fatalf("%d groups, want %d", n, groups)
	}
	begun = time.Now()
	if killed := s.cli("CLIENT", "KILL", "TYPE", "pubsub"); killed != "1" {
		t.Fatalf("%s connections were killed, want 1", killed)
	}
	await(t, "Resync", func() bool { return told.Load() >= groups })
	again := time.Since(begun)
	t.Logf("%d groups joined in %v, and told Resync after %v", groups, joined, again)
	if joined > limit || again > limit {
		t.Errorf("%d groups joined in %v, and told Resync after %v, want less than %v", groups, joined, again, limit)
	}
	for _, group := range []string{"group1", "group50000", "group100000"} {
		if err := hub.GroupSend(t.Context(), group, "n", 1); err != nil {
			t.Fatal(err)
		}
		if e := client.ExpectEvent("n"); e.Group != group {
			t.Errorf("an event of %s, want one of %s", e.Group, group)
		}
	}
	if n := told.Load(); n != groups {
		t.Errorf("%d groups were told, want %d", n, groups)
	}
}
