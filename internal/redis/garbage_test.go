package redis

import (
	"fmt"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
)

// Others may write to Redis, too: whatever they leave in a key of the layer is no
// hindrance to what comes after it.

func TestGarbageForACountIsNoHindrance(t *testing.T) {
	for _, count := range []string{"", " ", "garbage", "epoch", "epoch ", "epoch x", "epoch -1", "epoch 1.5", "epoch 1e3", "epoch 0x10",
		"epoch 1 x", "epoch 1 2 3", "epoch 99999999999999999999", " 1", "ep och 1", "\x00\xff 1", "epoch 1\n"} {
		t.Run(fmt.Sprintf("%q", count), func(t *testing.T) {
			m := miniredis.RunT(t)
			l := newTestLayer(t, m, Options{})
			keep(t, l, "topic", "before")
			m.Set(l.key("count", "topic"), count)
			if h := history(t, l, "topic", 0); h.Epoch != "" || h.Last != 0 || len(h.Kept) != 0 {
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
	for _, entry := range [][]string{{"m", "garbage"}, {"m", ""}, {"m", "\x03"}, {"m", "\x03epoch 2 nonce \x01other epoch"}, {"x", "y", "more", "fields"}} {
		t.Run(fmt.Sprintf("%q", entry), func(t *testing.T) {
			m := miniredis.RunT(t)
			l := newTestLayer(t, m, Options{})
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
	l := newTestLayer(t, m, Options{})
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

func TestGarbageAmongLeasesIsNoHindrance(t *testing.T) {
	m := miniredis.RunT(t)
	l := newTestLayer(t, m, Options{})
	if _, err := l.Lease(t.Context(), "topic", "one", []byte("one"), time.Minute); err != nil {
		t.Fatal(err)
	}
	keys := l.leaseKeys("topic")
	garbage := []string{"", "garbage", "\x02", "\x02short", "\x09newer"}
	for i, value := range garbage {
		m.HSet(keys[0], fmt.Sprint("garbage", i), value) // without an end
	}
	m.ZAdd(keys[1], 1, "long over, and has no value")
	m.ZAdd(keys[1], 1e18, "\x00\xff")
	if _, err := l.Lease(t.Context(), "topic", "two", []byte("two"), time.Minute); err != nil {
		t.Fatal(err)
	}
	leases, err := l.Leases(t.Context(), "topic")
	if err != nil || len(leases) != 2 || string(leases["one"]) != "one" || string(leases["two"]) != "two" {
		t.Errorf("%q, %v", leases, err)
	}
	if n := l.Discarded(); n != uint64(len(garbage)) {
		t.Errorf("%d are counted as discarded, want %d", n, len(garbage))
	}
	for _, holder := range []string{"one", "two"} {
		if ok, err := l.Lease(t.Context(), "topic", holder, nil, time.Minute); err != nil || !ok {
			t.Errorf("to prolong %s: %v, %v", holder, ok, err)
		}
	}
}

func TestGarbageInAQueueIsNoHindrance(t *testing.T) {
	for _, c := range []struct {
		name, message string
		absent        bool // no message belongs to the id
		discarded     uint64
	}{
		{name: "no message", absent: true},
		{name: "over", message: "1:\x01x"},
		{name: "no deadline", message: "garbage"},
		{name: "nothing", message: ""},
		{name: "empty payload", message: "9999999999999:", discarded: 1},
		{name: "garbage payload", message: "9999999999999:garbage", discarded: 1},
		{name: "sealed payload", message: "9999999999999:\x02short", discarded: 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := miniredis.RunT(t)
			l := newTestLayer(t, m, Options{})
			keys := l.queueKeys("queue")
			if !c.absent {
				m.HSet(keys[0], "garbage", c.message)
			}
			m.Push(keys[1], "garbage")
			m.ZAdd(keys[2], 1, "taken, and nothing is known of it")
			if err := l.Append(t.Context(), "queue", []byte("x")); err != nil {
				t.Fatalf("Append behind garbage: %v", err)
			}
			if message, err := l.Take(t.Context(), "queue"); err != nil || string(message) != "x" {
				t.Errorf("took %q, %v", message, err)
			}
			if n := l.Discarded(); n != c.discarded {
				t.Errorf("%d are counted as discarded, want %d", n, c.discarded)
			}
		})
	}
}
