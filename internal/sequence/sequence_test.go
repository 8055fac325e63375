package sequence

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-29c60982/grouphub/layer"
)

// A topic is a layer's one topic, and what a sequence makes of it.
type topic struct {
	*Sequence[layer.Publication]
	end context.CancelFunc

	mu      sync.Mutex
	history layer.History
	latency time.Duration // of a read
	down    bool          // a read fails
	reading func()        // called while the history is read; nil: nothing is
	full    bool
	narrow  bool // each publication that is taken fills it
	reads   int
	taken   []string
	lost    int
}

var errDown = errors.New("down")

func newTopic(keep layer.Keep) *topic {
	ctx, cancel := context.WithCancel(context.Background())
	t := &topic{history: layer.History{Epoch: "A"}, end: cancel}
	locked := func(f func()) {
		t.mu.Lock()
		defer t.mu.Unlock()
		f()
	}
	t.Sequence = New(ctx, Source[layer.Publication]{
		Keep: keep,
		Read: func(_ context.Context, after uint64) (h layer.History, err error) {
			var latency time.Duration
			var reading func()
			locked(func() {
				t.reads++
				h, latency, reading = t.history, t.latency, t.reading
				h.Kept = slices.DeleteFunc(slices.Clone(h.Kept), func(p layer.Publication) bool { return p.At.Number <= after })
				if t.down {
					err = errDown
				}
			})
			if reading != nil {
				reading()
			}
			time.Sleep(latency)
			return h, err
		},
		Spawn: func(f func()) { go f() },
		Make:  func(p layer.Publication) (layer.Publication, bool) { return p, true },
		Take:  func(p layer.Publication) { locked(func() { t.taken = append(t.taken, ID(p.At)); t.full = t.narrow }) },
		Lost:  func() { locked(func() { t.lost++ }) },
		Full:  func() (full bool) { locked(func() { full = t.full }); return full },
		Wait: func(context.Context) error {
			for full := true; ; time.Sleep(time.Millisecond) {
				if locked(func() { full = t.full }); !full {
					return nil
				}
			}
		},
	})
	return t
}

// numbered is a publication as the layer numbers it.
func numbered(epoch string, number uint64) layer.Publication {
	return layer.Publication{At: layer.Position{Epoch: epoch, Number: number, Nonce: fmt.Sprint(epoch, number)}}
}

// keep has the layer number the next n publications, which are delivered or not.
func (t *topic) keep(n int, deliver bool) {
	for range n {
		t.mu.Lock()
		t.history.Last++
		p := numbered(t.history.Epoch, t.history.Last)
		p.Payload = make([]byte, 1000)
		t.history.Kept = append(t.history.Kept, p)
		t.mu.Unlock()
		if deliver {
			t.Receive(p)
		}
	}
}

// set changes what the layer does.
func (t *topic) set(change func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	change()
}

// expect fails unless so much was taken, in order, and lost, so often.
func (t *topic) expect(test *testing.T, taken, lost int) {
	test.Helper()
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.taken) != taken || t.lost != lost {
		test.Fatalf("%d taken and %d losses, want %d and %d", len(t.taken), t.lost, taken, lost)
	}
}

// holds returns what is held.
func (t *topic) holds() (n, bytes int) {
	t.Sequence.mu.Lock()
	defer t.Sequence.mu.Unlock()
	return len(t.held), t.bytes
}

// live starts the sequence after ten publications, inside a bubble.
func live(t *testing.T, keep layer.Keep, test func(s *topic)) {
	synctest.Test(t, func(t *testing.T) {
		s := newTopic(keep)
		s.keep(10, false)
		s.Start()
		synctest.Wait()
		s.expect(t, 0, 0)
		test(s)
		s.end()
		time.Sleep(maxPause)
	})
}

var hundred = layer.Keep{Count: 100, Life: time.Hour}

func TestALookIntoTheHistoryHoldsNothingUp(t *testing.T) {
	live(t, hundred, func(s *topic) {
		s.set(func() { s.latency = time.Second })
		for range 5 {
			s.Check(false)
			s.keep(1, true)
			time.Sleep(300 * time.Millisecond)
		}
		s.expect(t, 5, 0)
		synctest.Wait()
		time.Sleep(3 * time.Second)
		s.expect(t, 5, 0)
	})
}

func TestACheckWhileTheHistoryIsDownHoldsNothingUp(t *testing.T) {
	live(t, hundred, func(s *topic) {
		s.set(func() { s.down = true })
		s.Check(false)
		for range 10 {
			time.Sleep(time.Second)
			s.keep(1, true)
		}
		s.expect(t, 10, 0)
		// What is missing at the end is noticed when it is back.
		s.keep(2, false)
		s.set(func() { s.down = false })
		time.Sleep(maxPause)
		s.expect(t, 12, 0)
	})
}

func TestAReaderFromFurtherOnWaitsForOneRead(t *testing.T) {
	live(t, hundred, func(s *topic) {
		s.set(func() { s.latency = 10 * time.Millisecond })
		s.keep(3, false) // not here yet
		var group sync.WaitGroup
		for i := range 100 {
			time.Sleep(time.Millisecond)
			group.Go(func() {
				begun := time.Now()
				r := Replay{From: true, After: fmt.Sprintf("A.%d.", 13+i%2)}
				if err := s.CatchUp(context.Background(), r); err != nil {
					t.Error(err)
				}
				// The read under way, and then its own; a gap is read once more.
				if took := time.Since(begun); took > 40*time.Millisecond {
					t.Errorf("waited %v for reads of 10ms", took)
				}
			})
		}
		group.Wait()
		s.expect(t, 3, 0)
		if s.reads > 20 {
			t.Errorf("%d reads", s.reads)
		}
	})
}

func TestAReaderFromFurtherOnIsNotTurnedAwayByTheFirstRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTopic(hundred)
		s.keep(10, false)
		s.set(func() { s.latency = time.Second })
		s.Start()
		synctest.Wait()
		s.keep(2, false)
		r := Replay{From: true, After: "A.c.A12"}
		if err := s.CatchUp(context.Background(), r); err != nil {
			t.Fatal(err)
		}
		s.Piece(&r, 1, func(layer.Publication) int { return 1 }, func(p Piece[layer.Publication]) bool {
			if p.Lost || !p.Live {
				t.Errorf("got %+v", p)
			}
			return true
		})
		s.end()
		time.Sleep(maxPause)
	})
}

func TestALossThatALookFindsIsToldOnce(t *testing.T) {
	for name, lose := range map[string]func(s *topic){
		"the end is gone": func(s *topic) {
			s.history.Last = 8
			s.history.Kept = s.history.Kept[:8]
		},
		"numbers were given out again": func(s *topic) {
			s.history.Kept[9].At.Nonce = "other"
		},
		"the count began anew": func(s *topic) {
			s.history = layer.History{Epoch: "B", Last: 1, Kept: []layer.Publication{numbered("B", 1)}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			live(t, hundred, func(s *topic) {
				s.set(func() { lose(s); s.latency = time.Second })
				s.Check(true)
				synctest.Wait()
				s.keep(1, true) // held, or taken, and then not again
				time.Sleep(10 * time.Second)
				s.keep(1, true)
				synctest.Wait()
				if s.lost != 1 {
					t.Errorf("%d losses", s.lost)
				}
				if n := len(s.taken); n == 0 || slices.Contains(s.taken[:n-1], s.taken[n-1]) {
					t.Errorf("took %v", s.taken)
				}
			})
		})
	}
}

func TestNumbersGivenOutAgainBeforeACheckAreALossEvenIfTheNextOneFits(t *testing.T) {
	live(t, hundred, func(s *topic) {
		s.set(func() { s.history.Kept[9].At.Nonce = "other"; s.latency = time.Second })
		s.Check(true)
		s.keep(1, true) // in order, as it seems
		time.Sleep(10 * time.Second)
		s.expect(t, 1, 1)
	})
}

func TestWhatIsDoneAfterHeldPublicationsWaitsForThem(t *testing.T) {
	live(t, hundred, func(s *topic) {
		var done []int
		do := func() { s.Do(func() { done = append(done, len(s.taken)) }) }
		do() // at once
		s.set(func() { s.latency = time.Second })
		s.keep(1, false)
		s.keep(1, true)
		do()
		s.expect(t, 0, 0)
		time.Sleep(3 * time.Second)
		do()
		if !slices.Equal(done, []int{0, 2, 2}) {
			t.Errorf("done after %v", done)
		}
	})
}

func TestWhatIsDoneAfterHeldPublicationsDoesNotWaitForAHistoryThatIsDown(t *testing.T) {
	live(t, hundred, func(s *topic) {
		s.set(func() { s.down = true })
		s.keep(1, false)
		s.keep(1, true)
		var done atomic.Bool
		s.Do(func() { done.Store(true) })
		time.Sleep(maxPause)
		if !done.Load() {
			t.Error("it waits")
		}
	})
}

func TestHeldPublicationsThatAreTooManyAreReadAgain(t *testing.T) {
	live(t, layer.Keep{Count: 100_000, Life: time.Hour}, func(s *topic) {
		s.set(func() { s.latency = time.Second })
		s.keep(2, false)
		s.keep(2, true) // known when the read begins
		synctest.Wait()
		s.keep(maxHeld+20, true)
		time.Sleep(10 * time.Second)
		s.keep(1, true)
		s.expect(t, 4+maxHeld+20+1, 0)
	})
}

func TestHeldPublicationsThatAreTooLargeAreReadAgain(t *testing.T) {
	live(t, layer.Keep{Count: 100_000, Life: time.Hour}, func(s *topic) {
		s.set(func() { s.down = true })
		s.keep(1, false)
		for range maxHeldBytes / 1000 * 2 {
			s.keep(1, true)
			if n, bytes := s.holds(); bytes > maxHeldBytes || bytes != 1000*n {
				t.Fatalf("%d publications of %d bytes are held", n, bytes)
			}
		}
		s.set(func() { s.down = false })
		time.Sleep(maxPause)
		s.expect(t, 1+maxHeldBytes/1000*2, 0)
		if n, bytes := s.holds(); n != 0 || bytes != 0 {
			t.Errorf("%d publications of %d bytes are left", n, bytes)
		}
	})
}

func TestHeldPublicationsWaitForRoom(t *testing.T) {
	live(t, hundred, func(s *topic) {
		s.set(func() { s.latency = time.Second })
		s.keep(1, false)
		s.keep(1, true)
		synctest.Wait()
		s.keep(20, true) // not in what is being read
		s.set(func() { s.narrow = true })
		for taken := 1; taken <= 22; taken++ {
			time.Sleep(5 * time.Second)
			s.expect(t, taken, 0)
			s.set(func() { s.full = false })
		}
	})
}

func TestCommandsFromBeforeTheStartAreNotTakenAndAllOthersAre(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTopic(layer.Keep{})
		s.Commands = true
		s.keep(10, false)
		s.keep(1, true) // subscribed to by now
		s.set(func() { s.latency = time.Second })
		s.Start()
		s.keep(1, true) // in the history
		synctest.Wait()
		s.keep(1, true) // not in what is being read
		time.Sleep(10 * time.Second)
		s.expect(t, 3, 0)
		s.set(func() { s.history = layer.History{Epoch: "B"} })
		s.keep(2, false)
		s.Check(true)
		time.Sleep(10 * time.Second)
		s.expect(t, 5, 1)
		if want := []string{"A.b.A11", "A.c.A12", "A.d.A13", "B.1.B1", "B.2.B2"}; !slices.Equal(s.taken, want) {
			t.Errorf("took %q, want %q", s.taken, want)
		}
		s.end()
		time.Sleep(maxPause)
	})
}
