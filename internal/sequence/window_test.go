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
