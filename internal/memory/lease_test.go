package memory

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-29c60982/grouphub/layer"
)

func lease(t *testing.T, l *Layer, holder, value string, life time.Duration) {
	t.Helper()
	l.mu.Lock()
	version := l.leases["topic"][holder].Version + 1
	l.mu.Unlock()
	change := layer.LeaseChange{Version: version, Life: life, Set: map[string][]byte{"field": []byte(value)}}
	if ok, err := l.Lease(t.Context(), "topic", holder, change); !ok || err != nil {
		t.Fatalf("Lease: %v, %v", ok, err)
	}
}

func leases(t *testing.T, l *Layer) map[string]string {
	t.Helper()
	leases, err := l.Leases(t.Context(), "topic", nil)
	if err != nil {
		t.Fatal(err)
	}
	values := make(map[string]string)
	for holder, lease := range leases {
		values[holder] = string(lease.Fields["field"])
	}
	return values
}

func TestLeasesThatHaveEndedAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New()
		lease(t, l, "crashed", "x", time.Minute)
		lease(t, l, "prolonged", "x", time.Minute)
		time.Sleep(40 * time.Second)
		lease(t, l, "prolonged", "y", time.Minute)
		time.Sleep(20 * time.Second)
		if values := leases(t, l); len(values) != 1 || string(values["prolonged"]) != "y" {
			t.Errorf("leases %q, want the prolonged one", values)
		}
		time.Sleep(40 * time.Second)
		if values := leases(t, l); len(values) != 0 || len(l.leases) != 0 {
			t.Errorf("leases %q, and %d topics are left", values, len(l.leases))
		}
		lease(t, l, "another", "z", time.Minute)
		time.Sleep(time.Minute)
		lease(t, l, "another", "after all have ended", time.Minute)
		if values := leases(t, l); string(values["another"]) != "after all have ended" {
			t.Errorf("leases %q, want the last one", values)
		}
	})
}
