package redis

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/seed-29c60982/grouphub/layer"
)

func newTestLayer(t *testing.T, m *miniredis.Miniredis, opts Options) *Layer {
	t.Helper()
	l, err := New("redis://"+m.Addr(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func keep(t *testing.T, l *Layer, topic, payload string) {
	t.Helper()
	p := layer.Publication{Topic: topic, Payload: []byte(payload), Keep: layer.Keep{Count: 100, Life: time.Minute}}
	if err := l.Publish(t.Context(), p); err != nil {
		t.Fatal(err)
	}
}

func history(t *testing.T, l *Layer, topic string, after uint64) layer.History {
	t.Helper()
	h, err := l.History(t.Context(), topic, after)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func FuzzPositionTakesAnything(f *testing.F) {
	f.Add("")
	f.Add("epoch 1 nonce payload")
	f.Add("epoch 18446744073709551616 nonce payload")
	f.Add("epoch 0 nonce payload")
	f.Add("épo.ch -1 nonce payload")
	f.Add("epoch 1 nonce")
	f.Add(strings.Repeat("x", 65) + " 1 n p")
	f.Fuzz(func(t *testing.T, message string) {
		at, rest, ok := cutPosition(message)
		if !ok {
			if at != (layer.Position{}) || rest != "" {
				t.Errorf("%q is refused, and %+v %q", message, at, rest)
			}
			return
		}
		if at.Number == 0 || at.Number >= 1<<63 || !isWord(at.Epoch) || !isWord(at.Nonce) {
			t.Errorf("%q is taken for %+v", message, at)
		}
		if !strings.HasSuffix(message, " "+rest) {
			t.Errorf("%q has the rest %q", message, rest)
		}
		again, rest2, ok := cutPosition(at.Epoch + " " + strconv.FormatUint(at.Number, 10) + " " + at.Nonce + " " + rest)
		if !ok || again != at || rest2 != rest {
			t.Errorf("%+v %q became %+v %q", at, rest, again, rest2)
		}
	})
}

func TestNumbersStayExactWhereLuaWouldRoundThem(t *testing.T) {
	m := miniredis.RunT(t)
	l := newTestLayer(t, m, Options{})
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
	ours, theirs := newTestLayer(t, m, Options{EncryptionKeys: []string{"ours"}}), newTestLayer(t, m, Options{EncryptionKeys: []string{"theirs"}})
	keep(t, ours, "topic", "one")
	keep(t, theirs, "topic", "two")
	keep(t, ours, "topic", "three")
	stream := ours.key("stream", "topic")
	for i, message := range []string{"", "garbage", "\x03", "\x03epoch 5 nonce garbage", "\x03 5  "} {
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
	l := newTestLayer(t, m, Options{})
	keep(t, l, "topic", "one")
	keep(t, l, "topic", "two")
	before := history(t, l, "topic", 0)
	for _, count := range []string{"", "garbage", "e 1 x", "épo 1"} {
		if m.Del(l.key("count", "topic")); count != "" {
			m.Set(l.key("count", "topic"), count)
		}
		if h := history(t, l, "topic", 0); h.Epoch != "" || h.Last != 0 || len(h.Kept) != 0 {
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
	l := newTestLayer(t, m, Options{})
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
	if _, err := l.Lease(t.Context(), "topic", "holder", []byte("value"), time.Minute); err != nil {
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
	if h := history(t, l, "topic", 0); h.Epoch != "" {
		t.Errorf("%+v", h)
	}
	check("somebody looked", 0)
}

func TestLeaseThatIsNotProlongedEndsAmongOthers(t *testing.T) {
	m := miniredis.RunT(t)
	now := time.Now()
	m.SetTime(now)
	l := newTestLayer(t, m, Options{})
	for _, holder := range []string{"crashed", "lives"} {
		if _, err := l.Lease(t.Context(), "topic", holder, []byte(holder), time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	for range 5 {
		now = now.Add(20 * time.Second)
		m.SetTime(now)
		m.FastForward(20 * time.Second)
		if ok, err := l.Lease(t.Context(), "topic", "lives", nil, time.Minute); err != nil || !ok {
			t.Fatalf("%v, %v", ok, err)
		}
	}
	if left, _ := m.HKeys(l.leaseKeys("topic")[0]); len(left) != 1 { // without anybody looking
		t.Errorf("values of %q are left", left)
	}
	if leases, err := l.Leases(t.Context(), "topic"); err != nil || len(leases) != 1 || string(leases["lives"]) != "lives" {
		t.Errorf("%q, %v", leases, err)
	}
	// What one holder keeps cannot be moved to another.
	sealed := newTestLayer(t, m, Options{EncryptionKeys: []string{"key"}, Prefix: "sealed"})
	if _, err := sealed.Lease(t.Context(), "topic", "one", []byte("one"), time.Minute); err != nil {
		t.Fatal(err)
	}
	values := sealed.leaseKeys("topic")[0]
	m.HSet(values, "two", m.HGet(values, "one"))
	if leases, err := sealed.Leases(t.Context(), "topic"); err != nil || len(leases) != 1 || sealed.Discarded() != 1 {
		t.Errorf("%q, %v", leases, err)
	}
}

func TestKeysOfATopicShareASlot(t *testing.T) {
	m := miniredis.RunT(t)
	l := newTestLayer(t, m, Options{})
	for _, topic := range []string{"a", "}", "{x}", "a{b}c"} {
		want := l.slot(l.key("topic", topic))
		keys := append(l.historyKeys(topic), l.leaseKeys(topic)...)
		for _, key := range append(keys, l.onceKey(topic, "{key}"), l.onceKey(topic, "}")) {
			if got := l.slot(key); got != want {
				t.Errorf("%q: slot %d, that of the channel is %d", key, got, want)
			}
		}
	}
}
