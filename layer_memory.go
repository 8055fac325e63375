package grouphub

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/seed-29c60982/grouphub/internal/gate"
)

// What a named channel holds unless RedisOptions say otherwise.
const (
	defaultQueueCapacity = 100
	defaultQueueExpiry   = 60 * time.Second
)

// A MemoryLayer connects the hubs of one process. It runs no goroutine, and keeps
// nothing of a topic without subscribers or of a queue without messages.
//
// A publication goes to every subscriber or to none: Publish waits until all of them
// have room, one publisher of a topic at a time. Where nobody has to wait it does not
// look at its context. A queue holds 100 messages, each for 60 seconds.
type MemoryLayer struct {
	done chan struct{} // closed by Close

	mu            sync.Mutex // never held while a receiver is called
	closed        bool
	subscriptions map[*memorySubscription]struct{}
	topics        map[string]*memoryTopic
	queues        map[string]*memoryQueue
}

// NewMemoryLayer returns a layer for the hubs that are given it.
func NewMemoryLayer() *MemoryLayer {
	return &MemoryLayer{
		done:          make(chan struct{}),
		subscriptions: make(map[*memorySubscription]struct{}),
		topics:        make(map[string]*memoryTopic),
		queues:        make(map[string]*memoryQueue),
	}
}

// memoryTopic lives as long as it has subscribers or publishers: were it made anew
// under a publisher, two would call one receiver at the same time.
type memoryTopic struct {
	turn chan struct{} // holds a token while a publisher has its turn

	// Guarded by MemoryLayer.mu.
	subscribers []*memorySubscription // replaced, never changed: publishers keep it
	publishers  int
}

// Attach implements [Layer].
func (l *MemoryLayer) Attach(hub string, r Receiver) (Subscription, error) {
	s := &memorySubscription{layer: l, receiver: r, topics: make(map[string]struct{})}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, fmt.Errorf("%w: attach %q", ErrClosed, hub)
	}
	l.subscriptions[s] = struct{}{}
	s.addLocked(hub)
	return s, nil
}

// Publish implements [Layer].
func (l *MemoryLayer) Publish(ctx context.Context, p Publication) error {
	t, err := l.enter(p.Topic)
	if t == nil {
		return err
	}
	defer l.leave(t, p.Topic)
	// Nearly always nobody has to wait, and then a timer would be most of the cost.
	if l.publish(over, t, p) == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, layerTimeout)
	defer cancel()
	return l.publish(ctx, t, p)
}

// over is a context that has ended: with it, publish does not wait.
var over = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

// enter returns the topic and keeps it alive until leave, or returns nil if it has no
// subscribers.
func (l *MemoryLayer) enter(topic string) (*memoryTopic, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, fmt.Errorf("%w: publish to %q", ErrClosed, topic)
	}
	t := l.topics[topic]
	if t != nil {
		t.publishers++
	}
	return t, nil
}

func (l *MemoryLayer) leave(t *memoryTopic, topic string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t.publishers--
	l.forgetLocked(t, topic)
}

func (l *MemoryLayer) forgetLocked(t *memoryTopic, topic string) {
	if len(t.subscribers) == 0 && t.publishers == 0 {
		delete(l.topics, topic)
	}
}

// publish waits for its turn and for room, no longer than ctx, and then delivers.
func (l *MemoryLayer) publish(ctx context.Context, t *memoryTopic, p Publication) error {
	select {
	case t.turn <- struct{}{}:
	default:
		select {
		case t.turn <- struct{}{}:
		case <-ctx.Done():
			return fmt.Errorf("%w: publish to %q: %w", ErrUnavailable, p.Topic, ctx.Err())
		case <-l.done:
			return fmt.Errorf("%w: publish to %q", ErrClosed, p.Topic)
		}
	}
	defer func() { <-t.turn }()

	l.mu.Lock()
	subscribers := t.subscribers
	l.mu.Unlock()
	for _, s := range subscribers {
		if err := s.ready(ctx, p.Topic); err != nil {
			return fmt.Errorf("%w: publish to %q: %w", ErrUnavailable, p.Topic, err)
		}
	}
	select {
	case <-l.done:
		return fmt.Errorf("%w: publish to %q", ErrClosed, p.Topic)
	default:
	}
	p.Payload = bytes.Clone(p.Payload) // the receivers keep it, the caller's is the caller's
	for _, s := range subscribers {
		s.deliver(p)
	}
	return nil
}

// Close implements [Layer].
func (l *MemoryLayer) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return fmt.Errorf("%w: close the memory layer", ErrClosed)
	}
	l.closed = true
	close(l.done)
	var subscriptions []*memorySubscription
	for s := range l.subscriptions {
		subscriptions = append(subscriptions, s)
	}
	for _, q := range l.queues {
		q.expiry.Stop()
	}
	clear(l.queues)
	l.mu.Unlock()
	for _, s := range subscriptions {
		s.Close()
	}
	return nil
}

// memorySubscription is one hub on a memory layer.
type memorySubscription struct {
	layer    *MemoryLayer
	receiver Receiver
	ctx      context.Context // ends with the subscription
	cancel   context.CancelFunc
	gate     gate.Gate // what calls the receiver passes it

	topics map[string]struct{} // guarded by layer.mu
}

// Add implements [Subscription].
func (s *memorySubscription) Add(_ context.Context, topics ...string) error {
	s.layer.mu.Lock()
	defer s.layer.mu.Unlock()
	if _, ok := s.layer.subscriptions[s]; !ok {
		return fmt.Errorf("%w: subscribe to %q", ErrClosed, topics)
	}
	for _, topic := range topics {
		s.addLocked(topic)
	}
	return nil
}

func (s *memorySubscription) addLocked(topic string) {
	if _, ok := s.topics[topic]; ok {
		return
	}
	s.topics[topic] = struct{}{}
	t := s.layer.topics[topic]
	if t == nil {
		t = &memoryTopic{turn: make(chan struct{}, 1)}
		s.layer.topics[topic] = t
	}
	t.subscribers = append(slices.Clip(t.subscribers), s)
}

// Remove implements [Subscription].
func (s *memorySubscription) Remove(topics ...string) {
	s.layer.mu.Lock()
	defer s.layer.mu.Unlock()
	for _, topic := range topics {
		s.removeLocked(topic)
	}
}

func (s *memorySubscription) removeLocked(topic string) {
	if _, ok := s.topics[topic]; !ok {
		return
	}
	delete(s.topics, topic)
	t := s.layer.topics[topic]
	t.subscribers = slices.DeleteFunc(slices.Clone(t.subscribers), func(other *memorySubscription) bool { return other == s })
	s.layer.forgetLocked(t, topic)
}

// Up implements [Subscription].
func (s *memorySubscription) Up() bool { return s.ctx.Err() == nil }

// Close implements [Subscription].
func (s *memorySubscription) Close() error {
	s.layer.mu.Lock()
	delete(s.layer.subscriptions, s)
	for topic := range s.topics {
		s.removeLocked(topic)
	}
	s.layer.mu.Unlock()
	s.cancel()
	s.gate.Shut()
	return nil
}

// ready waits for room. A subscription that has ended, or ends meanwhile, has room.
func (s *memorySubscription) ready(ctx context.Context, topic string) error {
	if !s.gate.Enter() {
		return nil
	}
	defer s.gate.Leave()
	if ctx != over {
		var cancel context.CancelFunc
		ctx, cancel = context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(s.ctx, cancel)()
	}
	err := s.receiver.Ready(ctx, topic)
	if s.ctx.Err() != nil {
		return nil
	}
	return err
}

func (s *memorySubscription) deliver(p Publication) {
	if !s.gate.Enter() {
		return
	}
	defer s.gate.Leave()
	s.receiver.Deliver(p)
}

// memoryQueue is a named channel. It exists while it has messages or takers, never
// both. Guarded by MemoryLayer.mu.
type memoryQueue struct {
	messages []memoryMessage // oldest first
	takers   []chan []byte   // who waits, longest first; each holds one message
	expiry   *time.Timer     // removes the oldest message
}

type memoryMessage struct {
	data    []byte
	expires time.Time
}

// Append implements [Layer].
func (l *MemoryLayer) Append(_ context.Context, queue string, message []byte) error {
	message = bytes.Clone(message)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return fmt.Errorf("%w: append to %q", ErrClosed, queue)
	}
	q := l.queueLocked(queue)
	switch {
	case len(q.takers) > 0:
		q.takers[0] <- message
		q.takers = slices.Delete(q.takers, 0, 1)
		l.settleLocked(q, queue)
	case len(q.messages) >= defaultQueueCapacity:
		return fmt.Errorf("%w: append to %q", ErrQueueFull, queue)
	default:
		q.messages = append(q.messages, memoryMessage{message, time.Now().Add(defaultQueueExpiry)})
		l.settleLocked(q, queue)
	}
	return nil
}

// Take implements [Layer]. Callers that wait are served in the order they came.
func (l *MemoryLayer) Take(ctx context.Context, queue string) ([]byte, error) {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil, fmt.Errorf("%w: take from %q", ErrClosed, queue)
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
		err = fmt.Errorf("%w: take from %q", ErrClosed, queue)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case message := <-taker: // handed over in the same moment: it must not get lost
		return message, nil
	default:
	}
	q.takers = slices.DeleteFunc(q.takers, func(other chan []byte) bool { return other == taker })
	l.settleLocked(q, queue)
	return nil, err
}

// queueLocked returns the queue without what has expired, making it if need be. The
// caller puts something in, or settles it.
func (l *MemoryLayer) queueLocked(queue string) *memoryQueue {
	q := l.queues[queue]
	if q == nil {
		q = &memoryQueue{}
		q.expiry = time.AfterFunc(defaultQueueExpiry, func() {
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

func (q *memoryQueue) expireLocked() {
	now := time.Now()
	for len(q.messages) > 0 && !now.Before(q.messages[0].expires) {
		q.messages = slices.Delete(q.messages, 0, 1)
	}
}

// settleLocked sets the timer for the oldest message, and forgets an idle queue.
func (l *MemoryLayer) settleLocked(q *memoryQueue, queue string) {
	if len(q.messages) > 0 {
		q.expiry.Reset(time.Until(q.messages[0].expires))
		return
	}
	q.expiry.Stop()
	if len(q.takers) == 0 && l.queues[queue] == q {
		delete(l.queues, queue)
	}
}
