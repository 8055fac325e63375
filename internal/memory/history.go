package memory

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"time"

	"github.com/seed-29c60982/grouphub/layer"
)

const (
	// countLife is how long after the last publication the count is kept. While it is there,
	// the epoch stays the same.
	countLife = 24 * time.Hour
	// unusedLife is how long an epoch is kept in which nothing was published.
	unusedLife = time.Hour
)

// A keptHistory is what the layer keeps of a topic. Guarded by Layer.mu.
type keptHistory struct {
	layer.History
	times []time.Time         // when those in Kept were kept
	bytes int                 // of the payloads in Kept together
	until time.Time           // when Kept is dropped
	count time.Time           // when the count is dropped, and the epoch with it
	once  map[string]struct{} // the Keep.Once keys that may not be used again yet
	sent  []sentOnce          // the same keys, oldest first
	next  *time.Timer         // calls expire at the next of these times
}

// A sentOnce is a key that may not be used again before a time.
type sentOnce struct {
	key   string
	until time.Time
}

// keep numbers a publication and keeps it. It reports false, and does nothing, if the
// publication has a key that was used before.
func (l *Layer) keep(t *topicState, p *layer.Publication) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	h, now, topic := t.history, time.Now(), p.Topic
	if h == nil {
		h = l.beginHistoryLocked(t, topic)
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
	h.Nonce = newNonce()
	p.At = layer.Position{Epoch: h.Epoch, Number: h.Last, Nonce: h.Nonce}
	h.Kept, h.times = append(h.Kept, *p), append(h.times, now)
	h.bytes += len(p.Payload)
	for len(h.Kept) > p.Keep.Count || p.Keep.Bytes > 0 && h.bytes > p.Keep.Bytes && len(h.Kept) > 1 {
		h.bytes -= len(h.Kept[0].Payload)
		h.Kept[0] = layer.Publication{} // the array outlives the slice, and would keep the payload
		h.Kept, h.times = h.Kept[1:], h.times[1:]
	}
	h.until, h.count = now.Add(p.Keep.Life), now.Add(max(countLife, p.Keep.Life))
	h.next.Reset(p.Keep.Life)
	return true
}

// beginHistoryLocked begins an epoch of a topic that has none.
func (l *Layer) beginHistoryLocked(t *topicState, topic string) *keptHistory {
	start := newNonce()
	h := &keptHistory{
		History: layer.History{Epoch: rand.Text(), Start: start, Nonce: start},
		count:   time.Now().Add(unusedLife),
		once:    make(map[string]struct{}),
	}
	h.next = time.AfterFunc(unusedLife, func() { l.expire(t, h, topic) })
	t.history = h
	return h
}

// newNonce returns what nobody can guess, of letters and digits.
func newNonce() string { return rand.Text()[:12] }

// forgetOnce drops the keys that may be used again by now.
func (h *keptHistory) forgetOnce(now time.Time) {
	for len(h.sent) > 0 && !now.Before(h.sent[0].until) {
		delete(h.once, h.sent[0].key)
		h.sent = h.sent[1:]
	}
}

// expire drops first what was kept, then the keys, then the count with its epoch, each when
// its time has come. A timer may fire just before another publication is kept; then expire
// finds that it is too early, or that the history is another one.
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
	h.Kept, h.times, h.bytes = nil, nil, 0
	h.forgetOnce(now)
	switch {
	case len(h.sent) > 0:
		h.next.Reset(h.sent[0].until.Sub(now))
	case now.Before(h.count):
		h.next.Reset(h.count.Sub(now))
	case len(t.subscribers) > 0:
		h.next.Reset(unusedLife)
	default:
		t.history = nil
		l.forgetLocked(t, topic)
	}
}

// Positions implements [layer.Positioner].
func (l *Layer) Positions(_ context.Context, topics []string) ([]layer.Position, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, fmt.Errorf("%w: positions of %d topics", layer.ErrClosed, len(topics))
	}
	positions := make([]layer.Position, len(topics))
	for i, topic := range topics {
		if t := l.topics[topic]; t != nil && t.history != nil {
			h := &t.history.History
			positions[i] = layer.Position{Epoch: h.Epoch, Number: h.Last, Nonce: h.Nonce}
		}
	}
	return positions, nil
}

// History implements [layer.Layer].
func (l *Layer) History(_ context.Context, topic string, after uint64) (layer.History, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return layer.History{}, fmt.Errorf("%w: history of %q", layer.ErrClosed, topic)
	}
	t := l.topics[topic]
	if t == nil {
		t = l.addTopicLocked(topic)
	}
	if t.history == nil {
		l.beginHistoryLocked(t, topic)
	} else if t.history.Last == 0 {
		t.history.count = time.Now().Add(unusedLife)
	}
	h := t.history.History
	first := h.Last - uint64(len(h.Kept)) + 1
	from := min(uint64(len(h.Kept)), max(after+1, first)-first)
	h.Kept = slices.Clone(h.Kept[from:])
	for i := range h.Kept {
		h.Kept[i].Age = time.Since(t.history.times[from:][i])
	}
	return h, nil
}
