package grouphub

import (
	"context"
	"sync/atomic"
)

// A waitGroup counts goroutines, and promises that somebody waits for. Unlike a
// sync.WaitGroup it can be waited for until a context ends, and may grow meanwhile.
type waitGroup struct {
	count atomic.Int64
	zero  chan struct{} // holds a token when the count has come to zero
}

func newWaitGroup() *waitGroup { return &waitGroup{zero: make(chan struct{}, 1)} }

// begin adds one to the count.
func (g *waitGroup) begin() { g.count.Add(1) }

// done takes one off the count.
func (g *waitGroup) done() {
	if g.count.Add(-1) == 0 {
		g.signal()
	}
}

// Go runs f on a goroutine that counts until f has returned.
func (g *waitGroup) Go(f func()) {
	g.begin()
	go func() {
		defer g.done()
		f()
	}()
}

// goDeep is Go for an f that needs a stack of some KiB. A goroutine begins with two, and
// each doubling moves all that is on the stack by then, so the stack is made large while
// there is little on it.
func (g *waitGroup) goDeep(f func()) {
	g.Go(func() {
		growStack()
		f()
	})
}

// growStack makes room for a frame that is no longer needed when it returns.
//
//go:noinline
func growStack() {
	var room [2 << 10]byte
	useStack(&room)
}

//go:noinline
func useStack(*[2 << 10]byte) {}

// wait returns when the count is zero, or with ctx's error.
func (g *waitGroup) wait(ctx context.Context) error {
	for g.count.Load() != 0 {
		select {
		case <-g.zero:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	g.signal() // for whoever else waits
	return nil
}

func (g *waitGroup) signal() {
	select {
	case g.zero <- struct{}{}:
	default:
	}
}

// alreadyCancelled is a context that has ended: a call that is given it does what it can
// without waiting.
var alreadyCancelled = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()
