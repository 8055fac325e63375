package grouphub

import (
	"context"
	"crypto/rand"
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/redis/rueidis"
)

// A queue is three keys of one slot: a hash of id to deadline and message, a list of the
// ids that wait, and a sorted set of those that are taken, by the end of their lease.
// Times are the server's, in milliseconds.
const queuePrelude = `
local messages, waiting, taken = KEYS[1], KEYS[2], KEYS[3]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function message(id)
  local value = redis.call('HGET', messages, id)
  if not value then return nil end
  local deadline, rest = string.match(value, '^(%d+):()')
  if tonumber(deadline) <= now then
    redis.call('HDEL', messages, id)
    return nil
  end
  return string.sub(value, rest)
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', taken, '-inf', now)) do
  redis.call('ZREM', taken, id)
  redis.call('LPUSH', waiting, id)
end
`

func newQueueScript(source string) redisScript {
	source = queuePrelude + source
	sum := sha1.Sum([]byte(source))
	return redisScript{hex.EncodeToString(sum[:]), source}
}

var (
	// ARGV: id, message, capacity, expiry, life of the keys, PUBLISH or SPUBLISH,
	// channel and payload that wake takers.
	queueAppend = newQueueScript(`
local head = redis.call('LINDEX', waiting, 0)
while head and not message(head) do
  redis.call('LPOP', waiting)
  head = redis.call('LINDEX', waiting, 0)
end
if redis.call('LLEN', waiting) >= tonumber(ARGV[3]) then return 0 end
redis.call('HSET', messages, ARGV[1], string.format('%.0f', now + ARGV[4]) .. ':' .. ARGV[2])
redis.call('RPUSH', waiting, ARGV[1])
for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, ARGV[5]) end
redis.call(ARGV[6], ARGV[7], ARGV[8])
return 1`)

	// ARGV: lease, life of the keys. Returns id and message.
	queueTake = newQueueScript(`
local id = redis.call('LPOP', waiting)
while id do
  local value = message(id)
  if value then
    redis.call('ZADD', taken, string.format('%.0f', now + ARGV[1]), id)
    redis.call('PEXPIRE', taken, ARGV[2])
    return {id, value}
  end
  id = redis.call('LPOP', waiting)
end
return {}`)

	// ARGV: id.
	queueDone = newQueueScript(`
redis.call('ZREM', taken, ARGV[1])
redis.call('HDEL', messages, ARGV[1])
return 1`)

	// ARGV: id, life of the keys, PUBLISH or SPUBLISH, channel, payload.
	queueBack = newQueueScript(`
if redis.call('ZREM', taken, ARGV[1]) == 1 then
  redis.call('LPUSH', waiting, ARGV[1])
  redis.call('PEXPIRE', waiting, ARGV[2])
  redis.call(ARGV[3], ARGV[4], ARGV[5])
end
return 1`)
)

func (l *RedisLayer) queueKeys(queue string) []string {
	return []string{l.key("messages", queue), l.key("waiting", queue), l.key("taken", queue)}
}

// queueLife is how long the keys of a queue outlive its last change, in milliseconds.
func (l *RedisLayer) queueLife() string {
	return strconv.FormatInt((l.expiry + 2*redisQueueLease).Milliseconds(), 10)
}

func (l *RedisLayer) queueLease() string {
	return strconv.FormatInt(redisQueueLease.Milliseconds(), 10)
}

// wakeCommand returns the last arguments of a script that wakes takers.
func (l *RedisLayer) wakeCommand(queue string) []string {
	command, channel := "PUBLISH", l.key("wake", queue)
	if l.sharded {
		command = "SPUBLISH"
	}
	return []string{command, channel, rueidis.BinaryString(l.sealer.seal(channel, nil))}
}

// Append implements [Layer].
func (l *RedisLayer) Append(ctx context.Context, queue string, message []byte) error {
	keys := l.queueKeys(queue)
	result, err := l.run(ctx, "append to", queue, queueAppend, keys, append([]string{
		rand.Text(),
		rueidis.BinaryString(l.sealer.seal(keys[0], message)),
		strconv.Itoa(l.capacity),
		strconv.FormatInt(l.expiry.Milliseconds(), 10),
		l.queueLife(),
	}, l.wakeCommand(queue)...))
	if err != nil {
		return err
	}
	if added, err := result.AsInt64(); err != nil || added != 1 {
		return fmt.Errorf("%w: append to %q", ErrQueueFull, queue)
	}
	return nil
}

// A redisQueue has one goroutine, the taker, that takes messages for all callers of this
// layer. It lives as long as there are some.
type redisQueue struct {
	name string
	wake chan struct{} // has room for one: there may be a message, or no caller

	callers []chan []byte // longest waiting first; each holds one. Guarded by RedisLayer.mu
}

// Take implements [Layer]. Callers on one layer are served in the order they came.
func (l *RedisLayer) Take(ctx context.Context, queue string) ([]byte, error) {
	caller := make(chan []byte, 1)
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil, fmt.Errorf("%w: take from %q", ErrClosed, queue)
	}
	q := l.queues[queue]
	if q == nil {
		q = &redisQueue{name: queue, wake: make(chan struct{}, 1)}
		l.queues[queue] = q
		if l.wakes == nil {
			l.wakes = l.subscribeLocked("wake", rand.Text(), queueWaker{l})
		}
		l.running.Go(func() { l.serveQueue(q) })
	}
	q.callers = append(q.callers, caller)
	l.mu.Unlock()

	var err error
	select {
	case message := <-caller:
		return message, nil
	case <-ctx.Done():
		err = fmt.Errorf("grouphub: take from %q: %w", queue, ctx.Err())
	case <-l.ctx.Done():
		err = fmt.Errorf("%w: take from %q", ErrClosed, queue)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case message := <-caller: // handed over in the same moment: it must not get lost
		return message, nil
	default:
	}
	q.callers = slices.DeleteFunc(q.callers, func(other chan []byte) bool { return other == caller })
	notify(q.wake)
	return nil, err
}

// serveQueue takes messages until nobody waits for one. A message is removed from Redis
// when it has been handed over; until then a lease keeps other takers away, and should
// this process end, the lease will, too.
func (l *RedisLayer) serveQueue(q *redisQueue) {
	l.wakes.Add(l.ctx, q.name) // without it there is the poll
	defer l.wakes.Remove(q.name)
	keys := l.queueKeys(q.name)
	poll := time.NewTicker(redisQueuePoll)
	defer poll.Stop()
	for l.ctx.Err() == nil {
		result, err := l.run(l.ctx, "take from", q.name, queueTake, keys,
			[]string{l.queueLease(), l.queueLife()})
		if taken, _ := result.AsStrSlice(); err == nil && len(taken) == 2 {
			// What cannot be opened is done with.
			message, ok := l.open(keys[0], taken[1])
			if ok && !l.hand(q, message) {
				l.run(l.ctx, "give back to", q.name, queueBack, keys, append([]string{taken[0], l.queueLife()}, l.wakeCommand(q.name)...))
			} else {
				l.run(l.ctx, "remove from", q.name, queueDone, keys, []string{taken[0]})
			}
		} else if l.ended(q) {
			return
		} else {
			select {
			case <-q.wake:
			case <-poll.C:
			case <-l.ctx.Done():
			}
		}
		if l.ended(q) {
			return
		}
	}
}

// hand gives a message to whoever has waited longest.
func (l *RedisLayer) hand(q *redisQueue, message []byte) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(q.callers) == 0 {
		return false
	}
	q.callers[0] <- message
	q.callers = slices.Delete(q.callers, 0, 1)
	return true
}

// ended forgets a queue without callers, and reports whether it has.
func (l *RedisLayer) ended(q *redisQueue) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(q.callers) > 0 {
		return false
	}
	delete(l.queues, q.name)
	return true
}

// queueWaker is the receiver of what wakes takers.
type queueWaker struct{ layer *RedisLayer }

func (queueWaker) Ready(context.Context, string) error { return nil }

func (w queueWaker) Deliver(p Publication) { w.Lost([]string{p.Topic}) }

func (w queueWaker) Lost(queues []string) {
	w.layer.mu.Lock()
	defer w.layer.mu.Unlock()
	for _, queue := range queues {
		if q := w.layer.queues[queue]; q != nil {
			notify(q.wake)
		}
	}
}
