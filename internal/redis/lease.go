package redis

import (
	"context"
	"time"

	"github.com/redis/rueidis"
)

// leaseKey returns the one key that has a topic's leases. Of two keys, a full server could
// evict the ends and leave the values, and a hub that had crashed would stay for ever.
func (l *Layer) leaseKey(topic string) string { return l.key("presence", topic) }

// leaseSeal is the name that a holder's value is sealed for: it is nobody else's.
func leaseSeal(key, holder string) string { return key + ":" + holder }

// Lease implements [layer.Layer].
func (l *Layer) Lease(ctx context.Context, topic, holder string, value []byte, life time.Duration) (bool, error) {
	key, script, args := l.leaseKey(topic), leaseSet, []string{holder, milliseconds(life)}
	switch {
	case life < time.Millisecond:
		script = leaseEnd
	case value != nil:
		args = append(args, rueidis.BinaryString(l.sealer.seal(leaseSeal(key, holder), value)))
	}
	result, err := l.run(ctx, "lease", topic, script, []string{key}, args)
	if err != nil {
		return false, err
	}
	done, err := result.AsInt64()
	return done == 1 && err == nil, nil
}

// Leases implements [layer.Layer]. What cannot be opened is left out.
func (l *Layer) Leases(ctx context.Context, topic string) (map[string][]byte, error) {
	key := l.leaseKey(topic)
	result, err := l.run(ctx, "leases of", topic, leaseList, []string{key}, nil)
	if err != nil {
		return nil, err
	}
	pairs, _ := result.AsStrSlice()
	values := make(map[string][]byte, len(pairs)/2)
	for i := 0; i+1 < len(pairs); i += 2 {
		if value, ok := l.open(leaseSeal(key, pairs[i]), []byte(pairs[i+1])); ok {
			values[pairs[i]] = value
		}
	}
	return values, nil
}
