package redis

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"github.com/seed-29c60982/grouphub/layer"
)

const (
	// leaseVersion is the field of a lease that has its version, and leaseField begins the
	// names of the others.
	leaseVersion = "v"
	leaseField   = "f"
)

// leaseIndex returns the key that says which holders have leases of a topic: a hash of the end of
// each, by the server's clock, and its version. It is written whenever a lease is, so a server that
// has evicted it knows them all again as soon as they are prolonged.
func (l *Layer) leaseIndex(topic string) string { return l.key("present", topic) }

// leaseKey returns the one key that has a lease and its expiry. Of two keys, a full server could
// evict the one and leave the other, and a hub that had crashed would stay for ever.
func (l *Layer) leaseKey(topic, holder string) string { return l.leaseIndex(topic) + ":" + holder }

// leaseSeal is the name that a field's value is sealed for: it is no other field's or holder's.
func leaseSeal(key, name string) string { return key + ":" + name }

// Lease implements [layer.Layer].
func (l *Layer) Lease(ctx context.Context, topic, holder string, change layer.LeaseChange) (bool, error) {
	key := l.leaseKey(topic, holder)
	life := min(max(change.Life, 0), maxLife)
	args := []string{holder, milliseconds(life), strconv.FormatUint(change.After, 10), strconv.FormatUint(change.Version, 10)}
	if life >= time.Millisecond {
		args = append(args, strconv.Itoa(len(change.Set)))
		for name, value := range change.Set {
			args = append(args, leaseField+name, rueidis.BinaryString(l.sealer.seal(leaseSeal(key, name), value)))
		}
		for _, name := range change.Remove {
			args = append(args, leaseField+name)
		}
	}
	result, err := l.run(ctx, "lease", topic, leaseChange, []string{l.leaseIndex(topic), key}, args)
	if err != nil {
		return false, err
	}
	done, err := result.AsInt64()
	return done == 1 && err == nil, nil
}

// Leases implements [layer.Layer]. What cannot be opened is left out.
func (l *Layer) Leases(ctx context.Context, topic string, known map[string]uint64) (map[string]layer.Lease, error) {
	result, err := l.run(ctx, "leases of", topic, leaseList, []string{l.leaseIndex(topic)}, nil)
	if err != nil {
		return nil, err
	}
	listed, _ := result.AsStrSlice()
	leases := make(map[string]layer.Lease, len(listed)/2)
	var holders, keys []string
	for i := 0; i+1 < len(listed); i += 2 {
		holder := listed[i]
		if version, _ := strconv.ParseUint(listed[i+1], 10, 64); version > 0 && version == known[holder] {
			leases[holder] = layer.Lease{Version: version}
			continue
		}
		holders, keys = append(holders, holder), append(keys, l.leaseKey(topic, holder))
	}
	if len(keys) == 0 {
		return leases, nil
	}
	if result, err = l.run(ctx, "leases of", topic, leaseRead, keys, nil); err != nil {
		return nil, err
	}
	answers, _ := result.ToArray()
	for i, answer := range answers[:min(len(answers), len(keys))] {
		if pairs, _ := answer.AsStrSlice(); len(pairs) > 0 {
			if lease := l.readLease(keys[i], pairs); lease.Version > 0 { // otherwise it has just ended
				leases[holders[i]] = lease
			}
		}
	}
	return leases, nil
}

// readLease returns the lease that a key has, as names and values one behind the other.
func (l *Layer) readLease(key string, pairs []string) layer.Lease {
	lease := layer.Lease{Fields: make(map[string][]byte, len(pairs)/2)}
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i] == leaseVersion {
			lease.Version, _ = strconv.ParseUint(pairs[i+1], 10, 64)
		} else if name, ok := strings.CutPrefix(pairs[i], leaseField); ok {
			if value, ok := l.open(leaseSeal(key, name), []byte(pairs[i+1])); ok {
				lease.Fields[name] = value
			}
		}
	}
	return lease
}
