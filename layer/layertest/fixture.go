package layertest

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/seed-29c60982/grouphub/layer"
)

// A fixture has the two ends under test, and what every case does with them.
type fixture struct {
	pair
	t         testing.TB
	ctx       context.Context // ends when the case has taken too long
	newPair   func() pair     // for a case that needs another store
	receivers int             // attached so far
	closing   sync.Once
}

// close closes both ends and checks that Close reports no error.
func (f *fixture) close() {
	f.closing.Do(func() { f.closePair(f.pair) })
}

func (f *fixture) closePair(p pair) {
	if err := p.a.Close(); err != nil {
		f.t.Errorf("Close: %v", err)
	}
	if p.b == p.a {
		return
	}
	if err := p.b.Close(); err != nil {
		f.t.Errorf("Close: %v", err)
	}
}

// attach attaches a new receiver to a layer and subscribes it to topics.
func (f *fixture) attach(l layer.Layer, topics ...string) *receiver {
	f.t.Helper()
	f.receivers++
	h := newReceiver(f, fmt.Sprint("hub", f.receivers))
	s, err := l.Attach(h.name, h)
	if err != nil {
		f.t.Fatalf("Attach: %v", err)
	}
	h.Subscription = s
	h.add(topics...)
	return h
}

func (f *fixture) publish(l layer.Layer, topic, payload string) {
	f.t.Helper()
	if err := l.Publish(f.ctx, layer.Publication{Topic: topic, Payload: []byte(payload)}); err != nil {
		f.t.Fatalf("Publish: %v", err)
	}
}

// publishKept publishes what is numbered and kept.
func (f *fixture) publishKept(l layer.Layer, topic, payload string, keep layer.Keep) {
	f.t.Helper()
	if err := l.Publish(f.ctx, layer.Publication{Topic: topic, Payload: []byte(payload), Keep: keep}); err != nil {
		f.t.Fatalf("Publish: %v", err)
	}
}

// history returns the history after a number, and checks that it is one: all from
// there, or from the first that is kept, to the last.
func (f *fixture) history(l layer.Layer, topic string, after uint64) layer.History {
	f.t.Helper()
	h, err := l.History(f.ctx, topic, after)
	if err != nil {
		f.t.Fatalf("History: %v", err)
	}
	next := h.Last + 1 - uint64(len(h.Kept))
	if len(h.Kept) > 0 && next <= after {
		f.t.Errorf("History after %d begins with %d", after, next)
	}
	for _, p := range h.Kept {
		if p.Topic != topic || p.At.Number != next || p.At.Epoch != h.Epoch {
			f.t.Fatalf("History after %d of %q in epoch %q: %q at %+v, want number %d", after, topic, h.Epoch, p.Topic, p.At, next)
		}
		next++
	}
	return h
}

func (f *fixture) append(l layer.Layer, queue, message string) {
	f.t.Helper()
	if err := l.Append(f.ctx, queue, []byte(message)); err != nil {
		f.t.Fatalf("Append: %v", err)
	}
}

func (f *fixture) take(l layer.Layer, queue, want string) {
	f.t.Helper()
	message, err := l.Take(f.ctx, queue)
	if err != nil || string(message) != want {
		f.t.Fatalf("Take: %q, %v, want %q", message, err, want)
	}
}

// plenty keeps what a case publishes.
var plenty = layer.Keep{Count: 1000, Life: time.Minute}
