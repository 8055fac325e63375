package layertest

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/pprof"
	"sync"
	"testing"
	"time"

	"github.com/seed-29c60982/grouphub/layer"
)

// Hooks make the server of a layer fail. A case that needs a hook that is nil is skipped.
// What a hook cannot do, it reports with t.Fatal.
type Hooks struct {
	// Stop ends the server, and every connection to it with it. Start starts it again, with
	// what it had stored or without. It need not wait for the layers to notice.
	Stop, Start func()

	// Stall makes the server accept what is sent to it and not answer. Resume ends that.
	Stall, Resume func()

	// LoseLast calls run and then has the server lose all that was written since LoseLast
	// was called, as one does that fails over to a copy of itself that is behind. The
	// connections to it end.
	LoseLast func(run func())
}

// withoutLabels returns the hooks without the label of a case, since a server that they have
// started may outlive it.
func (h Hooks) withoutLabels() Hooks {
	bare := func(hook func()) func() {
		if hook == nil {
			return nil
		}
		return func() { callWithoutLabels(hook) }
	}
	loseLast := h.LoseLast
	h = Hooks{Stop: bare(h.Stop), Start: bare(h.Start), Stall: bare(h.Stall), Resume: bare(h.Resume)}
	if loseLast != nil {
		h.LoseLast = func(run func()) { callWithoutLabels(func() { loseLast(run) }) }
	}
	return h
}

// callWithoutLabels calls a function on a goroutine of its own, which ends the caller's if it
// ends with t.Fatal.
func callWithoutLabels(fn func()) {
	ended, returned := make(chan struct{}), false
	go func() {
		defer close(ended)
		pprof.SetGoroutineLabels(context.Background())
		fn()
		returned = true
	}()
	if <-ended; !returned {
		runtime.Goexit()
	}
}

var hookCases = []testCase{
	{name: "TheServerGoesAwayAndEveryTopicIsLost", run: testStop},
	{name: "TakeWaitsWhileTheServerIsAway", run: testStopTake},
	{name: "CallsEndThoughTheServerDoesNotAnswer", run: testStall},
	{name: "TheServerLosesWritesAndNoPositionIsGivenOutTwice", run: testLoseLast},
}

// testStop checks what a hub relies on after an interruption: Lost for every topic, its own
// included, once publications arrive again.
func testStop(t testing.TB, f *fixture) {
	if f.hooks.Stop == nil || f.hooks.Start == nil {
		t.Skip("the layer's test cannot stop its server")
	}
	hubs := []*receiver{f.attach(f.a, "one", "two"), f.attach(f.b, "one")}
	f.publish(f.a, "one", "before")
	for _, h := range hubs {
		h.expect("one", "before")
		h.expectLoss()
	}
	f.hooks.Stop()
	for _, h := range hubs {
		if !eventually(func() bool { return !h.Up() }) {
			t.Errorf("%s: Up is true without a server", h.name)
		}
	}
	for call, err := range map[string]error{
		"Publish":              f.a.Publish(f.ctx, layer.Publication{Topic: "one", Payload: []byte("away")}),
		"Publish that is kept": f.a.Publish(f.ctx, layer.Publication{Topic: "one", Payload: []byte("away"), Keep: plenty}),
		"Append":               f.a.Append(f.ctx, "queue", []byte("away")),
	} {
		if !errors.Is(err, layer.ErrUnavailable) && !errors.Is(err, layer.ErrUncertain) {
			t.Errorf("%s without a server: %v, want ErrUnavailable or ErrUncertain", call, err)
		}
	}
	f.hooks.Start()
	hubs[0].awaitLoss("one", "two", hubs[0].name)
	hubs[1].awaitLoss("one", hubs[1].name)
	// The subscription is in force when Lost is called, so this is not missed.
	if !eventually(func() bool {
		return f.a.Publish(f.ctx, layer.Publication{Topic: "one", Payload: []byte("after")}) == nil
	}) {
		t.Fatal("Publish does not work when the server is back")
	}
	for _, h := range hubs {
		got := h.await("one", 2)
		for n := 3; got[len(got)-1] != "after"; n++ {
			got = h.await("one", n)
		}
		if !eventually(h.Up) {
			t.Errorf("%s: Up is false though publications arrive", h.name)
		}
	}
}

func testStopTake(t testing.TB, f *fixture) {
	if f.hooks.Stop == nil || f.hooks.Start == nil {
		t.Skip("the layer's test cannot stop its server")
	}
	type result struct {
		message []byte
		err     error
	}
	took := make(chan result, 1)
	go func() {
		message, err := f.a.Take(f.ctx, "queue")
		took <- result{message, err}
	}()
	f.hooks.Stop()
	ctx, cancel := context.WithTimeout(f.ctx, 100*time.Millisecond)
	defer cancel()
	if _, err := f.b.Take(ctx, "queue"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Take without a server: %v, want its context's error", err)
	}
	f.hooks.Start()
	if !eventually(func() bool { return f.b.Append(f.ctx, "queue", []byte("after")) == nil }) {
		t.Fatal("Append does not work when the server is back")
	}
	select {
	case r := <-took:
		if r.err != nil || string(r.message) != "after" {
			t.Errorf("Take: %q, %v, want what was appended when the server was back", r.message, r.err)
		}
	case <-f.ctx.Done():
		t.Error("a taker that waited while the server was away gets nothing")
	}
}

// testStall calls everything without a deadline while the server does not answer.
func testStall(t testing.TB, f *fixture) {
	if f.hooks.Stall == nil || f.hooks.Resume == nil {
		t.Skip("the layer's test cannot stall its server")
	}
	h := f.attach(f.a, "topic")
	h.expectLoss()
	f.publish(f.a, "topic", "before")
	h.expect("topic", "before")
	f.hooks.Stall()
	resume := sync.OnceFunc(f.hooks.Resume)
	defer resume()
	defer time.AfterFunc(callLimit+time.Second, resume).Stop() // so that a call without a limit returns
	var wg sync.WaitGroup
	var mu sync.Mutex
	safe := make(map[string]bool) // the payloads of what returned ErrUnavailable
	call := func(name string, fn func() error) {
		wg.Go(func() {
			begun := time.Now()
			err := fn()
			if took := time.Since(begun); took > callLimit {
				t.Errorf("%s took %v while the server did not answer, want five seconds at most", name, took)
			}
			if !errors.Is(err, layer.ErrUnavailable) && !errors.Is(err, layer.ErrUncertain) {
				t.Errorf("%s while the server did not answer: %v, want ErrUnavailable or ErrUncertain", name, err)
			}
			mu.Lock()
			defer mu.Unlock()
			safe[name] = errors.Is(err, layer.ErrUnavailable)
		})
	}
	for i := range 20 {
		name := fmt.Sprint("Publish ", i)
		call(name, func() error {
			return f.a.Publish(f.ctx, layer.Publication{Topic: "topic", Payload: []byte(name)})
		})
	}
	call("Publish of what is kept", func() error {
		return f.a.Publish(f.ctx, layer.Publication{Topic: "topic", Payload: []byte("Publish of what is kept"), Keep: plenty})
	})
	call("History", func() error { _, err := f.a.History(f.ctx, "topic", 0); return err })
	if p, ok := f.a.(layer.Positioner); ok {
		call("Positions", func() error { _, err := p.Positions(f.ctx, []string{"topic", "other"}); return err })
	}
	call("Lease", func() error { _, err := f.a.Lease(f.ctx, "topic", "holder", replaced(1)); return err })
	call("Leases", func() error { _, err := f.a.Leases(f.ctx, "topic", nil); return err })
	call("Append", func() error { return f.a.Append(f.ctx, "queue", []byte("x")) })
	call("Add", func() error { return h.Add(f.ctx, "more") })
	wg.Wait()
	resume()
	if !eventually(func() bool {
		return f.b.Publish(f.ctx, layer.Publication{Topic: "topic", Payload: []byte("after")}) == nil
	}) {
		t.Fatal("Publish does not work when the server answers again")
	}
	// What the stalled server had taken may come before or after this one. Nothing tells
	// that a publication will not come.
	f.publish(f.a, "topic", "last")
	time.Sleep(300 * time.Millisecond)
	for _, payload := range h.received("topic") {
		if safe[payload] {
			t.Errorf("%s returned ErrUnavailable, and was delivered", payload)
		}
	}
}

func testLoseLast(t testing.TB, f *fixture) {
	if f.hooks.LoseLast == nil {
		t.Skip("the layer's test cannot make its server lose what was written")
	}
	h := f.attach(f.a, "topic")
	for i := range 3 {
		f.publishKept(f.a, "topic", fmt.Sprint("before ", i), plenty)
	}
	h.await("topic", 3)
	h.expectLoss()
	f.hooks.LoseLast(func() {
		for i := range 3 {
			f.publishKept(f.a, "topic", fmt.Sprint("lost ", i), plenty)
		}
		h.await("topic", 6)
	})
	h.awaitLoss("topic")
	seen := make(map[layer.Position]string)
	for _, p := range h.publications("topic") {
		seen[p.At] = string(p.Payload)
	}
	for i := range 3 {
		if !eventually(func() bool {
			return f.a.Publish(f.ctx, layer.Publication{Topic: "topic", Payload: fmt.Append(nil, "after ", i), Keep: plenty}) == nil
		}) {
			t.Fatal("Publish does not work after the server has lost writes")
		}
	}
	for _, p := range f.history(f.b, "topic", 0).Kept {
		if other, ok := seen[p.At]; ok && other != string(p.Payload) {
			t.Errorf("%q and %q have the same position, %+v", other, p.Payload, p.At)
		}
	}
}
