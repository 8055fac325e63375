package strand_test

import (
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/seed-29c60982/grouphub/internal/strand"
)

// A bench is a strand with what its tests look at. All tests run in a bubble, so that
// synctest.Wait waits until the strand has nothing to do or a job blocks.
type bench struct {
	strand.Strand
	idle    atomic.Int32 // calls of idle
	onIdle  func()
	limit   int
	running atomic.Int32 // goroutines that Spawn has started
	spawned atomic.Int32
	rests   atomic.Int32 // how often running has fallen to zero

	mu  sync.Mutex
	ran []int
}

func inBubble(t *testing.T, limit int, test func(t *testing.T, b *bench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := &bench{}
		b.limit = limit
		b.Init(b)
		test(t, b)
		synctest.Wait()
		if n := b.running.Load(); n != 0 {
			t.Errorf("%d goroutines are left", n)
		}
	})
}

func (b *bench) Wait(taken <-chan struct{}) { <-taken }

func (b *bench) Limit() int { return b.limit }

func (b *bench) Idle() {
	b.idle.Add(1)
	if b.onIdle != nil {
		b.onIdle()
	}
}

func (b *bench) Spawn(f func()) {
	b.spawned.Add(1)
	b.running.Add(1)
	go func() {
		defer func() {
			if b.running.Add(-1) == 0 {
				b.rests.Add(1)
			}
		}()
		f()
	}()
}

// job returns a job that notes its number.
func (b *bench) job(n int) func() {
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.ran = append(b.ran, n)
	}
}

func (b *bench) wantRan(t *testing.T, want ...int) {
	t.Helper()
	synctest.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	if !slices.Equal(b.ran, want) {
		t.Errorf("ran %v, want %v", b.ran, want)
	}
}

func (b *bench) wantIdle(t *testing.T, want int32) {
	t.Helper()
	synctest.Wait()
	if got := b.idle.Load(); got != want {
		t.Errorf("idle was called %d times, want %d", got, want)
	}
}

func (b *bench) event(t *testing.T, size int, run func()) {
	t.Helper()
	if ok, full := b.Event(size, run); !ok || full {
		t.Errorf("Event: ok %v, full %v", ok, full)
	}
}

func (b *bench) message(t *testing.T, run func()) {
	t.Helper()
	if !b.Message(run) {
		t.Error("Message is refused")
	}
}

// block occupies the strand until the returned function is called.
func (b *bench) block(t *testing.T) (proceed func()) {
	t.Helper()
	ch := make(chan struct{})
	b.event(t, 0, func() { <-ch })
	synctest.Wait()
	return func() { close(ch) }
}
