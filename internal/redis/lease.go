package redis

import (
	"context"
	"time"

	"github.com/redis/rueidis"
)

// The leases of a topic are two keys of its slot: a hash of holder to value, and a sorted
// set of the holders by the end of their lease. Times are the server's, in milliseconds.
const (
	leasesOver = `
local values, ends = KEYS[1], KEYS[2]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local over = redis.call('ZRANGEBYSCORE', ends, '-inf', string.format('%.0f', now))
`
	leasePrelude = leasesOver + `
for _, holder in ipairs(over) do
  redis.call('ZREM', ends, holder)
  redis.call('HDEL', values, holder)
end
`
)

var (
	// ARGV: holder, life, and perhaps a value. Returns 0 if there is nothing to prolong.
	leaseSet = newScript(leasePrelude + `
if ARGV[3] then
  redis.call('HSET', values, ARGV[1], ARGV[3])
elseif redis.call('HEXISTS', values, ARGV[1]) == 0 then
  return 0
end
redis.call('ZADD', ends, string.format('%.0f', now + ARGV[2]), ARGV[1])
for _, key in ipairs(KEYS) do
  if redis.call('PTTL', key) < tonumber(ARGV[2]) then redis.call('PEXPIRE', key, ARGV[2]) end
end
return 1`)

	// ARGV: holder.
	leaseEnd = newScript(leasePrelude + `
redis.call('ZREM', ends, ARGV[1])
redis.call('HDEL', values, ARGV[1])
return 1`)

	// Returns holders and values. It writes nothing, so that a server that refuses to
	// can be asked.
	leaseList = newScript(leasesOver + `
local isOver, live = {}, {}
for _, holder in ipairs(over) do isOver[holder] = true end
local all = redis.call('HGETALL', values)
for i = 1, #all, 2 do
  if not isOver[all[i]] then
    live[#live + 1] = all[i]
    live[#live + 1] = all[i + 1]
  end
end
return live`)
)

func (l *Layer) leaseKeys(topic string) []string {
	return []string{l.key("leases", topic), l.key("leaseends", topic)}
}

// leaseSeal is the name that a holder's value is sealed for: it is nobody else's.
func leaseSeal(keys []string, holder string) string { return keys[0] + ":" + holder }

// Lease is as in [grouphub.Layer].
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

// Leases is as in [grouphub.Layer]. What cannot be opened is left out.
func (l *Layer) Leases(ctx context.Context, topic string) (map[string][]byte, error) {
	keys := l.leaseKeys(topic)
	result, err := l.run(ctx, "leases of", topic, leaseList, keys, nil)
	if err != nil {
		return nil, err
	}
	pairs, _ := result.AsStrSlice()
	values := make(map[string][]byte, len(pairs)/2)
	for i := 0; i+1 < len(pairs); i += 2 {
		if value, ok := l.open(leaseSeal(keys, pairs[i]), pairs[i+1]); ok {
			values[pairs[i]] = value
		}
	}
	return values, nil
}
