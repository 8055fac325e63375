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
				r := Replay{From: true, After: fmt.Sprintf("A.%c.A%d", "de"[i%2], 13+i%2)}
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
		if p := s.replay(&r, 1); p.Resync || !p.Last {
			t.Errorf("got %+v", p)
		}
		s.end()
		time.Sleep(maxPause)
	})
}

func TestAReplayEndsWhenTheCountBeginsAnewBetweenItsPieces(t *testing.T) {
	live(t, hundred, func(s *topic) {
		r := Replay{Last: 10}
		if p := s.replay(&r, 5); len(p.Values) != 5 || p.Last || p.Resync {
			t.Fatalf("got %+v", p)
		}
		s.Receive(numbered("B", 1)) // nothing is missing, for those who are live
		if p := s.replay(&r, 5); !p.Last || !p.Resync {
			t.Fatalf("got %+v", p)
		}
		s.expect(t, 1, 0)
	})
}

func TestAPositionBeforeTheFirstPublicationIsGoodForAsLongAsNothingIsForgotten(t *testing.T) {
	for name, c := range map[string]struct {
		meanwhile func(s *topic)
		resync    bool
		values    int
	}{
		"at once":           {func(s *topic) {}, false, 0},
		"with publications": {func(s *topic) { s.publish(3, true) }, false, 3},
		"later than they are kept": {func(s *topic) {
			s.publish(3, true)
			s.set(func() { s.history.Kept = nil })
			s.Reconcile(false)
		}, true, 0},
		"more than are kept": {func(s *topic) { s.publish(101, true) }, true, 0},
		"a count that has begun anew": {func(s *topic) {
			s.publish(3, true)
			s.Receive(numbered("B", 1))
		}, true, 0},
		"another store": {func(s *topic) {
			s.set(func() { s.history = emptyHistory("B") })
			s.publish(2, false)
			s.Reconcile(true)
		}, true, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newTopic(hundred)
				s.Start()
				synctest.Wait()
				at := s.replay(&Replay{}, 1).At
				c.meanwhile(s)
				synctest.Wait()
				r := Replay{From: true, After: ID(at)}
				if p := s.replay(&r, 1000); p.Resync != c.resync || len(p.Values) != c.values || !p.Last {
					t.Errorf("after %q got %+v", ID(at), p)
				}
				s.end()
				time.Sleep(maxPause)
			})
		})
	}
}

func TestAPositionBeforeTheFirstPublicationIsGoodAfterALossBeforeIt(t *testing.T) {
	live(t, hundred, func(s *topic) {
		s.set(func() { s.history = emptyHistory("B") })
		s.Reconcile(true)
		synctest.Wait()
		s.expect(t, 0, 1)
		at := s.replay(&Replay{}, 1).At
		s.publish(3, true)
		r := Replay{From: true, After: ID(at)}
		if p := s.replay(&r, 1000); p.Resync || len(p.Values) != 3 {
			t.Errorf("after %q got %+v", ID(at), p)
		}
	})
}

func TestAPositionThatWasNeverGivenOutReplaysNothing(t *testing.T) {
	live(t, layer.Keep{Count: 5, Life: time.Hour}, func(s *topic) { // 6 to 10 are kept
		for _, made := range []string{
			"", ".", "..", "A", "A..", ".0.", ".0.A0", ".0.0", "A.0.", "A.0.A0", "A.4.A4", "A.5.", "A.5.A0", "A.5.A6", "A.9.", "A.9.A8",
			"A.a.", "A.a.A9", "A.b.", "A.b.A10", "B.9.A9", "A.-1.A9", "A.9.A9.", "A.9.a9", "A.zzzzzzzzzzzzz.A9",
		} {
			r := Replay{From: true, After: made}
			if p := s.replay(&r, 1000); !p.Resync || len(p.Values) != 0 || !p.Last {
				t.Errorf("after %q got %+v", made, p)
			}
		}
		for number, values := range map[uint64]int{5: 5, 6: 4, 9: 1, 10: 0} {
			r := Replay{From: true, After: ID(numbered("A", number).At)}
			if p := s.replay(&r, 1000); p.Resync || len(p.Values) != values {
				t.Errorf("after %q got %+v, want %d", r.After, p, values)
			}
		}
	})
}

func TestAReplayEndsWithWhatHasComeSinceItsLastPiece(t *testing.T) {
	live(t, hundred, func(s *topic) {
		r := Replay{Last: 3}
		p := s.Next(&r, 1000, one)
		s.publish(2, true)
		if s.Enter(&r, &p, 1, one, func([]layer.Publication) bool { return true }) {
			t.Error("entered behind more than the limit")
		}
		if s.Enter(&r, &p, 2, one, func([]layer.Publication) bool { return false }) {
			t.Error("entered though that was refused")
		}
		if p.At.Number != 10 || len(p.Values) != 3 {
			t.Errorf("a piece that was not entered with has changed: %+v", p)
		}
		entered := s.Enter(&r, &p, 2, one, func(more []layer.Publication) bool { return len(more) == 2 })
		if !entered || p.At != numbered("A", 12).At || len(p.Values) != 5 || p.Values[4].At.Number != 12 {
			t.Errorf("entered: %v, %+v", entered, p)
		}
		enters := func(when string) {
			if s.Enter(&r, &p, 1000, one, func([]layer.Publication) bool { return true }) {
				t.Errorf("entered though %s", when)
			}
		}
		p = s.Next(&r, 1000, one)
		s.publish(101, true)
		enters("the window has moved on")
		p = s.Next(&r, 1000, one)
		s.Receive(numbered("B", 1))
		enters("the count has begun anew")
	})
}
