package redis

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/redis/rueidis"

	"github.com/seed-29c60982/grouphub/layer"
)

// queueKeys returns the keys of a queue, as the scripts take them.
func (l *Layer) queueKeys(queue string) []string {
	return []string{l.key("messages", queue), l.key("waiting", queue), l.key("taken", queue)}
}

// runQueue runs a script on a queue.
func (l *Layer) runQueue(ctx context.Context, operation, queue string, script script, args ...string) (rueidis.RedisResult, error) {
	life := milliseconds(l.expiry + 2*queueLease)
	return l.run(ctx, operation, queue, script, l.queueKeys(queue), append([]string{life}, args...))
}

func milliseconds(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

// wakeCommand returns the last arguments of a script that wakes takers.
func (l *Layer) wakeCommand(queue string) []string {
	channel := l.key("wake", queue)
	return []string{l.publishCommand(), channel, rueidis.BinaryString(l.sealPublication(channel, "", nil))}
}

// Append implements [layer.Layer].
func (l *Layer) Append(ctx context.Context, queue string, message []byte) error {
	sealed := rueidis.BinaryString(l.sealer.seal(l.key("messages", queue), message))
	args := []string{rand.Text(), sealed, strconv.Itoa(l.capacity), milliseconds(l.expiry)}
	result, err := l.runQueue(ctx, "append to", queue, queueAppend, append(args, l.wakeCommand(queue)...)...)
	if err != nil {
		return err
	}
	if added, err := result.AsInt64(); err != nil || added != 1 {
		return fmt.Errorf("%w: append to %q", layer.ErrQueueFull, queue)
	}
	return nil
}

// A taker takes the messages of a queue for all callers of this layer, in a goroutine that
// lives as long as there are some.
type taker struct {
	queue string
	wake  chan struct{} // has room for one: there may be a message, or no caller, or the end

	callers []chan []byte // longest waiting first; each holds one. Guarded by Layer.mu
}

// Take implements [layer.Layer]. Callers on one layer are served in the order they came.
func (l *Layer) Take(ctx context.Context, queue string) ([]byte, error) {
	caller := make(chan []byte, 1)
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil, fmt.Errorf("%w: take from %q", layer.ErrClosed, queue)
	}
	k := l.takers[queue]
	if k == nil {
		k = &taker{queue: queue, wake: make(chan struct{}, 1)}
		l.takers[queue] = k
		if l.wakes == nil {
			l.wakes = l.subscribeLocked("wake", rand.Text(), queueWaker{l})
		}
		l.taking.Go(func() { l.serve(k) })
	}
	k.callers = append(k.callers, caller)
	l.mu.Unlock()

	var err error
	select {
	case message := <-caller:
		return message, nil
	case <-ctx.Done():
		err = fmt.Errorf("grouphub: take from %q: %w", queue, ctx.Err())
	case <-l.ctx.Done():
		err = fmt.Errorf("%w: take from %q", layer.ErrClosed, queue)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case message := <-caller: // handed over in the same moment: it must not get lost
		return message, nil
	default:
	}
	k.callers = slices.DeleteFunc(k.callers, func(other chan []byte) bool { return other == caller })
	notify(k.wake)
	return nil, err
}

// serve takes messages until nobody waits for one. A message is removed from Redis
// when it has been handed over; until then a lease keeps other takers away, and should
// this process end, the lease will, too.
func (l *Layer) serve(k *taker) {
	l.wakes.Add(l.ctx, k.queue) // without it there is the poll
	poll := time.NewTicker(queuePoll)
	defer poll.Stop()
	for !l.ended(k) {
		result, err := l.runQueue(l.ctx, "take from", k.queue, queueTake, milliseconds(queueLease))
		if taken, _ := result.AsStrSlice(); err == nil && len(taken) == 2 {
			// What cannot be opened is done with.
			if message, ok := l.open(l.key("messages", k.queue), []byte(taken[1])); ok && !l.hand(k, message) {
				l.runQueue(l.ctx, "give back to", k.queue, queueBack, append(taken[:1], l.wakeCommand(k.queue)...)...)
			} else {
				l.runQueue(l.ctx, "remove from", k.queue, queueDone, taken[0])
			}
			continue
		}
		select {
		case <-k.wake:
		case <-poll.C:
		case <-l.ctx.Done():
		}
	}
}

// hand gives a message to whoever has waited longest.
func (l *Layer) hand(k *taker, message []byte) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(k.callers) == 0 {
		return false
	}
	k.callers[0] <- message
	k.callers = slices.Delete(k.callers, 0, 1)
	return true
}

// ended forgets a taker without callers, and reports whether it has.
func (l *Layer) ended(k *taker) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(k.callers) > 0 && !l.closed {
		return false
	}
	delete(l.takers, k.queue)
	l.wakes.Remove(k.queue) // before the next one's Add
	return true
}

// queueWaker is the receiver of what wakes takers.
type queueWaker struct{ layer *Layer }

func (queueWaker) Ready(context.Context, string) error { return nil }

func (w queueWaker) Deliver(p layer.Publication) { w.Lost([]string{p.Topic}) }

func (w queueWaker) Lost(queues []string) {
	w.layer.mu.Lock()
	defer w.layer.mu.Unlock()
	for _, queue := range queues {
		if k := w.layer.takers[queue]; k != nil {
			notify(k.wake)
		}
	}
}
