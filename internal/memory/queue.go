package memory

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/seed-29c60982/grouphub/layer"
)

const (
	queueCapacity = 100 // messages that wait in a queue
	queueExpiry   = 60 * time.Second
)

// A namedQueue has messages, or callers of Take that wait for one, and never both. It is
// forgotten when it has neither. Guarded by Layer.mu.
type namedQueue struct {
	messages []queuedMessage // oldest first
	takers   []chan []byte   // the callers that wait, longest first; each channel has room for one message
	expiry   *time.Timer     // removes the oldest message when it expires
}

// A queuedMessage is a message and the time at which it is dropped.
type queuedMessage struct {
	data    []byte
	expires time.Time
}

// Append implements [layer.Layer].
func (l *Layer) Append(_ context.Context, queue string, message []byte) error {
	message = bytes.Clone(message)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return fmt.Errorf("%w: append to %q", layer.ErrClosed, queue)
	}
	q := l.queueLocked(queue)
	switch {
	case len(q.takers) > 0:
		q.takers[0] <- message
		q.takers = slices.Delete(q.takers, 0, 1)
		l.settleLocked(q, queue)
	case len(q.messages) >= queueCapacity:
		return fmt.Errorf("%w: append to %q", layer.ErrQueueFull, queue)
	default:
		q.messages = append(q.messages, queuedMessage{message, time.Now().Add(queueExpiry)})
		l.settleLocked(q, queue)
	}
	return nil
}

// Take implements [layer.Layer]. Callers that wait are served in the order in which they came.
func (l *Layer) Take(ctx context.Context, queue string) ([]byte, error) {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil, fmt.Errorf("%w: take from %q", layer.ErrClosed, queue)
	}
	q := l.queueLocked(queue)
	if len(q.messages) > 0 {
		message := q.messages[0].data
		q.messages = slices.Delete(q.messages, 0, 1)
		l.settleLocked(q, queue)
		l.mu.Unlock()
		return message, nil
	}
	taker := make(chan []byte, 1)
	q.takers = append(q.takers, taker)
	l.mu.Unlock()

	var err error
	select {
	case message := <-taker:
		return message, nil
	case <-ctx.Done():
		err = fmt.Errorf("grouphub: take from %q: %w", queue, ctx.Err())
	case <-l.done:
		err = fmt.Errorf("%w: take from %q", layer.ErrClosed, queue)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case message := <-taker: // it was handed over in the same moment, and must not be lost
		return message, nil
	default:
	}
	q.takers = slices.DeleteFunc(q.takers, func(other chan []byte) bool { return other == taker })
	l.settleLocked(q, queue)
	return nil, err
}

// queueLocked returns the queue, without what has expired, and makes it if there is none.
// The caller adds a message or a taker to it, or calls settleLocked.
func (l *Layer) queueLocked(queue string) *namedQueue {
	q := l.queues[queue]
	if q == nil {
		q = &namedQueue{}
		q.expiry = time.AfterFunc(queueExpiry, func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			q.expireLocked()
			if !l.closed {
				l.settleLocked(q, queue)
			}
		})
		l.queues[queue] = q
	}
	q.expireLocked()
	return q
}

// expireLocked drops the messages that have expired.
func (q *namedQueue) expireLocked() {
	now := time.Now()
	for len(q.messages) > 0 && !now.Before(q.messages[0].expires) {
		q.messages = slices.Delete(q.messages, 0, 1)
	}
}

// settleLocked sets the timer for the oldest message, and forgets a queue that is empty.
func (l *Layer) settleLocked(q *namedQueue, queue string) {
	if len(q.messages) > 0 {
		q.expiry.Reset(time.Until(q.messages[0].expires))
		return
	}
	q.expiry.Stop()
	if len(q.takers) == 0 && l.queues[queue] == q {
		delete(l.queues, queue)
	}
}
