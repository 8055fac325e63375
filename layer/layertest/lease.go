package layertest

import (
	"bytes"
	"testing"
	"time"

	"github.com/seed-29c60982/grouphub/layer"
)

var leaseCases = []testCase{
	{name: "LeasesBelongToTheirTopicsAndHolders", run: testLeases},
	{name: "LeaseEndsUnlessItIsProlonged", run: testLeaseLife, slow: true},
}

// expectLeases compares a topic's leases, as both ends see them.
func (f *fixture) expectLeases(topic string, want map[string]string) {
	f.t.Helper()
	for _, l := range []layer.Layer{f.a, f.b} {
		leases, err := l.Leases(f.ctx, topic)
		if err != nil {
			f.t.Fatalf("Leases: %v", err)
		}
		same := len(leases) == len(want)
		for holder, value := range want {
			got, ok := leases[holder]
			same = same && ok && string(got) == value
		}
		if !same {
			f.t.Errorf("leases of %q: %.300q, want %.300q", topic, leases, want)
		}
		for _, value := range leases {
			clear(value) // the slice is the caller's
		}
	}
}

func (f *fixture) lease(l layer.Layer, topic, holder string, value []byte, life time.Duration, want bool) {
	f.t.Helper()
	if ok, err := l.Lease(f.ctx, topic, holder, value, life); ok != want || err != nil {
		f.t.Errorf("Lease of %.20q to %.20q: %v, %v, want %v", topic, holder, ok, err, want)
	}
}

func testLeases(t testing.TB, f *fixture) {
	f.expectLeases("topic", nil)
	f.lease(f.a, "topic", "one", nil, time.Minute, false) // there is nothing to prolong
	f.expectLeases("topic", nil)
	value := []byte("first")
	f.lease(f.a, "topic", "one", value, time.Minute, true)
	clear(value)
	f.lease(f.b, "topic", "two", []byte{}, time.Minute, true)
	f.lease(f.b, "other", "one", []byte("other"), time.Minute, true)
	f.expectLeases("topic", map[string]string{"one": "first", "two": ""})
	f.lease(f.b, "topic", "one", nil, time.Minute, true)
	f.expectLeases("topic", map[string]string{"one": "first", "two": ""})
	large := bytes.Repeat([]byte{0, 1, 0xff}, 1<<16)
	f.lease(f.a, "topic", "one", large, time.Minute, true)
	f.expectLeases("topic", map[string]string{"one": string(large), "two": ""})
	f.lease(f.a, "topic", "one", nil, 0, true)
	f.lease(f.a, "topic", "one", nil, time.Minute, false)
	f.lease(f.a, "topic", "two", []byte("not nil"), 0, true)
	f.lease(f.a, "topic", "never", nil, 0, true)
	f.expectLeases("topic", nil)
	f.expectLeases("other", map[string]string{"one": "other"})
}

func testLeaseLife(t testing.TB, f *fixture) {
	f.lease(f.a, "topic", "short", []byte("short"), time.Second, true)
	f.lease(f.a, "topic", "long", []byte("long"), time.Second, true)
	f.lease(f.b, "topic", "long", nil, time.Minute, true)
	f.lease(f.a, "other", "short", []byte("alone"), time.Second, true)
	f.expectLeases("topic", map[string]string{"short": "short", "long": "long"})
	gone := func(topic string, left int) bool {
		return eventually(func() bool {
			leases, err := f.b.Leases(f.ctx, topic)
			if err != nil {
				t.Fatalf("Leases: %v", err)
			}
			return len(leases) == left
		})
	}
	if !gone("topic", 1) || !gone("other", 0) {
		t.Error("a lease of a second does not end")
	}
	f.lease(f.a, "topic", "short", nil, time.Minute, false)
	f.expectLeases("topic", map[string]string{"long": "long"})
}
