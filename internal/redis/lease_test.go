package redis

import (
	"fmt"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
)

func TestLeaseThatIsNotProlongedEndsAmongOthers(t *testing.T) {
	m := miniredis.RunT(t)
	now := time.Now()
	m.SetTime(now)
	l := newTestLayer(t, "redis://"+m.Addr(), Options{})
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
	if left, _ := m.HKeys(l.leaseKey("topic")); len(left) != 2 { // without anybody looking
		t.Errorf("values of %q are left", left)
	}
	if leases, err := l.Leases(t.Context(), "topic"); err != nil || len(leases) != 1 || string(leases["lives"]) != "lives" {
		t.Errorf("%q, %v", leases, err)
	}
	// What one holder keeps cannot be moved to another.
	sealed := newTestLayer(t, "redis://"+m.Addr(), Options{EncryptionKeys: []string{"key"}, Prefix: "sealed"})
	if _, err := sealed.Lease(t.Context(), "topic", "one", []byte("one"), time.Minute); err != nil {
		t.Fatal(err)
	}
	key := sealed.leaseKey("topic")
	m.HSet(key, "v:two", m.HGet(key, "v:one"), "e:two", m.HGet(key, "e:one"))
	if leases, err := sealed.Leases(t.Context(), "topic"); err != nil || len(leases) != 1 || sealed.Discarded() != 1 {
		t.Errorf("%q, %v", leases, err)
	}
}

func TestGarbageAmongLeasesIsNoHindrance(t *testing.T) {
	m := miniredis.RunT(t)
	l := newTestLayer(t, "redis://"+m.Addr(), Options{})
	if _, err := l.Lease(t.Context(), "topic", "one", []byte("one"), time.Minute); err != nil {
		t.Fatal(err)
	}
	key := l.leaseKey("topic")
	garbage := []string{"", "garbage", "\x02", "\x02short", "\x09newer"}
	for i, value := range garbage {
		m.HSet(key, fmt.Sprint("v:garbage", i), value, fmt.Sprint("e:garbage", i), "9999999999999")
	}
	m.HSet(key, "v:without an end", "x", "e:without a value", "9999999999999", "e:long over", "1", "v:long over", "x",
		"e:", "\x00\xff", "v:", "x", "", "x", "x", "")
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

func TestLeaseIsEvictedWholeOrNotAtAll(t *testing.T) {
	m := miniredis.RunT(t)
	l := newTestLayer(t, "redis://"+m.Addr(), Options{})
	for _, holder := range []string{"crashed", "lives"} {
		if _, err := l.Lease(t.Context(), "topic", holder, []byte(holder), time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	// A full server evicts one key.
	for _, key := range m.Keys() {
		m.Del(key)
		if ok, err := l.Lease(t.Context(), "topic", "lives", nil, time.Minute); err != nil || ok {
			t.Errorf("without %s there was a lease to prolong: %v", key, err)
		}
		if leases, err := l.Leases(t.Context(), "topic"); err != nil || len(leases) > 0 {
			t.Errorf("without %s: %q, %v", key, leases, err)
		}
	}
}
