package redis

import (
	"context"
	"time"

	"github.com/redis/rueidis"
)

// leaseKeys returns the keys of a topic's leases, as the scripts take them.
func (l *Layer) leaseKeys(topic string) []string {
	return []string{l.key("leases", topic), l.key("leaseends", topic)}
}

// leaseSeal is the name that a holder's value is sealed for: it is nobody else's.
func leaseSeal(keys []string, holder string) string { return keys[0] + ":" + holder }

// Lease implements [layer.Layer].
func (l *Layer) Lease(ctx context.Context, topic, holder string, value []byte, life time.Duration) (bool, error) {
	keys, script, args := l.leaseKeys(topic), leaseSet, []string{holder, milliseconds(life)}
	switch {
	case life < time.Millisecond:
		script = leaseEnd
	case value != nil:
		args = append(args, rueidis.BinaryString(l.sealer.seal(leaseSeal(keys, holder), value)))
	}
	result, err := l.run(ctx, "lease", topic, script, keys, args)
	if err != nil {
		return false, err
	}
	done, err := result.AsInt64()
	return done == 1 && err == nil, nil
}

// Leases implements [layer.Layer]. What cannot be opened is left out.
func (l *Layer) Leases(ctx context.Context, topic string) (map[string][]byte, error) {
	keys := l.leaseKeys(topic)
	result, err := l.run(ctx, "leases of", topic, leaseList, keys, nil)
	if err != nil {
		return nil, err
	}
	pairs, _ := result.AsStrSlice()
	values := make(map[string][]byte, len(pairs)/2)
	for i := 0; i+1 < len(pairs); i += 2 {
		if value, ok := l.open(leaseSeal(keys, pairs[i]), []byte(pairs[i+1])); ok {
			values[pairs[i]] = value
		}
	}
	return values, nil
}
