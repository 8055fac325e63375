package redis

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"

	"github.com/seed-29c60982/grouphub/internal/redistest"
	"github.com/seed-29c60982/grouphub/layer"
)

func FuzzPositionTakesAnything(f *testing.F) {
	f.Add("")
	f.Add("epoch 1 nonce 1700000000000 payload")
	f.Add("epoch 18446744073709551616 nonce 1700000000000 payload")
	f.Add("epoch 0 nonce 1700000000000 payload")
	f.Add("épo.ch -1 nonce 1700000000000 payload")
	f.Add("epoch 1 nonce 9999999999999999 payload")
	f.Add("epoch 1 nonce -1 payload")
	f.Add("epoch 1 nonce 1700000000000")
	f.Add(strings.Repeat("x", 65) + " 1 n 1 p")
	f.Fuzz(func(t *testing.T, message string) {
		at, kept, left, ok := cutPosition([]byte(message))
		rest := string(left)
		if !ok {
			if at != (layer.Position{}) || kept != 0 || rest != "" {
				t.Errorf("%q is refused, and %+v %q", message, at, rest)
			}
			return
		}
		if kept < 0 || at.Number == 0 || at.Number >= 1<<63 || !isWord(at.Epoch) || !isWord(at.Nonce) {
			t.Errorf("%q is taken for %+v", message, at)
		}
		if !strings.HasSuffix(message, " "+rest) {
			t.Errorf("%q has the rest %q", message, rest)
		}
		again, keptAgain, left, ok := cutPosition(fmt.Appendf(nil, "%s %d %s %d %s", at.Epoch, at.Number, at.Nonce, kept.Milliseconds(), rest))
		if !ok || again != at || keptAgain != kept || string(left) != rest {
			t.Errorf("%+v %v %q became %+v %v %q", at, kept, rest, again, keptAgain, left)
		}
	})
}

func TestNumbersStayExactWhereLuaWouldRoundThem(t *testing.T) {
	m := miniredis.RunT(t)
	l := newTestLayer(t, "redis://"+m.Addr(), Options{})
	const begin = 1_000_000_000_000_000 // ten times what Lua prints exactly
	m.Set(l.key("count", "topic"), fmt.Sprint("epoch ", begin))
	for range 3 {
		keep(t, l, "topic", "x")
	}
	h := history(t, l, "topic", begin+1)
	if h.Last != begin+3 || len(h.Kept) != 2 || h.Kept[0].At.Number != begin+2 || h.Epoch != "epoch" {
		t.Errorf("%+v", h)
	}
}

func TestHistoryLeavesOutWhatCannotBeOpened(t *testing.T) {
	m := miniredis.RunT(t)
	ours, theirs := newTestLayer(t, "redis://"+m.Addr(), Options{EncryptionKeys: []string{"ours"}}), newTestLayer(t, "redis://"+m.Addr(), Options{EncryptionKeys: []string{"theirs"}})
	keep(t, ours, "topic", "one")
	keep(t, theirs, "topic", "two")
	keep(t, ours, "topic", "three")
	stream := ours.key("stream", "topic")
	for i, message := range []string{"", "garbage", "\x03", "\x03epoch 5 nonce 1700000000000 garbage", "\x03 5  "} {
		if _, err := m.XAdd(stream, fmt.Sprint(4+i, "-0"), []string{"m", message}); err != nil {
			t.Fatal(err)
		}
	}
	m.XAdd(stream, "9-0", []string{"m", "x", "more", "fields"})
	m.Set(ours.key("count", "topic"), history(t, ours, "topic", 0).Epoch+" 9")
	h := history(t, ours, "topic", 0)
	if len(h.Kept) != 2 || string(h.Kept[0].Payload) != "one" || string(h.Kept[1].Payload) != "three" || h.Kept[1].At.Number != 3 {
		t.Errorf("%+v", h)
	}
	if n := ours.Discarded(); n == 0 {
		t.Error("nothing is counted as discarded")
	}
}

func TestEpochBeginsAnewWithoutItsCount(t *testing.T) {
	m := miniredis.RunT(t)
	l := newTestLayer(t, "redis://"+m.Addr(), Options{})
	keep(t, l, "topic", "one")
	keep(t, l, "topic", "two")
	before := history(t, l, "topic", 0)
	for _, count := range []string{"", "garbage", "e 1 x", "épo 1"} {
		if m.Del(l.key("count", "topic")); count != "" {
			m.Set(l.key("count", "topic"), count)
		}
		if h := history(t, l, "topic", 0); h.Epoch == before.Epoch || h.Last != 0 || len(h.Kept) != 0 {
			t.Errorf("with the count %q: %+v", count, h)
		}
		keep(t, l, "topic", "three")
		h := history(t, l, "topic", 0)
		if h.Epoch == before.Epoch || h.Last != 1 || len(h.Kept) != 1 || string(h.Kept[0].Payload) != "three" {
			t.Errorf("after the count %q: %+v", count, h)
		}
		before = h
	}
}

func TestHistoryAndLeasesLeaveNothingBehind(t *testing.T) {
	m := miniredis.RunT(t)
	l := newTestLayer(t, "redis://"+m.Addr(), Options{})
	check := func(when string, want int) {
		t.Helper()
		if keys := m.Keys(); len(keys) != want {
			t.Errorf("%s: keys %q, want %d", when, keys, want)
		}
		for _, key := range m.Keys() {
			if m.TTL(key) <= 0 {
				t.Errorf("%s: %s does not expire", when, key)
			}
		}
	}
	p := layer.Publication{Topic: "topic", Keep: layer.Keep{Count: 10, Life: time.Minute, Once: "once"}}
	if err := l.Publish(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Lease(t.Context(), "topic", "holder", leaseOf(1, "value")); err != nil {
		t.Fatal(err)
	}
	check("all is there", 5)
	m.FastForward(time.Minute)
	check("the stream and the lease have ended", 2)
	m.FastForward(onceLife)
	check("the key may be used again", 1)
	m.FastForward(countLife / 2)
	history(t, l, "topic", 0) // somebody listens
	m.FastForward(countLife - time.Minute)
	check("the count is renewed", 1)
	m.FastForward(time.Minute)
	check("nobody came", 0)
	if h := history(t, l, "topic", 0); h.Last != 0 {
		t.Errorf("%+v", h)
	}
	m.FastForward(unusedLife / 2)
	history(t, l, "topic", 0) // somebody listens
	m.FastForward(unusedLife - time.Minute)
	check("somebody listened", 1)
	m.FastForward(time.Minute)
	check("nobody came", 0)
}

func TestCountsOfOlderVersionsAreReadAndGoOn(t *testing.T) {
	for _, count := range []string{"epoch 7", "epoch 7 1000"} {
		m := miniredis.RunT(t)
		l := newTestLayer(t, "redis://"+m.Addr(), Options{})
		m.Set(l.key("count", "topic"), count)
		if h := history(t, l, "topic", 0); h.Epoch != "epoch" || h.Last != 7 || h.Nonce != "" || h.Start != "" {
			t.Errorf("with the count %q: %+v", count, h)
		}
		keep(t, l, "topic", "eight")
		if h := history(t, l, "topic", 0); h.Epoch != "epoch" || h.Last != 8 || len(h.Kept) != 1 || h.Nonce != h.Kept[0].At.Nonce {
			t.Errorf("after the count %q: %+v", count, h)
		}
	}
}

func TestKeysOfATopicShareASlot(t *testing.T) {
	m := miniredis.RunT(t)
	l := newTestLayer(t, "redis://"+m.Addr(), Options{})
	for _, topic := range []string{"a", "}", "{x}", "a{b}c"} {
		want := l.slot(l.key("topic", topic))
		keys := append(l.historyKeys(topic), l.leaseIndex(topic), l.leaseKey(topic, "holder"), l.leaseKey(topic, "{}"))
		for _, key := range append(keys, l.onceKey(topic, "{key}"), l.onceKey(topic, "}")) {
			if got := l.slot(key); got != want {
				t.Errorf("%q: slot %d, that of the channel is %d", key, got, want)
			}
		}
	}
}

func TestKeepsNoMoreBytesThanItMay(t *testing.T) {
	redistest.OnBoth(t, func(t *testing.T, url string) {
		for name, keys := range map[string][]string{"plain": nil, "sealed": {"key"}} {
			l := newTestLayer(t, url, Options{Prefix: name, EncryptionKeys: keys})
			keep := layer.Keep{Count: 1000, Bytes: 100_000, Life: time.Minute}
			most := 0
			for i := range 200 {
				payload := fmt.Sprintf("%04d", i) + strings.Repeat("x", 37*i%5000)
				if err := l.Publish(t.Context(), kept("topic", payload, keep)); err != nil {
					t.Fatal(err)
				}
				if i%7 != 0 && i != 199 {
					continue
				}
				h, err := l.History(t.Context(), "topic", 0)
				if err != nil {
					t.Fatal(err)
				}
				if h.Last != uint64(i)+1 || string(h.Kept[len(h.Kept)-1].Payload) != payload {
					t.Fatalf("the last of %d is not kept: %d", i+1, h.Last)
				}
				bytes := 0
				for j, p := range h.Kept {
					bytes += len(p.Payload)
					if want := h.Last - uint64(len(h.Kept)-1-j); p.At.Number != want {
						t.Fatalf("number %d, want %d", p.At.Number, want)
					}
				}
				if most = max(most, bytes); bytes > keep.Bytes {
					t.Errorf("%d bytes of %d are kept", bytes, len(h.Kept))
				}
				if len(h.Kept) <= i && bytes < keep.Bytes/2 {
					t.Errorf("only %d bytes of %d are kept", bytes, len(h.Kept))
				}
			}
			if most < keep.Bytes*9/10 {
				t.Errorf("%d bytes are kept at most", most)
			}
			// What is larger than all that may be kept is there until the next.
			for _, payload := range []string{strings.Repeat("x", 2*keep.Bytes), "small"} {
				if err := l.Publish(t.Context(), kept("topic", payload, keep)); err != nil {
					t.Fatal(err)
				}
				if got := payloadsOf(t, l, "topic"); len(got) != 1 || got[0] != payload {
					t.Errorf("kept %.100q, want the last alone", got)
				}
			}
		}
	})
}

func TestKeepsTheCountOfWhatIsSmall(t *testing.T) {
	redistest.OnBoth(t, func(t *testing.T, url string) {
		l := newTestLayer(t, url, Options{})
		keep := layer.Keep{Count: 10, Bytes: 5000, Life: time.Minute}
		for i := range 1000 { // many times more than what is kept in bytes, but not at once
			if err := l.Publish(t.Context(), kept("topic", fmt.Sprintf("%020d", i), keep)); err != nil {
				t.Fatal(err)
			}
			if i%50 == 49 {
				if got := payloadsOf(t, l, "topic"); len(got) < keep.Count {
					t.Fatalf("%d are kept of %d", len(got), i+1)
				}
			}
		}
	})
}

func TestServerThatRefusesToPublishKeepsNothing(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	listener := attachHub(t, newTestLayer(t, s.URL(), Options{}), "topic")
	s.CLI("ACL", "SETUSER", "user", "on", ">pass", "~*", "+@all", "-publish", "&*")
	l := newTestLayer(t, "redis://user:pass@"+s.Address(), Options{})
	keep := layer.Keep{Count: 5, Life: time.Minute, Once: "key"}
	for range 2 { // on the first there is no count yet
		if err := l.Publish(t.Context(), kept("topic", "refused", keep)); !errors.Is(err, layer.ErrUnavailable) {
			t.Errorf("%v, want ErrUnavailable", err)
		}
		if got := payloadsOf(t, l, "topic"); len(got) > 0 {
			t.Errorf("kept %q", got)
		}
	}
	s.CLI("ACL", "SETUSER", "user", "+publish")
	for range 2 {
		if err := l.Publish(t.Context(), kept("topic", "at last", keep)); err != nil {
			t.Fatal(err)
		}
	}
	s.CLI("ACL", "SETUSER", "user", "-publish")
	if l.Publish(t.Context(), kept("topic", "refused", layer.Keep{Count: 5, Life: time.Minute})) == nil {
		t.Error("was not refused")
	}
	s.CLI("ACL", "SETUSER", "user", "+publish")
	if err := l.Publish(t.Context(), kept("topic", "next", layer.Keep{Count: 5, Life: time.Minute})); err != nil {
		t.Fatal(err)
	}
	listener.untilReceived("next")
	want := []string{"at last", "next"}
	if got, _ := listener.state(); !slices.Equal(got, want) {
		t.Errorf("received %q, want %q", got, want)
	}
	h, err := l.History(t.Context(), "topic", 0)
	if got := payloadsOf(t, l, "topic"); !slices.Equal(got, want) || err != nil || h.Last != 2 || h.Kept[1].At.Number != 2 {
		t.Errorf("kept %q, last %d, %v, want %q", got, h.Last, err, want)
	}
}

func TestServerThatRefusesToWriteCanBeRead(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	l := newTestLayer(t, s.URL(), Options{})
	if err := l.Publish(t.Context(), kept("topic", "x", layer.Keep{Count: 5, Life: time.Minute})); err != nil {
		t.Fatal(err)
	}
	lease := func(holder string, life time.Duration) {
		change := leaseOf(1, "x")
		change.Life = life
		if _, err := l.Lease(t.Context(), "topic", holder, change); err != nil {
			t.Fatal(err)
		}
	}
	lease("stays", time.Hour)
	lease("ends", 50*time.Millisecond)
	s.CLI("PEXPIRE", "grouphub:count:{topic}", "60000") // it is to be prolonged
	s.CLI("CONFIG", "SET", "min-replicas-to-write", "1")
	if _, err := l.Lease(t.Context(), "topic", "new", leaseOf(1, "x")); !errors.Is(err, layer.ErrUnavailable) {
		t.Errorf("%v, want a refusal", err)
	}
	await(t, "the lease to end", func() bool {
		leases, err := l.Leases(t.Context(), "topic", nil)
		if err != nil {
			t.Fatal(err)
		}
		return len(leases) == 1 && string(leases["stays"].Fields["field"]) == "x"
	})
	if got := payloadsOf(t, l, "topic"); !slices.Equal(got, []string{"x"}) {
		t.Errorf("kept %q", got)
	}
}

// Others may write to Redis, too: whatever they leave in a key of the layer is no
// hindrance to what comes after it.

func TestGarbageForACountIsNoHindrance(t *testing.T) {
	for _, count := range []string{"", " ", "garbage", "epoch", "epoch ", "epoch x", "epoch -1", "epoch 1.5", "epoch 1e3", "epoch 0x10",
		"epoch 1 x", "epoch 1 2 3", "epoch 1 2 3 4 5", "epoch 1 2 é ", "epoch 99999999999999999999", " 1", "ep och 1", "\x00\xff 1", "epoch 1\n"} {
		t.Run(fmt.Sprintf("%q", count), func(t *testing.T) {
			m := miniredis.RunT(t)
			l := newTestLayer(t, "redis://"+m.Addr(), Options{})
			keep(t, l, "topic", "before")
			m.Set(l.key("count", "topic"), count)
			if h := history(t, l, "topic", 0); h.Last != 0 || len(h.Kept) != 0 {
				t.Errorf("a history of %+v", h)
			}
			keep(t, l, "topic", "after")
			if h := history(t, l, "topic", 0); h.Last != 1 || len(h.Kept) != 1 || string(h.Kept[0].Payload) != "after" {
				t.Errorf("after the next publication: %+v", h)
			}
		})
	}
}

func TestGarbageInAStreamIsNoHindrance(t *testing.T) {
	for _, entry := range [][]string{{"m", "garbage"}, {"m", ""}, {"m", "\x03"}, {"m", "\x03epoch 2 nonce \x01no time"}, {"m", "\x03epoch 2 nonce 1700000000000 \x01other epoch"}, {"x", "y", "more", "fields"}, {"m", "garbage", "t", "x"}, {"m", "\x03", "t", "1", "x", "y"}} {
		t.Run(fmt.Sprintf("%q", entry), func(t *testing.T) {
			m := miniredis.RunT(t)
			l := newTestLayer(t, "redis://"+m.Addr(), Options{})
			keep(t, l, "topic", "one")
			if _, err := m.XAdd(l.key("stream", "topic"), "1-1", entry); err != nil {
				t.Fatal(err)
			}
			keep(t, l, "topic", "two")
			h := history(t, l, "topic", 0)
			if h.Last != 2 || len(h.Kept) != 2 || string(h.Kept[0].Payload) != "one" || string(h.Kept[1].Payload) != "two" {
				t.Errorf("%+v", h)
			}
		})
	}
}

func TestStreamThatIsAheadOfTheCountBeginsAnew(t *testing.T) {
	m := miniredis.RunT(t)
	l := newTestLayer(t, "redis://"+m.Addr(), Options{})
	keep(t, l, "topic", "one")
	if _, err := m.XAdd(l.key("stream", "topic"), "1000-0", []string{"m", "garbage"}); err != nil {
		t.Fatal(err)
	}
	keep(t, l, "topic", "two")
	keep(t, l, "topic", "three")
	h := history(t, l, "topic", 0)
	if h.Last != 3 || len(h.Kept) != 2 || string(h.Kept[0].Payload) != "two" || string(h.Kept[1].Payload) != "three" {
		t.Errorf("%+v", h)
	}
}

func TestAgesAreThoseOfTheServersClock(t *testing.T) {
	m := miniredis.RunT(t)
	l := newTestLayer(t, "redis://"+m.Addr(), Options{})
	begun := time.UnixMilli(1_700_000_000_123)
	m.SetTime(begun)
	keep(t, l, "topic", "one")
	m.SetTime(begun.Add(1500 * time.Millisecond))
	keep(t, l, "topic", "two")
	m.SetTime(begun.Add(2 * time.Second))
	if h := history(t, l, "topic", 0); len(h.Kept) != 2 || h.Kept[0].Age != 2*time.Second || h.Kept[1].Age != 500*time.Millisecond {
		t.Errorf("%+v", h)
	}
	m.SetTime(begun) // the clock was put back
	if h := history(t, l, "topic", 0); len(h.Kept) != 2 || h.Kept[1].Age != 0 {
		t.Errorf("%+v", h)
	}
}
