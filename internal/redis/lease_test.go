package redis

import (
	"fmt"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"

	"github.com/seed-29c60982/grouphub/internal/redistest"
	"github.com/seed-29c60982/grouphub/layer"
)

// leaseOf is a change to a lease with one field.
func leaseOf(version uint64, value string) layer.LeaseChange {
	return layer.LeaseChange{Version: version, Life: time.Minute, Set: map[string][]byte{"field": []byte(value)}}
}

func prolonged(version uint64) layer.LeaseChange {
	return layer.LeaseChange{After: version, Version: version, Life: time.Minute}
}

func TestLeaseThatIsNotProlongedEndsAmongOthers(t *testing.T) {
	m := miniredis.RunT(t)
	now := time.Now()
	m.SetTime(now)
	l := newTestLayer(t, "redis://"+m.Addr(), Options{})
	for _, holder := range []string{"crashed", "lives"} {
		if _, err := l.Lease(t.Context(), "topic", holder, leaseOf(1, holder)); err != nil {
			t.Fatal(err)
		}
	}
	for range 5 {
		now = now.Add(20 * time.Second)
		m.SetTime(now)
		m.FastForward(20 * time.Second)
		if ok, err := l.Lease(t.Context(), "topic", "lives", prolonged(1)); err != nil || !ok {
			t.Fatalf("%v, %v", ok, err)
		}
	}
	if left, _ := m.HKeys(l.leaseIndex("topic")); len(left) != 1 || len(m.Keys()) != 2 { // without anybody looking
		t.Errorf("the index has %q, and there are %q", left, m.Keys())
	}
	if leases, err := l.Leases(t.Context(), "topic", nil); err != nil || len(leases) != 1 || string(leases["lives"].Fields["field"]) != "lives" {
		t.Errorf("%v, %v", leases, err)
	}
}

func TestValueOfALeaseCannotBeMovedToAnotherFieldOrHolder(t *testing.T) {
	m := miniredis.RunT(t)
	l := newTestLayer(t, "redis://"+m.Addr(), Options{EncryptionKeys: []string{"key"}})
	for _, holder := range []string{"one", "two"} {
		if _, err := l.Lease(t.Context(), "topic", holder, leaseOf(1, holder)); err != nil {
			t.Fatal(err)
		}
	}
	one, two := l.leaseKey("topic", "one"), l.leaseKey("topic", "two")
	m.HSet(two, "ffield", m.HGet(one, "ffield"))
	m.HSet(one, "fanother", m.HGet(one, "ffield"))
	leases, err := l.Leases(t.Context(), "topic", nil)
	if err != nil || len(leases["one"].Fields) != 1 || len(leases["two"].Fields) != 0 || l.Discarded() != 2 {
		t.Errorf("%v, %v, and %d were discarded, want 2", leases, err, l.Discarded())
	}
}

func TestGarbageAmongLeasesIsNoHindrance(t *testing.T) {
	m := miniredis.RunT(t)
	l := newTestLayer(t, "redis://"+m.Addr(), Options{})
	if _, err := l.Lease(t.Context(), "topic", "one", leaseOf(1, "one")); err != nil {
		t.Fatal(err)
	}
	garbage := []string{"", "garbage", "\x02", "\x02short", "\x09newer"}
	for i, value := range garbage {
		m.HSet(l.leaseKey("topic", "one"), fmt.Sprint("fgarbage", i), value)
	}
	m.HSet(l.leaseKey("topic", "one"), "", "x", "x", "")
	m.HSet(l.leaseIndex("topic"), "", "x", "x", "", "x y", "x y", "long over", "1 1", "no end", "99999999999999", "no lease", "99999999999999 1", "bad lease", "99999999999999 1")
	m.HSet(l.leaseKey("topic", "bad lease"), "v", "x")
	if _, err := l.Lease(t.Context(), "topic", "two", leaseOf(1, "two")); err != nil {
		t.Fatal(err)
	}
	leases, err := l.Leases(t.Context(), "topic", nil)
	if err != nil || len(leases) != 2 || string(leases["one"].Fields["field"]) != "one" || string(leases["two"].Fields["field"]) != "two" {
		t.Errorf("%q, %v", leases, err)
	}
	if n := l.Discarded(); n != uint64(len(garbage)) {
		t.Errorf("%d are counted as discarded, want %d", n, len(garbage))
	}
	for _, holder := range []string{"one", "two", "bad lease"} {
		change, want := prolonged(1), true
		if holder == "bad lease" {
			want = false
		}
		if ok, err := l.Lease(t.Context(), "topic", holder, change); err != nil || ok != want {
			t.Errorf("to prolong %s: %v, %v", holder, ok, err)
		}
	}
	if ok, err := l.Lease(t.Context(), "topic", "bad lease", leaseOf(1, "good")); err != nil || !ok {
		t.Errorf("to write over garbage: %v, %v", ok, err)
	}
}

func TestLeaseIsEvictedWholeOrNotAtAll(t *testing.T) {
	m := miniredis.RunT(t)
	l := newTestLayer(t, "redis://"+m.Addr(), Options{})
	for _, holder := range []string{"crashed", "lives"} {
		if _, err := l.Lease(t.Context(), "topic", holder, leaseOf(1, holder)); err != nil {
			t.Fatal(err)
		}
	}
	m.Del(l.leaseKey("topic", "lives")) // by a server that is full
	if leases, err := l.Leases(t.Context(), "topic", nil); err != nil || len(leases) != 1 {
		t.Errorf("without the lease: %v, %v", leases, err)
	}
	if ok, err := l.Lease(t.Context(), "topic", "lives", prolonged(1)); err != nil || ok {
		t.Errorf("without the lease there was one to prolong: %v", err)
	}
	m.Del(l.leaseIndex("topic"))
	if leases, err := l.Leases(t.Context(), "topic", nil); err != nil || len(leases) != 0 {
		t.Errorf("without the index: %v, %v", leases, err)
	}
	if ok, err := l.Lease(t.Context(), "topic", "crashed", prolonged(1)); err != nil || !ok {
		t.Errorf("to prolong one that is not in the index: %v, %v", ok, err)
	}
	if leases, err := l.Leases(t.Context(), "topic", nil); err != nil || string(leases["crashed"].Fields["field"]) != "crashed" {
		t.Errorf("after that: %v, %v", leases, err)
	}
}

func TestLeaseIsProlongedOnAServerThatIsFull(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	l := newTestLayer(t, s.URL(), Options{})
	if _, err := l.Lease(t.Context(), "topic", "one", leaseOf(1, "one")); err != nil {
		t.Fatal(err)
	}
	s.CLI("CONFIG", "SET", "maxmemory", "1")
	if ok, err := l.Lease(t.Context(), "topic", "one", prolonged(1)); err != nil || !ok {
		t.Errorf("to prolong: %v, %v", ok, err)
	}
	if ok, err := l.Lease(t.Context(), "topic", "one", leaseOf(2, "two")); err == nil || ok {
		t.Errorf("to replace: %v, %v, want an error", ok, err)
	}
	if leases, err := l.Leases(t.Context(), "topic", nil); err != nil || leases["one"].Version != 1 || string(leases["one"].Fields["field"]) != "one" {
		t.Errorf("after that: %v, %v", leases, err)
	}
}
