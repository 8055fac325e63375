// Package memory is the channel layer in memory: grouphub.Layer, whose documentation
// says what is promised.
package memory

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/seed-29c60982/grouphub/internal/gate"
	"github.com/seed-29c60982/grouphub/layer"
)

const (
	callTimeout   = 5 * time.Second
	queueCapacity = 100
	queueExpiry   = 60 * time.Second
	// countLife is how long after the last publication the count is kept: while it is
	// there, the epoch stays the same.
	countLife = 24 * time.Hour
)

// A Layer is the inside of a grouphub.MemoryLayer.
type Layer struct {
	done chan struct{} // closed by Close

	mu            sync.Mutex // never held while a receiver is called
	closed        bool
	subscriptions map[*Subscription]struct{}
	topics        map[string]*topicState
	queues        map[string]*namedQueue
	leases        map[string]map[string]heldLease // by topic, then by holder
}

// New returns a layer.
func New() *Layer {
	return &Layer{
		done:          make(chan struct{}),
		subscriptions: make(map[*Subscription]struct{}),
		topics:        make(map[string]*topicState),
		queues:        make(map[string]*namedQueue),
		leases:        make(map[string]map[string]heldLease),
	}
}

// InUse returns how many topics and queues the layer has in memory.
func (l *Layer) InUse() (topics, queues int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.topics), len(l.queues)
}

// topicState lives as long as it has subscribers or publishers: were it made anew
// under a publisher, two would call one receiver at the same time.
type topicState struct {
	turn chan struct{} // holds a token while a publisher has its turn

	// Guarded by Layer.mu.
	subscribers []*Subscription // replaced, never changed: publishers keep it
	publishers  int
	history     *keptHistory // nil if nothing is kept
}

// keptHistory is what is kept of a topic. Guarded by Layer.mu.
type keptHistory struct {
	layer.History
	bytes int       // of the payloads that are kept
	until time.Time // when they go
	count time.Time // when the count goes
	once  map[string]struct{}
	sent  []sentOnce  // the keys of once, oldest first
	next  *time.Timer // drops what has had its time, and in the end the topic
}

type sentOnce struct {
	key   string
	until time.Time
}

// Attach is as in [grouphub.Layer].
func (l *Layer) Attach(hub string, r layer.Receiver) (layer.Subscription, error) {
	s := &Subscription{layer: l, receiver: r, topics: make(map[string]struct{})}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, fmt.Errorf("%w: attach %q", layer.ErrClosed, hub)
	}
	l.subscriptions[s] = struct{}{}
	s.addLocked(hub)
	return s, nil
}

// Publish is as in [grouphub.Layer].
func (l *Layer) Publish(ctx context.Context, p layer.Publication) error {
	t, err := l.enter(p.Topic, p.Keep.Count > 0)
	if t == nil {
		return err
	}
	defer l.leave(t, p.Topic)
	// Nearly always nobody has to wait, and then a timer would be most of the cost.
	if l.publish(over, t, p) == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
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
// subscribers and is not to be made.
func (l *Layer) enter(topic string, create bool) (*topicState, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, fmt.Errorf("%w: publish to %q", layer.ErrClosed, topic)
	}
	t := l.topics[topic]
	if t == nil && create {
		t = l.addTopicLocked(topic)
	}
	if t != nil {
		t.publishers++
	}
	return t, nil
}

func (l *Layer) addTopicLocked(topic string) *topicState {
	t := &topicState{turn: make(chan struct{}, 1)}
	l.topics[topic] = t
	return t
}

func (l *Layer) leave(t *topicState, topic string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t.publishers--
	l.forgetLocked(t, topic)
}

func (l *Layer) forgetLocked(t *topicState, topic string) {
	if len(t.subscribers) == 0 && t.publishers == 0 && t.history == nil {
		delete(l.topics, topic)
	}
}

// publish waits for its turn and for room, no longer than ctx, and then delivers.
func (l *Layer) publish(ctx context.Context, t *topicState, p layer.Publication) error {
	select {
	case t.turn <- struct{}{}:
	default:
		select {
		case t.turn <- struct{}{}:
		case <-ctx.Done():
			return fmt.Errorf("%w: publish to %q: %w", layer.ErrUnavailable, p.Topic, ctx.Err())
		case <-l.done:
			return fmt.Errorf("%w: publish to %q", layer.ErrClosed, p.Topic)
		}
	}
	defer func() { <-t.turn }()

	l.mu.Lock()
	subscribers := t.subscribers
	l.mu.Unlock()
	for _, s := range subscribers {
		if err := s.ready(ctx, p.Topic); err != nil {
			return fmt.Errorf("%w: publish to %q: %w", layer.ErrUnavailable, p.Topic, err)
		}
	}
	select {
	case <-l.done:
		return fmt.Errorf("%w: publish to %q", layer.ErrClosed, p.Topic)
	default:
	}
	p.Payload = bytes.Clone(p.Payload) // the receivers keep it, the caller's is the caller's
	if p.Keep.Count > 0 && !l.keep(t, &p) {
		return nil
	}
	for _, s := range subscribers {
		s.deliver(p)
	}
	return nil
}

// keep numbers and keeps a publication. It reports whether it is a new one.
func (l *Layer) keep(t *topicState, p *layer.Publication) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	h, now, topic := t.history, time.Now(), p.Topic
	if h == nil {
		h = &keptHistory{History: layer.History{Epoch: rand.Text()}, once: make(map[string]struct{})}
		h.next = time.AfterFunc(p.Keep.Life, func() { l.expire(t, h, topic) })
		t.history = h
	}
	if key := p.Keep.Once; key != "" {
		h.forgetOnce(now)
		if _, sent := h.once[key]; sent {
			return false
		}
		h.once[key] = struct{}{}
		h.sent = append(h.sent, sentOnce{key, now.Add(layer.OnceLife)})
	}
	h.Last++
	p.At = layer.Position{Epoch: h.Epoch, Number: h.Last} // numbers are not given out again, so no nonce
	h.Kept = append(h.Kept, *p)
	h.bytes += len(p.Payload)
	for len(h.Kept) > p.Keep.Count || p.Keep.Bytes > 0 && h.bytes > p.Keep.Bytes && len(h.Kept) > 1 {
		h.bytes -= len(h.Kept[0].Payload)
		h.Kept[0] = layer.Publication{} // or the array would keep it
		h.Kept = h.Kept[1:]
	}
	h.until, h.count = now.Add(p.Keep.Life), now.Add(max(countLife, p.Keep.Life))
	h.next.Reset(p.Keep.Life)
	return true
}

// forgetOnce drops the keys that may be used again.
func (h *keptHistory) forgetOnce(now time.Time) {
	for len(h.sent) > 0 && !now.Before(h.sent[0].until) {
		delete(h.once, h.sent[0].key)
		h.sent = h.sent[1:]
	}
}

// expire drops what has had its time. A timer that fires while a publication is kept
// finds that it is too early.
func (l *Layer) expire(t *topicState, h *keptHistory, topic string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if l.closed || t.history != h {
		return
	}
	if now.Before(h.until) {
		h.next.Reset(h.until.Sub(now))
		return
	}
	h.Kept, h.bytes = nil, 0
	h.forgetOnce(now)
	switch {
	case len(h.sent) > 0:
		h.next.Reset(h.sent[0].until.Sub(now))
	case now.Before(h.count):
		h.next.Reset(h.count.Sub(now))
	case len(t.subscribers) > 0:
		h.next.Reset(countLife)
	default:
		t.history = nil
		l.forgetLocked(t, topic)
	}
}

// History is as in [grouphub.Layer].
func (l *Layer) History(_ context.Context, topic string, after uint64) (layer.History, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return layer.History{}, fmt.Errorf("%w: history of %q", layer.ErrClosed, topic)
	}
	t := l.topics[topic]
	if t == nil || t.history == nil {
		return layer.History{}, nil
	}
	h := t.history.History
	first := h.Last - uint64(len(h.Kept)) + 1
	h.Kept = slices.Clone(h.Kept[min(uint64(len(h.Kept)), max(after+1, first)-first):])
	return h, nil
}

// heldLease is a holder's value for a topic.
type heldLease struct {
	value []byte
	ends  time.Time
}

// Lease is as in [grouphub.Layer].
func (l *Layer) Lease(_ context.Context, topic, holder string, value []byte, life time.Duration) (bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false, fmt.Errorf("%w: lease %q", layer.ErrClosed, topic)
	}
	held := l.leases[topic]
	maps.DeleteFunc(held, func(_ string, lease heldLease) bool { return !lease.ends.After(time.Now()) })
	lease, ok := held[holder]
	if value != nil {
		lease.value, ok = bytes.Clone(value), true
	}
	switch {
	case life <= 0:
		delete(held, holder)
		ok = true
	case ok:
		if held == nil {
			held = make(map[string]heldLease)
			l.leases[topic] = held
		}
		lease.ends = time.Now().Add(life)
		held[holder] = lease
	}
	if len(held) == 0 {
		delete(l.leases, topic)
	}
	return ok, nil
}

// Leases is as in [grouphub.Layer].
func (l *Layer) Leases(_ context.Context, topic string) (map[string][]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, fmt.Errorf("%w: leases of %q", layer.ErrClosed, topic)
	}
	values := make(map[string][]byte)
	for holder, lease := range l.leases[topic] {
		if lease.ends.After(time.Now()) {
			values[holder] = bytes.Clone(lease.value)
		}
	}
	return values, nil
}

// Close is as in [grouphub.Layer].
func (l *Layer) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return fmt.Errorf("%w: close the memory layer", layer.ErrClosed)
	}
	l.closed = true
	close(l.done)
	var subscriptions []*Subscription
	for s := range l.subscriptions {
		subscriptions = append(subscriptions, s)
	}
	for _, q := range l.queues {
		q.expiry.Stop()
	}
	clear(l.queues)
	for _, t := range l.topics {
		if t.history != nil {
			t.history.next.Stop()
		}
	}
	l.mu.Unlock()
	for _, s := range subscriptions {
		s.Close()
	}
	return nil
}

// Subscription is one hub on a memory layer.
type Subscription struct {
	layer    *Layer
	receiver layer.Receiver
	ctx      context.Context // ends with the subscription
	cancel   context.CancelFunc
	gate     gate.Gate // what calls the receiver passes it

	topics map[string]struct{} // guarded by layer.mu
}

// Add is as in [grouphub.Subscription].
func (s *Subscription) Add(_ context.Context, topics ...string) error {
	s.layer.mu.Lock()
	defer s.layer.mu.Unlock()
	if _, ok := s.layer.subscriptions[s]; !ok {
		return fmt.Errorf("%w: subscribe to %q", layer.ErrClosed, topics)
	}
	for _, topic := range topics {
		s.addLocked(topic)
	}
	return nil
}

func (s *Subscription) addLocked(topic string) {
	if _, ok := s.topics[topic]; ok {
		return
	}
	s.topics[topic] = struct{}{}
	t := s.layer.topics[topic]
	if t == nil {
		t = s.layer.addTopicLocked(topic)
	}
	t.subscribers = append(slices.Clip(t.subscribers), s)
}

// Remove is as in [grouphub.Subscription].
func (s *Subscription) Remove(topics ...string) {
	s.layer.mu.Lock()
	defer s.layer.mu.Unlock()
	for _, topic := range topics {
		s.removeLocked(topic)
	}
}

func (s *Subscription) removeLocked(topic string) {
	if _, ok := s.topics[topic]; !ok {
		return
	}
	delete(s.topics, topic)
	t := s.layer.topics[topic]
	t.subscribers = slices.DeleteFunc(slices.Clone(t.subscribers), func(other *Subscription) bool { return other == s })
	s.layer.forgetLocked(t, topic)
}

// Up is as in [grouphub.Subscription].
func (s *Subscription) Up() bool { return s.ctx.Err() == nil }

// Close is as in [grouphub.Subscription].
func (s *Subscription) Close() error {
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
func (s *Subscription) ready(ctx context.Context, topic string) error {
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

func (s *Subscription) deliver(p layer.Publication) {
	if !s.gate.Enter() {
		return
	}
	defer s.gate.Leave()
	s.receiver.Deliver(p)
}

// namedQueue is a named channel. It exists while it has messages or takers, never
// both. Guarded by Layer.mu.
type namedQueue struct {
	messages []queuedMessage // oldest first
	takers   []chan []byte   // who waits, longest first; each holds one message
	expiry   *time.Timer     // removes the oldest message
}

type queuedMessage struct {
	data    []byte
	expires time.Time
}

// Append is as in [grouphub.Layer].
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

// Take is as in [grouphub.Layer]. Callers that wait are served in the order they came.
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

func (q *namedQueue) expireLocked() {
	now := time.Now()
	for len(q.messages) > 0 && !now.Before(q.messages[0].expires) {
		q.messages = slices.Delete(q.messages, 0, 1)
	}
}

// settleLocked sets the timer for the oldest message, and forgets an idle queue.
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
