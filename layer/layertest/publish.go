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
	{"PublishReachesEverySubscriber", testPublishReachesEverySubscriber},
	{"PublishWithoutSubscribersIsNoError", testPublishWithoutSubscribers},
	{"OneSendersOrderHolds", testOrder},
	{"SubscribersOfOneLayerSeeOneOrder", testOneOrder},
	{"PayloadsAreOpaqueAndTheSlicesBelongToTheirOwners", testPayloads},
	{"NamesAreOpaque", testNames},
	{"PublishThatFailedReachesNobody", testPublishFailed},
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
				payload[i] = 'x' // the sender's again: no receiver may see it
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
			f.lease(f.b, name, holder, []byte(name+holder), time.Minute, true)
		}
	}
	for _, name := range oddNames {
		h.expect(name, name, name)
		f.take(f.a, name, name)
		if h := f.history(f.a, name, 0); len(h.Kept) != 1 || string(h.Kept[0].Payload) != name {
			t.Errorf("history of %q: %+v", name, h.Kept)
		}
		leases := make(map[string]string)
		for _, holder := range oddNames {
			leases[holder] = name + holder
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
