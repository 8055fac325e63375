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
	{name: "KeptPublicationsAreNumberedInTheirOrder", run: testKeep},
	{name: "KeptAndOthersOfOneSenderKeepTheirOrder", run: testKeepOrder},
	{name: "HistoryBeginsAfterANumber", run: testHistoryAfter},
	{name: "HistoryKeepsAsManyAsItWasTold", run: testHistoryCount},
	{name: "HistoryIsBoundedInBytes", run: testHistoryBytes},
	{name: "HistoryTellsAges", run: testAges, slow: true},
	{name: "HistoryEndsWithItsLifeAndTheNumbersGoOn", run: testHistoryLife, slow: true},
	{name: "HistoryIsOneViewWhileOthersPublish", run: testHistoryView},
	{name: "HistoryBelongsToItsCaller", run: testHistorySlices},
	{name: "PublishTakesAKeyOnce", run: testOnce},
	{name: "AKeyIsRememberedForMinutes", run: testOnceLife, slow: true},
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

// testHistoryCount looks after each publication, since a layer may trim now and then only.
func testHistoryCount(t testing.TB, f *fixture) {
	for count, published := range map[int]int{1: 30, 10: 500, 100: 250} {
		topic := fmt.Sprint("topic", count)
		for i := range published {
			f.publishKept(f.a, topic, fmt.Sprint(i+1), layer.Keep{Count: count, Life: time.Minute})
			if i > 40 && i%10 != 9 {
				continue
			}
			h := f.history(f.b, topic, 0)
			if n := len(h.Kept); n < min(count, i+1) || n > count+200 || h.Last != uint64(i+1) {
				t.Fatalf("%d of %d publications are kept, last %d, want %d", n, i+1, h.Last, min(count, i+1))
			}
		}
	}
}

func testHistoryBytes(t testing.TB, f *fixture) {
	const size, most = 1000, 20_000
	keep := layer.Keep{Count: 1000, Bytes: most, Life: time.Minute}
	for i := range 100 {
		f.publishKept(f.a, "topic", strings.Repeat("x", size), keep)
		kept := len(f.history(f.b, "topic", 0).Kept)
		// A layer may store a little more than a payload, and count that, too.
		if least := min(i+1, most/2/size); kept > most/size || kept < least {
			t.Fatalf("%d payloads of %d bytes are kept of %d, want %d to %d", kept, size, i+1, least, most/size)
		}
	}
	f.publishKept(f.a, "topic", strings.Repeat("x", 2*most), keep)
	if h := f.history(f.b, "topic", 0); len(h.Kept) != 1 || len(h.Kept[0].Payload) != 2*most {
		t.Errorf("%d publications are kept after one that is larger than all may be together, want that one", len(h.Kept))
	}
	f.publishKept(f.a, "topic", "small", keep)
	h := f.history(f.b, "topic", 0)
	if len(h.Kept) != 1 || string(h.Kept[0].Payload) != "small" || h.Last != 102 {
		t.Errorf("%d publications are kept, last %d, want the small one, 102", len(h.Kept), h.Last)
	}
}

func testHistorySlices(t testing.TB, f *fixture) {
	for _, payload := range []string{"one", "two", "three"} {
		f.publishKept(f.a, "topic", payload, plenty)
	}
	h := f.history(f.a, "topic", 0)
	clear(h.Kept) // the slice is the caller's, and the payloads are not
	h = f.history(f.a, "topic", 0)
	if len(h.Kept) != 3 || string(h.Kept[0].Payload) != "one" {
		t.Errorf("a history that was changed by its caller has changed: %+v", h)
	}
}

func testHistoryLife(t testing.TB, f *fixture) {
	short := layer.Keep{Count: 10, Life: shortLife}
	f.attach(f.a, "topic")
	f.publishKept(f.a, "topic", "one", short)
	f.publishKept(f.a, "long", "long", plenty)
	first := f.history(f.a, "topic", 0)
	epoch := first.Epoch
	if !eventually(func() bool { return len(f.history(f.b, "topic", 0).Kept) == 0 }) {
		t.Fatalf("what was kept for %v is still there", shortLife)
	}
	if h := f.history(f.b, "topic", 0); h.Last != 1 || h.Nonce != first.Nonce {
		t.Errorf("once it is gone, the last position is %d with nonce %q, want 1 with %q", h.Last, h.Nonce, first.Nonce)
	}
	f.publishKept(f.b, "topic", "two", short)
	if h := f.history(f.a, "topic", 0); h.Epoch != epoch || h.Last != 2 || h.Nonce == "" || len(h.Kept) != 1 {
		t.Errorf("epoch %q, last %d, %d kept after the end of the first, want %q, 2, 1", h.Epoch, h.Last, len(h.Kept), epoch)
	}
	if h := f.history(f.a, "long", 0); len(h.Kept) != 1 {
		t.Errorf("what was to be kept for a minute is gone after %v", shortLife)
	}
}

func testAges(t testing.TB, f *fixture) {
	const apart, tolerance = time.Second, 500 * time.Millisecond
	hub := f.attach(f.b, "topic")
	begun := time.Now()
	f.publishKept(f.a, "topic", "one", plenty)
	time.Sleep(apart)
	f.publishKept(f.a, "topic", "two", plenty)
	hub.expect("topic", "one", "two")
	for i, p := range hub.publications("topic") {
		if most := time.Since(begun) - time.Duration(i)*apart + tolerance; p.Age < 0 || p.Age > most {
			t.Errorf("%s is delivered with an age of %v, at most %v after it was kept", p.Payload, p.Age, most)
		}
	}
	h := f.history(f.b, "topic", 0)
	first, second := h.Kept[0].Age, h.Kept[1].Age
	if first < apart-tolerance || first > time.Since(begun)+tolerance || second < 0 || second > first-apart+tolerance {
		t.Errorf("ages of %v and %v for what was published %v apart, within %v", first, second, apart, time.Since(begun))
	}
}

func testHistoryView(t testing.TB, f *fixture) {
	const publishers, each = 4, 50 // of which a server may send all again and again
	var publishing, reading sync.WaitGroup
	published := make(chan struct{})
	for range publishers {
		publishing.Go(func() {
			for range each {
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
	if h := f.history(f.b, "topic", 0); len(h.Kept) != publishers*each {
		t.Errorf("%d publications are kept, want %d", len(h.Kept), publishers*each)
	}
}

// once returns a Keep with a key.
func once(key string) layer.Keep {
	keep := plenty
	keep.Once = key
	return keep
}

func testOnce(t testing.TB, f *fixture) {
	h := f.attach(f.a, "topic", "other")
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

// testOnceLife cannot wait for all of layer.OnceLife, but for longer than a layer that
// remembers keys only while it publishes them.
func testOnceLife(t testing.TB, f *fixture) {
	f.publishKept(f.a, "topic", "x", once("key"))
	time.Sleep(2500 * time.Millisecond)
	f.publishKept(f.b, "topic", "x", once("key"))
	if h := f.history(f.a, "topic", 0); h.Last != 1 {
		t.Errorf("a key was forgotten after a few seconds, want %v", layer.OnceLife)
	}
}
