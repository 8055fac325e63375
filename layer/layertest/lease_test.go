package layertest

import (
	"context"
	"time"

	"github.com/seed-29c60982/grouphub/layer"
)

// changeLeases replaces the change of each Lease.
func changeLeases(fn func(change layer.LeaseChange) layer.LeaseChange) func(l *faultyLayer) {
	return func(l *faultyLayer) {
		l.lease = func(ctx context.Context, topic, holder string, change layer.LeaseChange) (bool, error) {
			return l.inside.Lease(ctx, topic, holder, fn(change))
		}
	}
}

var leaseFaults = []fault{
	{"a lease that is not there is prolonged", "LeasesBelongToTheirTopicsAndHolders", func(l *faultyLayer) {
		l.lease = func(ctx context.Context, topic, holder string, change layer.LeaseChange) (bool, error) {
			_, err := l.inside.Lease(ctx, topic, holder, change)
			return err == nil, err
		}
	}},
	{"the end of a lease that is not there is an error", "LeasesBelongToTheirTopicsAndHolders", func(l *faultyLayer) {
		l.lease = func(ctx context.Context, topic, holder string, change layer.LeaseChange) (bool, error) {
			leases, _ := l.inside.Leases(ctx, topic, nil)
			ok, err := l.inside.Lease(ctx, topic, holder, change)
			if _, held := leases[holder]; change.Life == 0 && !held {
				ok = false
			}
			return ok, err
		}
	}},
	{"the topics have their leases in common", "LeasesBelongToTheirTopicsAndHolders", func(l *faultyLayer) {
		l.lease = func(ctx context.Context, _, holder string, change layer.LeaseChange) (bool, error) {
			return l.inside.Lease(ctx, "all", holder, change)
		}
		l.leases = func(ctx context.Context, _ string, known map[string]uint64) (map[string]layer.Lease, error) {
			return l.inside.Leases(ctx, "all", known)
		}
	}},
	{"a lease that is replaced keeps its old fields", "LeasesBelongToTheirTopicsAndHolders", func(l *faultyLayer) {
		l.lease = func(ctx context.Context, topic, holder string, change layer.LeaseChange) (bool, error) {
			if leases, _ := l.inside.Leases(ctx, topic, nil); change.After == 0 && change.Life > 0 && leases[holder].Version > 0 {
				change.After = leases[holder].Version
			}
			return l.inside.Lease(ctx, topic, holder, change)
		}
	}},
	{"fields are not removed", "LeaseIsChangedFieldByField", changeLeases(func(change layer.LeaseChange) layer.LeaseChange {
		change.Remove = nil
		return change
	})},
	{"a change replaces all fields", "LeaseIsChangedFieldByField", func(l *faultyLayer) {
		l.lease = func(ctx context.Context, topic, holder string, change layer.LeaseChange) (bool, error) {
			leases, _ := l.inside.Leases(ctx, topic, nil)
			if change.After > 0 && change.After == leases[holder].Version && change.After != change.Version {
				change.After = 0
			}
			return l.inside.Lease(ctx, topic, holder, change)
		}
	}},
	{"a lease without fields is none", "LeaseIsChangedFieldByField", func(l *faultyLayer) {
		l.leases = func(ctx context.Context, topic string, known map[string]uint64) (map[string]layer.Lease, error) {
			leases, err := l.inside.Leases(ctx, topic, known)
			for holder, lease := range leases {
				if len(lease.Fields) == 0 && lease.Version == 4 && known == nil {
					delete(leases, holder)
				}
			}
			return leases, err
		}
	}},
	{"fields that are known are read again", "LeaseIsChangedFieldByField", func(l *faultyLayer) {
		l.leases = func(ctx context.Context, topic string, _ map[string]uint64) (map[string]layer.Lease, error) {
			return l.inside.Leases(ctx, topic, nil)
		}
	}},
	{"fields that changed are not read", "LeaseIsChangedFieldByField", func(l *faultyLayer) {
		l.leases = func(ctx context.Context, topic string, known map[string]uint64) (map[string]layer.Lease, error) {
			leases, err := l.inside.Leases(ctx, topic, nil)
			for holder := range known {
				if lease, ok := leases[holder]; ok {
					leases[holder] = layer.Lease{Version: lease.Version}
				}
			}
			return leases, err
		}
	}},
	{"a change is made to any version", "LeaseIsOnlyChangedFromTheVersionThatIsMeant", func(l *faultyLayer) {
		l.lease = func(ctx context.Context, topic, holder string, change layer.LeaseChange) (bool, error) {
			if leases, _ := l.inside.Leases(ctx, topic, nil); change.After > 0 && change.After != change.Version && leases[holder].Version > 0 {
				change.After = leases[holder].Version
			}
			return l.inside.Lease(ctx, topic, holder, change)
		}
	}},
	{"a change makes a lease that is not there", "LeaseIsOnlyChangedFromTheVersionThatIsMeant", func(l *faultyLayer) {
		l.lease = func(ctx context.Context, topic, holder string, change layer.LeaseChange) (bool, error) {
			if leases, _ := l.inside.Leases(ctx, topic, nil); leases[holder].Version == 0 && change.Version != change.After {
				change.After = 0
			}
			return l.inside.Lease(ctx, topic, holder, change)
		}
	}},
	{"a later version is replaced", "LeaseIsOnlyChangedFromTheVersionThatIsMeant", func(l *faultyLayer) {
		l.lease = func(ctx context.Context, topic, holder string, change layer.LeaseChange) (bool, error) {
			if change.After == 0 && change.Life > 0 {
				l.inside.Lease(ctx, topic, holder, ended(1<<50))
			}
			return l.inside.Lease(ctx, topic, holder, change)
		}
	}},
	{"a later version is ended", "LeaseIsOnlyChangedFromTheVersionThatIsMeant", changeLeases(func(change layer.LeaseChange) layer.LeaseChange {
		if change.Life == 0 {
			change.Version = 1 << 50
		}
		return change
	})},
	{"a lease never ends", "LeaseEndsUnlessItIsProlonged", changeLeases(func(change layer.LeaseChange) layer.LeaseChange {
		change.Life = max(change.Life, min(change.Life, 1)*time.Hour)
		return change
	})},
	{"a lease is not prolonged", "LeaseEndsUnlessItIsProlonged", func(l *faultyLayer) {
		l.lease = func(ctx context.Context, topic, holder string, change layer.LeaseChange) (bool, error) {
			if change.After > 0 && change.After == change.Version {
				leases, err := l.inside.Leases(ctx, topic, nil)
				_, ok := leases[holder]
				return ok, err
			}
			return l.inside.Lease(ctx, topic, holder, change)
		}
	}},
	{"a change does not prolong", "LeaseEndsUnlessItIsProlonged", changeLeases(func(change layer.LeaseChange) layer.LeaseChange {
		if change.After > 0 && change.After != change.Version {
			change.Life = time.Second
		}
		return change
	})},
}
