package strand_test

import (
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
)

func TestJobsRunInOrderOnceConnectHasReturned(t *testing.T) {
	inBubble(t, 1000, func(t *testing.T, b *bench) {
		b.event(t, 1, b.job(1))
		b.message(t, b.job(2))
		b.event(t, 1, b.job(3))
		b.wantRan(t) // it is Connect's turn
		b.Release()
		b.wantRan(t, 1, 2, 3)
		b.event(t, 1, b.job(4))
		b.message(t, b.job(5))
		b.wantRan(t, 1, 2, 3, 4, 5)
		b.wantIdle(t, 0)
	})
}

func TestJobsNeverRunAtTheSameTime(t *testing.T) {
	inBubble(t, 1<<20, func(t *testing.T, b *bench) {
		b.Release()
		var running atomic.Int32
		total := 0 // not guarded: the race detector looks
		run := func() {
			if running.Add(1) != 1 {
				t.Error("two jobs at the same time")
			}
			total++
			runtime.Gosched()
			running.Add(-1)
		}
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 200 {
					b.event(t, 1, run)
				}
			})
		}
		wg.Go(func() {
			for range 200 {
				b.message(t, run)
			}
		})
		wg.Wait()
		synctest.Wait()
		if total != 1800 {
			t.Errorf("%d jobs ran", total)
		}
	})
}

func TestEachCallersJobsKeepTheirOrder(t *testing.T) {
	inBubble(t, 1<<20, func(t *testing.T, b *bench) {
		b.Release()
		const callers, each = 4, 300
		var wg sync.WaitGroup
		for c := range callers {
			wg.Go(func() {
				for n := range each {
					b.event(t, 1, b.job(c*each+n))
					if rand.IntN(4) == 0 {
						runtime.Gosched()
					}
				}
			})
		}
		wg.Wait()
		synctest.Wait()
		next := make([]int, callers)
		for _, n := range b.ran {
			if c := n / each; n%each != next[c] {
				t.Fatalf("caller %d: ran %d, want %d", c, n%each, next[c])
			}
			next[n/each]++
		}
	})
}

func TestTheReaderIsOneMessageAhead(t *testing.T) {
	inBubble(t, 1000, func(t *testing.T, b *bench) {
		b.Release()
		proceed := b.block(t)
		b.message(t, b.job(1)) // waits for its turn
		var second atomic.Bool
		go func() {
			b.message(t, b.job(2))
			second.Store(true)
		}()
		synctest.Wait()
		if second.Load() {
			t.Error("Message has not waited while another one is waiting")
		}
		// Events do not care.
		b.event(t, 1, b.job(3))
		proceed()
		b.wantRan(t, 1, 3, 2)
	})
}

func TestMessageThatWaitsIsRefusedByClose(t *testing.T) {
	inBubble(t, 1000, func(t *testing.T, b *bench) {
		b.message(t, b.job(1))
		refused := make(chan bool)
		go func() { refused <- !b.Message(b.job(2)) }()
		synctest.Wait()
		if n := b.Close(); n != 0 {
			t.Errorf("%d events dropped", n)
		}
		if !<-refused {
			t.Error("Message was taken")
		}
		b.Release()
		b.wantRan(t)
	})
}

func TestEventsAreBoundedInBytes(t *testing.T) {
	inBubble(t, 500, func(t *testing.T, b *bench) { // each has some overhead
		b.event(t, 60, b.job(1))
		b.event(t, 241, b.job(2))
		b.message(t, b.job(3)) // messages count for nothing
		if ok, full := b.Event(1, b.job(4)); ok || !full {
			t.Errorf("Event past the limit: ok %v, full %v", ok, full)
		}
		b.Release()
		b.wantRan(t, 1, 2, 3)
		// There is room again, and the one that runs holds none.
		proceed := b.block(t)
		b.event(t, 300, b.job(5))
		proceed()
		b.wantRan(t, 1, 2, 3, 5)
	})
}

func TestWhetherThereIsRoomIsKnownBefore(t *testing.T) {
	inBubble(t, 1000, func(t *testing.T, b *bench) {
		if !b.HasRoom(10, 1_000_000) {
			t.Error("an empty strand has no room")
		}
		b.event(t, 100, b.job(1)) // 300 with its overhead
		for _, test := range []struct {
			events, bytes int
			want          bool
		}{{1, 500, true}, {1, 501, false}, {3, 100, true}, {3, 101, false}} {
			if got := b.HasRoom(test.events, test.bytes); got != test.want {
				t.Errorf("room for %d events of %d bytes: %v", test.events, test.bytes, got)
			}
		}
		b.event(t, 500, b.job(2))
		if b.HasRoom(1, 0) {
			t.Error("a full strand has room")
		}
		b.Release()
		b.wantRan(t, 1, 2)
		if !b.HasRoom(10, 1_000_000) {
			t.Error("an empty strand has no room")
		}
	})
}

func TestSingleEventOfAnySizeIsTaken(t *testing.T) {
	inBubble(t, 100, func(t *testing.T, b *bench) {
		b.event(t, 1_000_000, b.job(1))
		if ok, full := b.Event(1, b.job(2)); ok || !full {
			t.Errorf("Event behind it: ok %v, full %v", ok, full)
		}
		b.Release()
		b.wantRan(t, 1)
	})
}

func TestCloseDropsWhatWaitsAndTakesNoMore(t *testing.T) {
	inBubble(t, 1000, func(t *testing.T, b *bench) {
		b.Release()
		proceed := b.block(t)
		b.event(t, 1, b.job(1))
		b.message(t, b.job(2))
		b.event(t, 1, b.job(3))
		if n := b.Close(); n != 2 {
			t.Errorf("%d events dropped, want 2", n)
		}
		if ok, full := b.Event(1, b.job(4)); ok || full {
			t.Errorf("Event: ok %v, full %v", ok, full)
		}
		if b.Message(b.job(5)) {
			t.Error("Message is taken")
		}
		if n, ok := b.Drain(); n != 0 || ok {
			t.Errorf("Drain: %d, %v", n, ok)
		}
		if n := b.Close(); n != 0 {
			t.Errorf("%d events dropped by the second Close", n)
		}
		proceed()
		b.wantRan(t)
		b.wantIdle(t, 0)
	})
}

func TestLastRunsBehindTheJobThatRuns(t *testing.T) {
	inBubble(t, 1000, func(t *testing.T, b *bench) {
		b.Release()
		ch := make(chan struct{})
		b.event(t, 0, func() { <-ch; b.job(1)() })
		synctest.Wait()
		b.event(t, 1, b.job(2))
		b.message(t, b.job(3))
		if n := b.Last(b.job(9)); n != 1 {
			t.Errorf("%d events dropped, want 1", n)
		}
		b.wantRan(t) // Last does not wait
		if n := b.Close(); n != 0 {
			t.Errorf("%d events dropped, want none", n)
		}
		close(ch)
		b.wantRan(t, 1, 9)
	})
	for name, early := range map[string]bool{"before Connect has returned": true, "on an idle strand": false} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, 1000, func(t *testing.T, b *bench) {
				if !early {
					b.Release()
				}
				b.Last(b.job(9))
				if early {
					b.wantRan(t)
					b.Release()
				}
				b.wantRan(t, 9)
			})
		})
	}
}

func TestDrainHandlesTheMessagesThatAreThere(t *testing.T) {
	inBubble(t, 1000, func(t *testing.T, b *bench) {
		b.Release()
		proceed := b.block(t)
		b.event(t, 1, b.job(1))
		b.message(t, b.job(2))
		b.event(t, 1, b.job(3))
		if n, ok := b.Drain(); n != 2 || !ok {
			t.Errorf("Drain: %d, %v, want 2, true", n, ok)
		}
		if ok, full := b.Event(1, b.job(4)); ok || full {
			t.Errorf("Event: ok %v, full %v", ok, full)
		}
		b.wantIdle(t, 0)
		proceed()
		b.wantRan(t, 2)
		b.wantIdle(t, 1)
		b.Last(b.job(9))
		b.wantRan(t, 2, 9)
		b.wantIdle(t, 1)
	})
}

func TestDrainOfAnIdleStrandIsIdleAtOnce(t *testing.T) {
	inBubble(t, 1000, func(t *testing.T, b *bench) {
		b.Release()
		if n, ok := b.Drain(); n != 0 || !ok || b.idle.Load() != 1 {
			t.Errorf("Drain: %d, %v, idle was called %d times", n, ok, b.idle.Load())
		}
	})
}

func TestDrainDuringConnectIsIdleWhenItReturns(t *testing.T) {
	inBubble(t, 1000, func(t *testing.T, b *bench) {
		b.message(t, b.job(1))
		b.Drain()
		b.wantIdle(t, 0)
		b.Release()
		b.wantRan(t, 1)
		b.wantIdle(t, 1)
	})
}

func TestCloseAfterDrainMeansThatIdleIsNotCalled(t *testing.T) {
	inBubble(t, 1000, func(t *testing.T, b *bench) {
		b.Release()
		proceed := b.block(t)
		b.Drain()
		b.Last(b.job(9))
		proceed()
		b.wantRan(t, 9)
		b.wantIdle(t, 0)
	})
}

// A callback, and idle, may call anything.
func TestJobsMayUseTheirStrand(t *testing.T) {
	inBubble(t, 1000, func(t *testing.T, b *bench) {
		b.Release()
		b.event(t, 1, func() {
			b.job(1)()
			b.event(t, 1, b.job(2))
			b.message(t, b.job(3))
		})
		b.wantRan(t, 1, 2, 3)
		b.event(t, 1, func() {
			b.job(4)()
			b.Drain()
			b.Last(b.job(9))
		})
		b.wantRan(t, 1, 2, 3, 4, 9)
	})
	synctest.Test(t, func(t *testing.T) {
		b := &bench{}
		b.onIdle = func() { b.Last(b.job(9)) }
		b.Init(b)
		b.message(t, b.job(1))
		b.Drain()
		b.Release()
		b.wantRan(t, 1, 9)
	})
}

func TestJobThatEndsItsGoroutineDoesNotEndTheStrand(t *testing.T) {
	inBubble(t, 1000, func(t *testing.T, b *bench) {
		b.event(t, 1, runtime.Goexit)
		b.event(t, 1, b.job(1))
		b.message(t, runtime.Goexit)
		b.Release()
		b.wantRan(t, 1)
		// Whoever counts goroutines must not take it for the end.
		if n := b.rests.Load(); n != 1 {
			t.Errorf("no goroutine was counted %d times, want once", n)
		}
		b.Last(runtime.Goexit)
		b.wantRan(t, 1)
	})
}

func TestGoexitInTheLastMessageStillDrains(t *testing.T) {
	inBubble(t, 1000, func(t *testing.T, b *bench) {
		b.message(t, runtime.Goexit)
		b.Drain()
		b.Release()
		b.wantIdle(t, 1)
	})
}

func TestGoroutineLivesWhileThereIsWork(t *testing.T) {
	inBubble(t, 10_000, func(t *testing.T, b *bench) {
		b.Release()
		if n := b.spawned.Load(); n != 0 {
			t.Errorf("%d goroutines for no work", n)
		}
		proceed := b.block(t)
		for n := range 10 {
			b.event(t, 1, b.job(n))
		}
		proceed()
		synctest.Wait()
		if n := b.spawned.Load(); n != 1 {
			t.Errorf("%d goroutines for one stretch of work", n)
		}
		if n := b.running.Load(); n != 0 {
			t.Errorf("%d goroutines while there is none", n)
		}
		b.event(t, 1, b.job(10))
		synctest.Wait()
		if n := b.spawned.Load(); n != 2 {
			t.Errorf("%d goroutines for two stretches of work", n)
		}
	})
}

func TestEventsWithoutTextAreBoundedToo(t *testing.T) {
	const limit = 1 << 20
	inBubble(t, limit, func(t *testing.T, b *bench) {
		n := 0
		for ; n <= limit; n++ {
			if ok, full := b.Event(0, func() {}); full {
				break
			} else if !ok {
				t.Fatal("refused, and not for the limit")
			}
		}
		// Each holds a job and a callback at least.
		if n > limit/100 {
			t.Errorf("%d events wait in %d bytes", n, limit)
		}
		b.Release()
	})
}

func TestCloseWhileMessagesAreDrainedDropsThemAndIsIdle(t *testing.T) {
	inBubble(t, 1000, func(t *testing.T, b *bench) {
		b.Release()
		proceed := b.block(t)
		b.message(t, b.job(1))
		b.Drain()
		b.Close()
		b.wantIdle(t, 0)
		proceed()
		b.wantRan(t)
		b.wantIdle(t, 1)
		b.Last(b.job(9))
		b.wantRan(t, 9)
		b.wantIdle(t, 1)
	})
}

func TestClosedStrandSaysWhetherItWasFull(t *testing.T) {
	inBubble(t, 100, func(t *testing.T, b *bench) {
		b.event(t, 101, b.job(1))
		for range 2 {
			if ok, full := b.Event(1, b.job(2)); ok || !full {
				t.Errorf("Event past the limit: ok %v, full %v", ok, full)
			}
			b.Close()
		}
		b.Release()
	})
}

func TestMessageThatIsTriedIsRefusedWhereTooMuchWaits(t *testing.T) {
	inBubble(t, 1000, func(t *testing.T, b *bench) {
		try := func(size int) (ok, full bool) { return b.TryMessage(size, b.job(1)) }
		if ok, full := try(5000); !ok || full { // one of any size is taken
			t.Errorf("the first: %v, %v", ok, full)
		}
		if ok, full := try(1); ok || !full {
			t.Errorf("one too many: %v, %v", ok, full)
		}
		b.Release()
		b.wantRan(t, 1)
		if ok, full := try(1); !ok || full {
			t.Errorf("when there is room again: %v, %v", ok, full)
		}
		b.wantRan(t, 1, 1)
		b.Close()
		if ok, full := try(1); ok || full {
			t.Errorf("after Close: %v, %v", ok, full)
		}
	})
}
