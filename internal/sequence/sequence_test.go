package sequence

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// doAfterAll notes how many publications are delivered when what was published is.
func (t *topic) doAfterAll(done *[]int) {
	t.DoAfter(numbered(t.history.Epoch, t.history.Last).At, func() { *done = append(*done, len(t.delivered)) })
}

func TestWhatIsDoneAfterHeldPublicationsWaitsForThem(t *testing.T) {
	live(t, hundred, func(s *topic) {
		var done []int
		s.doAfterAll(&done) // at once
		s.set(func() { s.latency = time.Second })
		s.publish(1, false)
		s.publish(1, true)
		s.doAfterAll(&done)
		s.expect(t, 0, 0)
		time.Sleep(3 * time.Second)
		synctest.Wait()
		s.doAfterAll(&done)
		if !slices.Equal(done, []int{0, 2, 2}) {
			t.Errorf("done after %v", done)
		}
	})
}

func TestWhatIsDoneAfterPublicationsThatHaveNotArrivedWaitsForThem(t *testing.T) {
	live(t, hundred, func(s *topic) {
		s.set(func() { s.latency = time.Second })
		var done []int
		s.publish(10, false)
		s.doAfterAll(&done)
		s.publish(1, true) // what comes after the position may come before it is done
		time.Sleep(3 * time.Second)
		synctest.Wait()
		s.publish(1, false)
		s.doAfterAll(&done)
		s.Receive(s.history.Kept[len(s.history.Kept)-1])
		if s.expect(t, 12, 0); !slices.Equal(done, []int{10, 12}) { // without another reading
			t.Errorf("done after %v", done)
		}
		// Nobody knows this position any more.
		s.DoAfter(numbered("B", 7).At, func() { done = append(done, -1) })
		time.Sleep(3 * time.Second)
		if synctest.Wait(); len(done) != 3 {
			t.Errorf("done after %v", done)
		}
	})
}

func TestWhatIsDoneAfterHeldPublicationsDoesNotWaitForAHistoryThatIsDown(t *testing.T) {
	live(t, hundred, func(s *topic) {
		s.set(func() { s.down = true })
		s.publish(1, false)
		s.publish(1, true)
		var done []int
		s.doAfterAll(&done)
		time.Sleep(maxPause)
		if synctest.Wait(); !slices.Equal(done, []int{0}) {
			t.Errorf("done after %v", done)
		}
	})
}
