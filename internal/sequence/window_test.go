package sequence

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-29c60982/grouphub/layer"
)

func TestAReplayHasNoMoreThanTheLayerKeeps(t *testing.T) {
	live(t, hundred, func(s *topic) {
		s.set(func() { s.history.Kept = nil }) // its time is over
		s.Reconcile(false)
		synctest.Wait()
		if p := s.replay(&Replay{Last: 10}, 1000); len(p.Values) != 0 || p.Resync {
			t.Errorf("got %+v", p)
		}
		s.publish(1, true)
		s.Reconcile(false)
		synctest.Wait()
		if p := s.replay(&Replay{Last: 10}, 1000); len(p.Values) != 1 || p.Resync {
			t.Errorf("got %+v", p)
		}
		// What came while the history was read may be kept.
		s.set(func() { s.history.Kept, s.latency = nil, time.Second })
		s.Reconcile(false)
		synctest.Wait()
		s.publish(1, true)
		time.Sleep(10 * time.Second)
		if p := s.replay(&Replay{Last: 10}, 1000); len(p.Values) == 0 || p.Resync {
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
		s.publish(3, true)
		kept(5)
		large := numbered("A", 14)
		large.Payload = make([]byte, 6000)
		s.Receive(large)
		kept(1) // the last one stays
		s.history.Last = 14
		s.publish(3, true)
		kept(3)
		s.Receive(numbered("B", 1)) // none of the others counts any more
		s.set(func() { s.history = layer.History{Epoch: "B", Last: 1} })
		s.publish(7, true)
		kept(5)
		s.expect(t, 3+1+3+1+7, 0)
	})
}

func TestNothingIsReplayedThatIsOlderThanItsLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTopic(layer.Keep{Count: 100, Life: time.Minute})
		s.publish(3, false)
		for i := range s.history.Kept {
			s.history.Kept[i].Age = 30 * time.Second
		}
		s.Start()
		synctest.Wait()
		s.publish(2, true)
		for _, step := range []struct {
			after  time.Duration
			values int
		}{{29 * time.Second, 5}, {time.Second, 2}, {29 * time.Second, 2}, {time.Second, 0}} {
			time.Sleep(step.after)
			if p := s.replay(&Replay{Last: 10}, 1000); len(p.Values) != step.values || p.Resync {
				t.Errorf("got %+v, want %d", p, step.values)
			}
		}
		// The last position is still known, and the one before is followed by what is gone.
		for number, resync := range map[uint64]bool{5: false, 4: true} {
			if p := s.replay(&Replay{From: true, After: ID(numbered("A", number).At)}, 1000); p.Resync != resync {
				t.Errorf("after %d got %+v", number, p)
			}
		}
		s.end()
		time.Sleep(maxPause)
	})
}
