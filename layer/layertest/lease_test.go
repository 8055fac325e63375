package layertest

import (
	"context"
	"time"
)

var leaseFaults = []fault{
	{"a lease that is not there is prolonged", "LeasesBelongToTheirTopicsAndHolders", func(l *faultyLayer) {
		l.lease = func(ctx context.Context, topic, holder string, value []byte, life time.Duration) (bool, error) {
			_, err := l.inside.Lease(ctx, topic, holder, value, life)
			return err == nil, err
		}
	}},
	{"the end of a lease that is not there is an error", "LeasesBelongToTheirTopicsAndHolders", func(l *faultyLayer) {
		l.lease = func(ctx context.Context, topic, holder string, value []byte, life time.Duration) (bool, error) {
			leases, _ := l.inside.Leases(ctx, topic)
			ok, err := l.inside.Lease(ctx, topic, holder, value, life)
			if _, held := leases[holder]; life == 0 && !held {
				ok = false
			}
			return ok, err
		}
	}},
	{"the topics have their leases in common", "LeasesBelongToTheirTopicsAndHolders", func(l *faultyLayer) {
		l.lease = func(ctx context.Context, _, holder string, value []byte, life time.Duration) (bool, error) {
			return l.inside.Lease(ctx, "all", holder, value, life)
		}
		l.leases = func(ctx context.Context, _ string) (map[string][]byte, error) { return l.inside.Leases(ctx, "all") }
	}},
	{"a lease never ends", "LeaseEndsUnlessItIsProlonged", func(l *faultyLayer) {
		l.lease = func(ctx context.Context, topic, holder string, value []byte, life time.Duration) (bool, error) {
			return l.inside.Lease(ctx, topic, holder, value, max(life, min(life, 1)*time.Hour))
		}
	}},
	{"a lease is not prolonged", "LeaseEndsUnlessItIsProlonged", func(l *faultyLayer) {
		l.lease = func(ctx context.Context, topic, holder string, value []byte, life time.Duration) (bool, error) {
			if value == nil && life > 0 {
				leases, err := l.inside.Leases(ctx, topic)
				_, ok := leases[holder]
				return ok, err
			}
			return l.inside.Lease(ctx, topic, holder, value, life)
		}
	}},
}
