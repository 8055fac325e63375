package sequence

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-29c60982/grouphub/layer"
)

// replay takes one piece of about n publications.
func (t *topic) replay(r *Replay, n int) (piece Piece[layer.Publication]) {
	t.Piece(r, n, func(layer.Publication) int { return 1 }, func(p Piece[layer.Publication]) bool {
		piece = p
		return true
	})
	return piece
}

func TestAReplayEndsWhenTheCountBeginsAnewBetweenItsPieces(t *testing.T) {
	live(t, hundred, func(s *topic) {
		r := Replay{Last: 10}
		if p := s.replay(&r, 5); len(p.Values) != 5 || p.Live || p.Lost {
			t.Fatalf("got %+v", p)
		}
		s.Receive(numbered("B", 1)) // nothing is missing, for those who are live
		if p := s.replay(&r, 5); !p.Live || !p.Lost {
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
		"with publications":        {func(s *topic) { s.keep(3, true); time.Sleep(59 * time.Minute) }, false, 3},
		"later than they are kept": {func(s *topic) { s.keep(3, true); time.Sleep(time.Hour) }, true, 0},
		"more than are kept":       {func(s *topic) { s.keep(101, true) }, true, 0},
		"a count that has begun anew": {func(s *topic) {
			s.keep(3, true)
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
				if p := s.replay(&r, 1000); p.Lost != c.lost || len(p.Values) != c.values || !p.Live {
					t.Errorf("after %q got %+v", ID(at), p)
				}
				for _, made := range []string{".0.", ".0.?", ".0.0"} {
					if p := s.replay(&Replay{From: true, After: made}, 1); !p.Lost {
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
		s.Check(true)
		synctest.Wait()
		s.expect(t, 0, 1)
		time.Sleep(time.Second)
		at := s.replay(&Replay{}, 1).At
		s.set(func() { s.history.Epoch = "B" })
		s.keep(3, true)
		r := Replay{From: true, After: ID(at)}
		if p := s.replay(&r, 1000); p.Lost || len(p.Values) != 3 {
			t.Errorf("after %q got %+v", ID(at), p)
		}
	})
}

func TestAReplayHasNoMoreThanTheLayerKeeps(t *testing.T) {
	live(t, hundred, func(s *topic) {
		s.set(func() { s.history.Kept = nil }) // its time is over
		s.Check(false)
		synctest.Wait()
		if p := s.replay(&Replay{Last: 10}, 1000); len(p.Values) != 0 || p.Lost {
			t.Errorf("got %+v", p)
		}
		s.keep(1, true)
		s.Check(false)
		synctest.Wait()
		if p := s.replay(&Replay{Last: 10}, 1000); len(p.Values) != 1 || p.Lost {
			t.Errorf("got %+v", p)
		}
		// What came while the history was read may be kept.
		s.set(func() { s.history.Kept, s.latency = nil, time.Second })
		s.Check(false)
		synctest.Wait()
		s.keep(1, true)
		time.Sleep(10 * time.Second)
		if p := s.replay(&Replay{Last: 10}, 1000); len(p.Values) == 0 || p.Lost {
			t.Errorf("got %+v", p)
		}
		s.expect(t, 2, 0)
	})
}

func TestWhatIsKeptForReplaysIsBoundedInBytes(t *testing.T) {
	live(t, layer.Keep{Count: 100, Bytes: 5500, Life: time.Hour}, func(s *topic) {
		kept := func(want int) {
			t.Helper()
			if p := s.replay(&Replay{Last: 100}, 1000); len(p.Values) != want {
				t.Errorf("%d are kept, want %d", len(p.Values), want)
			}
		}
		kept(5) // of a thousand bytes each
		s.keep(3, true)
		kept(5)
		large := numbered("A", 14)
		large.Payload = make([]byte, 6000)
		s.Receive(large)
		kept(1) // the last one stays
		s.history.Last = 14
		s.keep(3, true)
		kept(3)
		s.Receive(numbered("B", 1)) // none of the others counts any more
		s.set(func() { s.history = layer.History{Epoch: "B", Last: 1} })
		s.keep(7, true)
		kept(5)
		s.expect(t, 3+1+3+1+7, 0)
	})
}
