package layertest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/seed-29c60982/grouphub/layer"
)

// contextPatience is how long a call may go on after its context has ended. It is less than
// the five seconds after which every call ends in any case.
const contextPatience = 4 * time.Second

var lifeCases = []testCase{
	{name: "CallsEndWithTheirContext", run: testContexts},
	{name: "EverythingAtOnce", run: testEverythingAtOnce},
	{name: "AfterCloseEverythingIsErrClosed", run: testClose},
}

// testContexts calls everything with a context that has ended, and with one that ends
// while the call waits. A call that has nothing to wait for may go through. Any other
// returns now, with its context's error, and except for Take, which says no more than
// that, with ErrUnavailable or ErrUncertain.
func testContexts(t testing.TB, f *fixture) {
	h, full := f.attach(f.a, "topic"), f.attach(f.a, "full")
	full.setFull(true)
	publish := func(topic string, keep layer.Keep) func(context.Context) error {
		return func(ctx context.Context) error {
			return f.a.Publish(ctx, layer.Publication{Topic: topic, Payload: []byte("x"), Keep: keep})
		}
	}
	take := func(l layer.Layer) func(context.Context) error {
		return func(ctx context.Context) error {
			message, err := l.Take(ctx, "empty")
			if err == nil {
				err = fmt.Errorf("%q, and no error", message)
			}
			return err
		}
	}
	// finish waits for a call whose context has ended.
	finish := func(call string, result <-chan error) {
		t.Helper()
		select {
		case err := <-result:
			switch {
			case strings.HasPrefix(call, "Take"):
				if !errors.Is(err, context.Canceled) {
					t.Errorf("%s: %v, want its context's error", call, err)
				}
			case err != nil && (!errors.Is(err, layer.ErrUnavailable) && !errors.Is(err, layer.ErrUncertain) || !errors.Is(err, context.Canceled)):
				t.Errorf("%s: %v, want none, or ErrUnavailable or ErrUncertain together with its context's error", call, err)
			}
		case <-time.After(contextPatience):
			t.Errorf("%s: still waiting %v after its context has ended", call, contextPatience)
		}
	}
	begin := func(ctx context.Context, call func(context.Context) error) <-chan error {
		result := make(chan error, 1)
		go func() { result <- call(ctx) }()
		return result
	}

	over, cancel := context.WithCancel(f.ctx)
	cancel()
	for _, c := range []struct {
		name string
		call func(context.Context) error
	}{
		{"Publish", publish("topic", layer.Keep{})},
		{"Publish of what is kept", publish("topic", plenty)},
		{"Publish where there is no room", publish("full", layer.Keep{})},
		{"Publish of what is kept where there is no room", publish("full", plenty)},
		{"History", func(ctx context.Context) error {
			_, err := f.a.History(ctx, "topic", 0)
			return err
		}},
		{"Positions", func(ctx context.Context) error {
			_, err := positionsOf(ctx, f.a, "topic")
			return err
		}},
		{"Lease", func(ctx context.Context) error {
			_, err := f.a.Lease(ctx, "topic", "holder", replaced(1, "field", "x"))
			return err
		}},
		{"Lease that is prolonged", func(ctx context.Context) error {
			_, err := f.a.Lease(ctx, "topic", "holder", prolonged(1))
			return err
		}},
		{"Lease that ends", func(ctx context.Context) error {
			_, err := f.a.Lease(ctx, "topic", "holder", ended(1))
			return err
		}},
		{"Leases", func(ctx context.Context) error {
			_, err := f.a.Leases(ctx, "topic", nil)
			return err
		}},
		{"Append", func(ctx context.Context) error { return f.a.Append(ctx, "appended", []byte("x")) }},
		{"Add", func(ctx context.Context) error { return h.Add(ctx, "more") }},
		{"Take", take(f.a)},
	} {
		finish(c.name+" with a context that is over", begin(over, c.call))
	}

	// A Take that waits holds up no other.
	waiting, stop := context.WithCancel(f.ctx)
	defer stop()
	taking, publishing := begin(waiting, take(f.a)), begin(waiting, publish("full", layer.Keep{}))
	finish("Take beside another, with a context that is over", begin(over, take(f.b)))
	stop()
	finish("Take whose context ends", taking)
	finish("Publish where there is no room, whose context ends", publishing)
}

func testEverythingAtOnce(t testing.TB, f *fixture) {
	hubs := []*receiver{f.attach(f.a), f.attach(f.b)}
	var wg sync.WaitGroup
	for i := range 8 {
		h, l := hubs[i%2], f.b
		if i%4 < 2 {
			l = f.a
		}
		topic, queue := fmt.Sprint("topic", i/2), fmt.Sprint("queue", i)
		wg.Go(func() {
			for j := range 25 {
				if err := h.Add(f.ctx, topic, fmt.Sprint("own", i)); err != nil {
					t.Errorf("Add: %v", err)
				}
				if err := l.Publish(f.ctx, layer.Publication{Topic: topic, Payload: fmt.Append(nil, j)}); err != nil {
					t.Errorf("Publish: %v", err)
				}
				if err := l.Publish(f.ctx, layer.Publication{Topic: topic, Payload: fmt.Append(nil, j), Keep: plenty}); err != nil {
					t.Errorf("Publish: %v", err)
				}
				if _, err := l.History(f.ctx, topic, uint64(j)); err != nil {
					t.Errorf("History: %v", err)
				}
				if _, err := positionsOf(f.ctx, l, topic, fmt.Sprint("own", i)); err != nil {
					t.Errorf("Positions: %v", err)
				}
				if ok, err := l.Lease(f.ctx, topic, queue, replaced(uint64(j+1), "field", string(rune(j)))); err != nil || !ok {
					t.Errorf("Lease: %v, %v", ok, err)
				}
				if leases, err := l.Leases(f.ctx, topic, nil); err != nil || string(leases[queue].Fields["field"]) != string(rune(j)) {
					t.Errorf("Leases: %v, %v", leases, err)
				}
				h.Remove(topic)
				if err := l.Append(f.ctx, queue, fmt.Append(nil, j)); err != nil {
					t.Errorf("Append: %v", err)
				}
				if got, err := l.Take(f.ctx, queue); err != nil || string(got) != fmt.Sprint(j) {
					t.Errorf("Take: %q, %v, want %d", got, err, j)
				}
				h.Up()
			}
		})
	}
	wg.Wait()
	for _, h := range hubs {
		h.add("last")
		f.publish(f.a, "last", "x")
		h.await("last", 1)
	}
}

func testClose(t testing.TB, f *fixture) {
	h := f.attach(f.a, "topic")
	took := make(chan error, 2)
	go func() {
		_, err := f.a.Take(f.ctx, "queue")
		took <- err
	}()
	go func() {
		// Whether this one begins before or after Close, it ends with ErrClosed.
		_, err := f.a.Take(f.ctx, "other")
		took <- err
	}()
	f.publish(f.a, "topic", "x")
	h.expect("topic", "x")
	f.close()
	h.forbidCalls()
	_, attach := f.a.Attach("late", newReceiver(f, "late"))
	_, take := f.a.Take(f.ctx, "queue")
	_, history := f.a.History(f.ctx, "topic", 0)
	positions := layer.ErrClosed
	if _, ok := f.a.(layer.Positioner); ok {
		_, positions = positionsOf(f.ctx, f.a, "topic", "other")
	}
	_, lease := f.a.Lease(f.ctx, "topic", "holder", prolonged(1))
	_, leases := f.a.Leases(f.ctx, "topic", nil)
	for call, err := range map[string]error{
		"Attach":           attach,
		"Publish":          f.a.Publish(f.ctx, layer.Publication{Topic: "topic", Payload: []byte("y")}),
		"History":          history,
		"Positions":        positions,
		"Lease":            lease,
		"Leases":           leases,
		"Append":           f.a.Append(f.ctx, "queue", []byte("y")),
		"Take":             take,
		"Take that waited": <-took,
		"Take that began":  <-took,
		"Add":              h.Add(f.ctx, "topic"),
		"Close":            f.a.Close(),
	} {
		if !errors.Is(err, layer.ErrClosed) {
			t.Errorf("%s after Close: %v, want ErrClosed", call, err)
		}
	}
	h.Remove("topic")
	if h.Up() {
		t.Error("Up is true after Close")
	}
	if err := h.Subscription.Close(); err != nil && !errors.Is(err, layer.ErrClosed) {
		t.Errorf("closing a subscription after its layer: %v", err)
	}
}
