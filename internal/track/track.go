// Package track counts what has to end before its owner may.
package track

import (
	"context"
	"sync"
	"sync/atomic"
)

// Over is a context that has ended, for what must not wait.
var Over = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

// A Group counts goroutines and promises that somebody waits for.
type Group struct {
	n    atomic.Int64
	zero chan struct{} // a token when nothing is left
}

// NewGroup returns an empty group.
func NewGroup() *Group { return &Group{zero: make(chan struct{}, 1)} }

// Begin counts one more.
func (t *Group) Begin() { t.n.Add(1) }

// Done counts one less.
func (t *Group) Done() {
	if t.n.Add(-1) == 0 {
		t.signal()
	}
}

// Go runs f on a goroutine that is counted until it has returned.
func (t *Group) Go(f func()) {
	t.Begin()
	go func() {
		defer t.Done()
		f()
	}()
}

// GoDeep is Go for an f that needs a stack of some KiB. A goroutine begins with two; each
// doubling moves all that is on the stack by then, so it is made large while that is little.
func (t *Group) GoDeep(f func()) {
	t.Go(func() {
		growStack()
		f()
	})
}

// growStack makes room for a frame that it does not need any more when it returns.
//
//go:noinline
func growStack() {
	var room [2 << 10]byte
	used(&room)
}

//go:noinline
func used(*[2 << 10]byte) {}

// Wait returns when nothing is left, or with ctx's error.
func (t *Group) Wait(ctx context.Context) error {
	for t.n.Load() != 0 {
		select {
		case <-t.zero:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	t.signal() // for whoever else waits
	return nil
}

func (t *Group) signal() {
	select {
	case t.zero <- struct{}{}:
	default:
	}
}

// First remembers which keys it has seen, up to a number that keeps a stranger
// from filling the memory.
type First struct {
	mu   sync.Mutex
	seen map[string]struct{}
}

const maxSeen = 1000

// Is reports whether a key is new.
func (o *First) Is(key string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, ok := o.seen[key]; ok || len(o.seen) >= maxSeen {
		return false
	}
	if o.seen == nil {
		o.seen = make(map[string]struct{})
	}
	o.seen[key] = struct{}{}
	return true
}
