package layertest

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/seed-29c60982/grouphub/layer"
)

var historyCases = []testCase{
	{"KeptPublicationsAreNumberedInTheirOrder", testKeep},
	{"KeptAndOthersOfOneSenderKeepTheirOrder", testKeepOrder},
	{"HistoryBeginsAfterANumber", testHistoryAfter},
	{"AnEpochBeginsBeforeTheFirstPublication", testHistoryStart},
	{"NoncesTellPositionsApart", testNonces},
	{"HistoryKeepsAsManyAsItWasTold", testHistoryCount},
	{"HistoryEndsWithItsLifeAndTheNumbersGoOn", testHistoryLife},
	{"HistoryIsOneViewWhileOthersPublish", testHistoryView},
	{"PublishTakesAKeyOnce", testOnce},
}

func testKeep(t testing.TB, f *fixture) {
	const publishers, each = 6, 50
	hubs := []*receiver{f.attach(f.a, "topic"), f.attach(f.a, "topic"), f.attach(f.b, "topic")}
	var wg sync.WaitGroup
	for i := range publishers {
		l := f.a
		if i%2 == 1 {
			l = f.b
		}
		wg.Go(func() {
			for j := range each {
				err := l.Publish(f.ctx, layer.Publication{Topic: "topic", Payload: fmt.Append(nil, i, ":", j), Keep: plenty})
				if err != nil {
					t.Errorf("Publish: %v", err)
				}
			}
		})
	}
	wg.Wait()
	kept := f.history(f.b, "topic", 0)
	if kept.Last != publishers*each || len(kept.Kept) != publishers*each || kept.Epoch == "" {
		t.Fatalf("%d publications are kept, epoch %q, last %d, want %d", len(kept.Kept), kept.Epoch, kept.Last, publishers*each)
	}
	for _, h := range hubs {
		h.await("topic", publishers*each)
		for i, p := range h.publications("topic") {
			if want := kept.Kept[i]; p.At != want.At || !bytes.Equal(p.Payload, want.Payload) {
				t.Errorf("%s received %q at %+v, History says %q at %+v", h.name, p.Payload, p.At, want.Payload, want.At)
			}
		}
	}
}

func testKeepOrder(t testing.TB, f *fixture) {
	hubs := []*receiver{f.attach(f.a, "topic"), f.attach(f.b, "topic")}
	var want []string
	for i := range 200 {
		keep := plenty
		if i%2 == 1 {
			keep = layer.Keep{}
		}
		want = append(want, fmt.Sprint(i))
		f.publishKept(f.a, "topic", want[i], keep)
	}
	for _, h := range hubs {
		h.expect("topic", want...)
		for i, p := range h.publications("topic") {
			if kept := p.At != (layer.Position{}); kept != (i%2 == 0) {
				t.Errorf("%s received %q at %+v", h.name, p.Payload, p.At)
			}
		}
	}
	if h := f.history(f.b, "topic", 0); h.Last != 100 || len(h.Kept) != 100 {
		t.Errorf("%d are kept, last %d, want 100", len(h.Kept), h.Last)
	}
}

func testHistoryAfter(t testing.TB, f *fixture) {
	for _, after := range []uint64{0, 1, 1 << 62} {
		if h := f.history(f.a, "nothing", after); h.Last != 0 || len(h.Kept) != 0 {
			t.Errorf("History of a topic that nothing was published to: %+v", h)
		}
	}
	for i := range 20 {
		f.publishKept(f.a, "topic", fmt.Sprint(i+1), plenty) // without a subscriber
		f.publishKept(f.b, "other", "x", plenty)
	}
	for _, after := range []uint64{0, 1, 19, 20, 21, 1 << 62} {
		h := f.history(f.b, "topic", after)
		if want := 20 - int(min(after, 20)); h.Last != 20 || len(h.Kept) != want {
			t.Errorf("History after %d: %d publications, last %d, want %d and 20", after, len(h.Kept), h.Last, want)
		}
		for _, p := range h.Kept {
			if string(p.Payload) != fmt.Sprint(p.At.Number) {
				t.Errorf("%q has number %d", p.Payload, p.At.Number)
			}
		}
	}
}

func testHistoryStart(t testing.TB, f *fixture) {
	before := f.history(f.a, "topic", 0)
	if !isWord(before.Epoch) || !isWord(before.Start) || before.Nonce != before.Start {
		t.Errorf("History of a topic that nothing was published to: %+v, want epoch and nonces of letters and digits", before)
	}
	if again := f.history(f.b, "topic", 0); again.Epoch != before.Epoch || again.Start != before.Start {
		t.Errorf("History is %+v, then %+v", before, again)
	}
	if other := f.history(f.b, "other", 0); other.Epoch == before.Epoch || other.Start == before.Start {
		t.Errorf("History of another topic is %+v as well", other)
	}
	f.publishKept(f.b, "topic", "one", plenty)
	if h := f.history(f.a, "topic", 0); h.Epoch != before.Epoch || h.Start != before.Start || h.Last != 1 || len(h.Kept) != 1 {
		t.Errorf("History is %+v, and after the first publication %+v", before, h)
	}
}

func testNonces(t testing.TB, f *fixture) {
	nonces := map[string]bool{f.history(f.a, "topic", 0).Start: true}
	for i := range 20 {
		f.publishKept(f.a, "topic", fmt.Sprint(i), layer.Keep{Count: 10, Life: time.Minute})
		h := f.history(f.b, "topic", uint64(i))
		if len(h.Kept) != 1 {
			t.Fatalf("History after %d: %d publications, want 1", i, len(h.Kept))
		}
		at := h.Kept[0].At
		if !isWord(at.Nonce) || nonces[at.Nonce] || h.Nonce != at.Nonce {
			t.Errorf("number %d has nonce %q, and the last one %q; it has to be of letters and digits, and its own",
				at.Number, at.Nonce, h.Nonce)
		}
		nonces[at.Nonce] = true
	}
	if h := f.history(f.b, "topic", 20); len(h.Kept) != 0 || !nonces[h.Nonce] {
		t.Errorf("History after the last number: %+v, want its nonce", h)
	}
}

// isWord reports whether s can be part of an id.
func isWord(s string) bool {
	return 0 < len(s) && len(s) <= 64 && strings.Trim(s, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz") == ""
}

func testHistoryCount(t testing.TB, f *fixture) {
	const count, published = 10, 500
	for i := range published {
		f.publishKept(f.a, "topic", fmt.Sprint(i+1), layer.Keep{Count: count, Life: time.Minute})
	}
	h := f.history(f.b, "topic", 0)
	if n := len(h.Kept); n < count || n > published/2 || h.Last != published {
		t.Errorf("%d of %d publications are kept, last %d, want %d", n, published, h.Last, count)
	}
}

func testHistoryLife(t testing.TB, f *fixture) {
	short := layer.Keep{Count: 10, Life: time.Second}
	f.attach(f.a, "topic")
	f.publishKept(f.a, "topic", "one", short)
	f.publishKept(f.a, "long", "long", plenty)
	first := f.history(f.a, "topic", 0)
	epoch := first.Epoch
	if !eventually(func() bool { return len(f.history(f.b, "topic", 0).Kept) == 0 }) {
		t.Fatal("what was kept for a second is still there")
	}
	if h := f.history(f.b, "topic", 0); h.Last != 1 || h.Nonce != first.Nonce {
		t.Errorf("once it is gone, the last position is %d with nonce %q, want 1 with %q", h.Last, h.Nonce, first.Nonce)
	}
	f.publishKept(f.b, "topic", "two", short)
	if h := f.history(f.a, "topic", 0); h.Epoch != epoch || h.Last != 2 || h.Nonce == "" || len(h.Kept) != 1 {
		t.Errorf("epoch %q, last %d, %d kept after the end of the first, want %q, 2, 1", h.Epoch, h.Last, len(h.Kept), epoch)
	}
	if h := f.history(f.a, "long", 0); len(h.Kept) != 1 {
		t.Error("what was to be kept for a minute is gone after a second")
	}
}

func testHistoryView(t testing.TB, f *fixture) {
	var publishing, reading sync.WaitGroup
	published := make(chan struct{})
	for range 4 {
		publishing.Go(func() {
			for range 100 {
				err := f.a.Publish(f.ctx, layer.Publication{Topic: "topic", Payload: []byte("x"), Keep: plenty})
				if err != nil {
					t.Errorf("Publish: %v", err)
				}
			}
		})
	}
	for i := range 4 {
		reading.Go(func() {
			for after := uint64(0); ; after += uint64(i) { // some read all of it, some what is new
				h, err := f.b.History(f.ctx, "topic", after)
				if err != nil || len(h.Kept) != int(h.Last-min(after, h.Last)) {
					t.Errorf("History after %d: %d publications, last %d, %v", after, len(h.Kept), h.Last, err)
				}
				select {
				case <-published:
					return
				default:
				}
			}
		})
	}
	publishing.Wait()
	close(published)
	reading.Wait()
	if h := f.history(f.b, "topic", 0); len(h.Kept) != 400 {
		t.Errorf("%d publications are kept, want 400", len(h.Kept))
	}
}

func testOnce(t testing.TB, f *fixture) {
	h := f.attach(f.a, "topic", "other")
	once := func(key string) layer.Keep {
		keep := plenty
		keep.Once = key
		return keep
	}
	var wg sync.WaitGroup
	for _, l := range []layer.Layer{f.a, f.b, f.a, f.b} {
		wg.Go(func() {
			for range 10 {
				if err := l.Publish(f.ctx, layer.Publication{Topic: "topic", Payload: []byte("x"), Keep: once("key")}); err != nil {
					t.Errorf("Publish: %v", err)
				}
			}
		})
	}
	wg.Wait()
	want := []string{"x"}
	for _, key := range append(oddNames, strings.Repeat("long", 1000)) {
		f.publishKept(f.b, "topic", key, once(key))
		f.publishKept(f.a, "topic", key, once(key))
		want = append(want, key)
	}
	f.publishKept(f.b, "other", "of another topic", once("key"))
	f.publishKept(f.b, "topic", "no key", plenty)
	f.publishKept(f.b, "topic", "no key", plenty)
	h.expect("topic", append(want, "no key", "no key")...)
	h.expect("other", "of another topic")
	if got := f.history(f.b, "topic", 0); len(got.Kept) != len(want)+2 {
		t.Errorf("%d publications are kept, want %d", len(got.Kept), len(want)+2)
	}
}
