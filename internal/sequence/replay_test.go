package sequence

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-29c60982/grouphub/layer"
)

func TestAReaderFromFurtherOnWaitsForOneRead(t *testing.T) {
	live(t, hundred, func(s *topic) {
		s.set(func() { s.latency = 10 * time.Millisecond })
		s.publish(3, false) // not here yet
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
		s.publish(10, false)
		s.set(func() { s.latency = time.Second })
		s.Start()
		synctest.Wait()
		s.publish(2, false)
		r := Replay{From: true, After: "A.c.A12"}
		if err := s.CatchUp(context.Background(), r); err != nil {
			t.Fatal(err)
		}
		s.Piece(&r, 1, func(layer.Publication) int { return 1 }, func(p Piece[layer.Publication]) bool {
			if p.Resync || !p.Live {
				t.Errorf("got %+v", p)
			}
			return true
		})
		s.end()
		time.Sleep(maxPause)
	})
}

func TestAReplayEndsWhenTheCountBeginsAnewBetweenItsPieces(t *testing.T) {
	live(t, hundred, func(s *topic) {
		r := Replay{Last: 10}
		if p := s.replay(&r, 5); len(p.Values) != 5 || p.Live || p.Resync {
			t.Fatalf("got %+v", p)
		}
		s.Receive(numbered("B", 1)) // nothing is missing, for those who are live
		if p := s.replay(&r, 5); !p.Live || !p.Resync {
			t.Fatalf("got %+v", p)
		}
		s.expect(t, 1, 0)
	})
}

func TestAPositionBeforeTheFirstPublicationIsGoodForAsLongAsNothingIsForgotten(t *testing.T) {
	for name, c := range map[string]struct {
		meanwhile func(s *topic)
		lost      bool
		values    int
	}{
		"at once":                  {func(s *topic) {}, false, 0},
		"with publications":        {func(s *topic) { s.publish(3, true); time.Sleep(59 * time.Minute) }, false, 3},
		"later than they are kept": {func(s *topic) { s.publish(3, true); time.Sleep(time.Hour) }, true, 0},
		"more than are kept":       {func(s *topic) { s.publish(101, true) }, true, 0},
		"a count that has begun anew": {func(s *topic) {
			s.publish(3, true)
			s.Receive(numbered("B", 1))
		}, true, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newTopic(hundred)
				s.history.Epoch = "" // nothing was ever sent
				s.Start()
				synctest.Wait()
				at := s.replay(&Replay{}, 1).At
				time.Sleep(time.Second)
				s.set(func() { s.history.Epoch = "A" })
				c.meanwhile(s)
				r := Replay{From: true, After: ID(at)}
				if p := s.replay(&r, 1000); p.Resync != c.lost || len(p.Values) != c.values || !p.Live {
					t.Errorf("after %q got %+v", ID(at), p)
				}
				for _, made := range []string{".0.", ".0.?", ".0.0"} {
					if p := s.replay(&Replay{From: true, After: made}, 1); !p.Resync {
						t.Errorf("after %q got %+v", made, p)
					}
				}
				s.end()
				time.Sleep(maxPause)
			})
		})
	}
}

func TestAPositionBeforeTheFirstPublicationIsGoodAfterALossBeforeIt(t *testing.T) {
	live(t, hundred, func(s *topic) {
		s.set(func() { s.history = layer.History{} })
		s.Reconcile(true)
		synctest.Wait()
		s.expect(t, 0, 1)
		time.Sleep(time.Second)
		at := s.replay(&Replay{}, 1).At
		s.set(func() { s.history.Epoch = "B" })
		s.publish(3, true)
		r := Replay{From: true, After: ID(at)}
		if p := s.replay(&r, 1000); p.Resync || len(p.Values) != 3 {
			t.Errorf("after %q got %+v", ID(at), p)
		}
	})
}
