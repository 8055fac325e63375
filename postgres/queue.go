package postgres

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/seed-29c60982/grouphub/layer"
)

// takePoll is how often one who waits for a message looks without having been woken.
const takePoll = time.Second

// Append implements [layer.Layer].
func (l *Layer) Append(ctx context.Context, queue string, message []byte) error {
	message = append([]byte{}, message...) // it may be sent after the call has returned
	var added bool
	err := l.call(ctx, "append to", queue, func(ctx context.Context, conn *pgxpool.Conn) error {
		return conn.QueryRow(ctx, "SELECT grouphub_append($1, $2, $3, $4, $5, $6)", []byte(queue), message,
			int64(l.capacity), milliseconds(l.expiry), l.channel, wakeText(queue)).Scan(&added)
	})
	if err == nil && !added {
		return fmt.Errorf("%w: append to %q", layer.ErrQueueFull, queue)
	}
	return err
}

// wakeText is a notification that wakes who waits for a queue's messages.
func wakeText(queue string) string { return "0 w " + encodeName(queue) }

// Take implements [layer.Layer]. While it waits it holds no connection.
func (l *Layer) Take(ctx context.Context, queue string) ([]byte, error) {
	woken := make(chan struct{}, 1)
	name := encodeName(queue)
	if !l.addTaker(name, woken) {
		return nil, fmt.Errorf("%w: take from %q", layer.ErrClosed, queue)
	}
	defer l.removeTaker(name, woken)
	for {
		if message, _ := l.tryTake(ctx, queue); message != nil {
			return message, nil
		}
		poll := time.NewTimer(takePoll) // while the server is away, too
		select {
		case <-woken:
		case <-poll.C:
		case <-ctx.Done():
		case <-l.ctx.Done():
		}
		poll.Stop()
		if l.ctx.Err() != nil {
			return nil, fmt.Errorf("%w: take from %q", layer.ErrClosed, queue)
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("grouphub: take from %q: %w", queue, ctx.Err())
		}
	}
}

// errLeft undoes a transaction whose message nobody waits for any more.
var errLeft = errors.New("the caller has left")

// tryTake takes a message if there is one. It is deleted in a transaction that is committed
// only if the caller still waits: until then it is not lost, wherever the process ends.
func (l *Layer) tryTake(ctx context.Context, queue string) ([]byte, error) {
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	var state atomic.Int32
	type result struct {
		message []byte
		err     error
	}
	took := make(chan result, 1)
	started := l.start(func() {
		ctx, cancel := context.WithTimeout(l.ctx, callTimeout)
		defer cancel()
		var message []byte
		err := pgx.BeginFunc(ctx, l.pool, func(tx pgx.Tx) error {
			var found []byte
			err := tx.QueryRow(ctx, `DELETE FROM grouphub_queues WHERE queue = $1 AND id = (
				SELECT id FROM grouphub_queues WHERE queue = $1 AND until > clock_timestamp() ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED
			) RETURNING message`, []byte(queue)).Scan(&found)
			if err != nil {
				return err
			}
			if !state.CompareAndSwap(jobWaiting, jobTaken) {
				return errLeft
			}
			if message = found; message == nil {
				message = []byte{}
			}
			return nil
		})
		took <- result{message, err} // where the commit's end is unknown, somebody else may get it, too
		if errors.Is(err, errLeft) {
			l.wakeAll(queue) // who was woken has found the message locked
		}
	})
	if !started {
		return nil, layer.ErrClosed
	}
	select {
	case r := <-took:
		if errors.Is(r.err, pgx.ErrNoRows) {
			r.err = nil
		}
		return r.message, r.err
	case <-ctx.Done():
	case <-l.ctx.Done():
	}
	if state.CompareAndSwap(jobWaiting, jobLeft) {
		return nil, ctx.Err()
	}
	r := <-took
	return r.message, r.err
}

// wakeAll wakes the takers of a queue, in other processes, too.
func (l *Layer) wakeAll(queue string) {
	select {
	case l.jobs <- &job{head: "w " + encodeName(queue), result: make(chan error, 1)}:
	default: // they look by themselves before long
	}
}

func (l *Layer) addTaker(name string, woken chan struct{}) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	if l.takers[name] == nil {
		l.takers[name] = make(map[chan struct{}]struct{})
	}
	l.takers[name][woken] = struct{}{}
	return true
}

func (l *Layer) removeTaker(name string, woken chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.takers[name], woken)
	if len(l.takers[name]) == 0 {
		delete(l.takers, name)
	}
}

// wakeLocked wakes the takers of a queue in this process.
func (l *Layer) wakeLocked(name string) {
	for woken := range l.takers[name] {
		notify(woken)
	}
}

// notify leaves word in a channel that has room for one.
func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
