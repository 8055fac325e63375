package layertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/seed-29c60982/grouphub/layer"
)

var publishCases = []testCase{
	{name: "PublishReachesEverySubscriber", run: testPublishReachesEverySubscriber},
	{name: "PublishWithoutSubscribersIsNoError", run: testPublishWithoutSubscribers},
	{name: "OneSendersOrderHolds", run: testOrder},
	{name: "SubscribersOfOneLayerSeeOneOrder", run: testOneOrder},
	{name: "PayloadsAreOpaqueAndTheSlicesBelongToTheirOwners", run: testPayloads},
	{name: "NamesAreOpaque", run: testNames},
	{name: "IdenticalPublicationsAreEachDelivered", run: testIdentical},
	{name: "PublishThatFailedReachesNobody", run: testPublishFailed},
	{name: "WhatIsUnavailableHasNotGoneOut", run: testUnavailable},
	{name: "PublishWithoutRoomEndsAfterFiveSeconds", run: testPublishLimit, slow: true},
}

func testPublishReachesEverySubscriber(t testing.TB, f *fixture) {
	hubs := []*receiver{f.attach(f.a, "one", "two"), f.attach(f.a, "one"), f.attach(f.b, "one")}
	f.publish(f.a, "one", "from a")
	f.publish(f.b, "one", "from b")
	f.publish(f.b, "two", "two")
	for _, h := range hubs {
		if got := h.await("one", 2); !slices.Contains(got, "from a") || !slices.Contains(got, "from b") {
			t.Errorf("%s received %q", h.name, got)
		}
	}
	hubs[0].expect("two", "two")
	for _, h := range hubs[1:] {
		h.add("last")
		f.publish(f.b, "last", "last")
		h.await("last", 1)
		if got := h.received("two"); len(got) != 0 {
			t.Errorf("%s received %q of a topic it is not subscribed to", h.name, got)
		}
	}
}

func testPublishWithoutSubscribers(t testing.TB, f *fixture) {
	f.publish(f.a, "nobody", "x")
	h := f.attach(f.a, "nobody")
	f.publish(f.b, "nobody", "y")
	h.expect("nobody", "y")
	// What is kept is in the history, and not delivered either.
	f.publishKept(f.a, "kept", "x", plenty)
	h.add("kept")
	f.publishKept(f.b, "kept", "y", plenty)
	h.expect("kept", "y")
}

func testOrder(t testing.TB, f *fixture) {
	hubs := []*receiver{f.attach(f.a, "topic"), f.attach(f.b, "topic")}
	var want []string
	for i := range 1000 {
		want = append(want, fmt.Sprint(i))
		f.publish(f.b, "topic", want[i])
	}
	for _, h := range hubs {
		h.expect("topic", want...)
	}
}

func testOneOrder(t testing.TB, f *fixture) {
	const publishers, each = 8, 100
	hubs := []*receiver{f.attach(f.a, "topic"), f.attach(f.a, "topic"), f.attach(f.a, "topic")}
	var wg sync.WaitGroup
	for i := range publishers {
		l := f.a
		if i%2 == 1 {
			l = f.b
		}
		wg.Go(func() {
			for j := range each {
				err := l.Publish(f.ctx, layer.Publication{Topic: "topic", Payload: fmt.Append(nil, i, ":", j)})
				if err != nil {
					t.Errorf("Publish: %v", err)
				}
			}
		})
	}
	wg.Wait()
	first := hubs[0].await("topic", publishers*each)
	for _, h := range hubs[1:] {
		h.expect("topic", first...)
	}
	next := make(map[string]int)
	for _, payload := range first {
		publisher, number, _ := strings.Cut(payload, ":")
		if number != fmt.Sprint(next[publisher]) {
			t.Fatalf("publisher %s: received %s, want %d", publisher, number, next[publisher])
		}
		next[publisher]++
	}
}

func testPayloads(t testing.TB, f *fixture) {
	hubs := []*receiver{f.attach(f.a, "topic"), f.attach(f.a, "topic"), f.attach(f.b, "topic")}
	binary := make([]byte, 256)
	for i := range binary {
		binary[i] = byte(i)
	}
	var want []string
	var kept []string
	for _, payload := range [][]byte{nil, {}, {0}, {1}, {2}, {3}, []byte("\x03a 1 b x"), []byte("\r\n"), binary, bytes.Repeat(binary, 4096)} {
		kept = append(kept, string(payload))
		for _, keep := range []layer.Keep{{}, plenty} {
			want = append(want, string(payload))
			payload := bytes.Clone(payload)
			if err := f.a.Publish(f.ctx, layer.Publication{Topic: "topic", Payload: payload, Keep: keep}); err != nil {
				t.Fatalf("Publish: %v", err)
			}
			for i := range payload {
				payload[i] = 'x' // the slice is the sender's again, and no receiver may see this
			}
		}
	}
	for i, p := range f.history(f.b, "topic", 0).Kept {
		if string(p.Payload) != kept[i] {
			t.Errorf("%d bytes %.20q are kept as %d bytes %.20q", len(kept[i]), kept[i], len(p.Payload), p.Payload)
		}
	}
	for _, h := range hubs {
		for i, got := range h.await("topic", len(want)) {
			if got != want[i] {
				t.Errorf("%d bytes %.20q arrived as %d bytes %.20q", len(want[i]), want[i], len(got), got)
			}
		}
	}
}

// oddNames are names that a careless layer mixes up or takes for a pattern.
var oddNames = []string{"a", "A", " a", "a ", "a*", "a?", "[a]", "{a}", "a}", "}", "{", "{}", "a{b}c", "a:b", "a/b",
	"a%7D", "%", "a\x00b", "a\r\nb", "\xff\xfe", "日本", "🙂", strings.Repeat("x", 300), strings.Repeat("}", 300)}

func testNames(t testing.TB, f *fixture) {
	h := f.attach(f.a, oddNames...)
	for _, name := range oddNames {
		f.publish(f.b, name, name)
		f.append(f.b, name, name)
		f.publishKept(f.b, name, name, plenty)
		for _, holder := range oddNames {
			f.lease(f.b, name, holder, replaced(1, name, name+holder), true)
		}
	}
	// Backwards, so that a queue that two names have in common is found out.
	for _, name := range slices.Backward(oddNames) {
		h.expect(name, name, name)
		f.take(f.a, name, name)
		if h := f.history(f.a, name, 0); len(h.Kept) != 1 || string(h.Kept[0].Payload) != name {
			t.Errorf("history of %q: %+v", name, h.Kept)
		}
		leases := make(map[string]layer.Lease)
		for _, holder := range oddNames {
			leases[holder] = layer.Lease{Version: 1, Fields: fields(name, name+holder)}
		}
		f.expectLeases(name, leases)
	}
}

func testPublishFailed(t testing.TB, f *fixture) {
	roomy, full := f.attach(f.a, "topic"), f.attach(f.a, "topic")
	full.setFull(true)
	ctx, cancel := context.WithTimeout(f.ctx, 50*time.Millisecond)
	defer cancel()
	err := f.a.Publish(ctx, layer.Publication{Topic: "topic", Payload: []byte("one")})
	full.setFull(false)
	f.publish(f.a, "topic", "two")
	want := []string{"one", "two"}
	if errors.Is(err, layer.ErrUnavailable) && errors.Is(err, context.DeadlineExceeded) {
		want = want[1:]
	} else if errors.Is(err, layer.ErrUncertain) {
		return
	} else if err != nil {
		t.Errorf("Publish without room: %v, want ErrUnavailable and the context's error", err)
	}
	roomy.expect("topic", want...)
	full.expect("topic", want...)
}

// testIdentical publishes the same bytes many times at once. A layer that merges what is
// equal delivers too few.
func testIdentical(t testing.TB, f *fixture) {
	const publishers, each = 8, 25
	hubs := []*receiver{f.attach(f.a, "topic"), f.attach(f.b, "topic")}
	var wg sync.WaitGroup
	for i := range publishers {
		l, keep := f.a, layer.Keep{}
		if i%2 == 1 {
			l = f.b
		}
		if i%4 < 2 {
			keep = plenty
		}
		wg.Go(func() {
			for range each {
				if err := l.Publish(f.ctx, layer.Publication{Topic: "topic", Payload: []byte("same"), Keep: keep}); err != nil {
					t.Errorf("Publish: %v", err)
				}
			}
		})
	}
	wg.Wait()
	f.publish(f.a, "topic", "last")
	for _, h := range hubs {
		got := h.await("topic", publishers*each+1)
		if len(got) != publishers*each+1 || got[len(got)-1] != "last" {
			t.Errorf("%s received %d publications, want %d and one more", h.name, len(got), publishers*each)
		}
	}
	if h := f.history(f.b, "topic", 0); h.Last != publishers*each/2 {
		t.Errorf("last is %d, want %d", h.Last, publishers*each/2)
	}
}

// testUnavailable makes calls whose contexts end before, during and after them. What
// returned ErrUnavailable must have had no effect.
func testUnavailable(t testing.TB, f *fixture) {
	h := f.attach(f.b, "topic", "kept")
	begun := time.Now()
	f.publish(f.a, "topic", "first")
	usual := time.Since(begun)
	const rounds = 90
	failed := make(map[string]bool)
	for i := range rounds {
		name := fmt.Sprint(i)
		ctx, cancel := context.WithTimeout(f.ctx, usual*time.Duration(i)/rounds*2)
		for call, err := range map[string]error{
			"topic": f.a.Publish(ctx, layer.Publication{Topic: "topic", Payload: []byte(name)}),
			"kept":  f.a.Publish(ctx, layer.Publication{Topic: "kept", Payload: []byte(name), Keep: plenty}),
			"queue": f.a.Append(ctx, fmt.Sprint("queue", name), []byte(name)),
		} {
			if errors.Is(err, layer.ErrUnavailable) {
				failed[call+name] = true
			} else if err != nil && !errors.Is(err, layer.ErrUncertain) {
				t.Errorf("%s: %v, want ErrUnavailable, ErrUncertain or none", call, err)
			}
		}
		cancel()
	}
	f.publish(f.a, "topic", "last")
	f.publishKept(f.a, "kept", "last", plenty)
	for _, topic := range []string{"topic", "kept"} {
		got := h.await(topic, 1)
		for n := 1; got[len(got)-1] != "last"; n++ {
			got = h.await(topic, n)
		}
		for _, payload := range got {
			if failed[topic+payload] {
				t.Errorf("Publish to %q returned ErrUnavailable, and %q was delivered", topic, payload)
			}
		}
	}
	for _, p := range f.history(f.b, "kept", 0).Kept {
		if failed["kept"+string(p.Payload)] {
			t.Errorf("Publish returned ErrUnavailable, and %q is kept", p.Payload)
		}
	}
	for i := range rounds {
		name := fmt.Sprint(i)
		if !failed["queue"+name] {
			continue
		}
		f.append(f.a, "queue"+name, "last")
		f.take(f.b, "queue"+name, "last")
	}
}

// callLimit is how long a call may take that ends by itself after five seconds.
const callLimit = 8 * time.Second

func testPublishLimit(t testing.TB, f *fixture) {
	full := f.attach(f.a, "topic")
	full.setFull(true)
	begun := time.Now()
	err := f.a.Publish(f.ctx, layer.Publication{Topic: "topic", Payload: []byte("x")})
	if took := time.Since(begun); took > callLimit {
		t.Errorf("Publish without room took %v, want five seconds at most", took)
	}
	if err != nil && !errors.Is(err, layer.ErrUnavailable) && !errors.Is(err, layer.ErrUncertain) {
		t.Errorf("Publish without room: %v, want ErrUnavailable, ErrUncertain or none", err)
	}
}
