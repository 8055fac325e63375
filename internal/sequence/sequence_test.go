package sequence

import (
	"slices"
	"sync/atomic"
	"testing"
	"time"
)

func TestWhatIsDoneAfterHeldPublicationsWaitsForThem(t *testing.T) {
	live(t, hundred, func(s *topic) {
		var done []int
		do := func() { s.Do(func() { done = append(done, len(s.delivered)) }) }
		do() // at once
		s.set(func() { s.latency = time.Second })
		s.publish(1, false)
		s.publish(1, true)
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
		s.publish(1, false)
		s.publish(1, true)
		var done atomic.Bool
		s.Do(func() { done.Store(true) })
		time.Sleep(maxPause)
		if !done.Load() {
			t.Error("it waits")
		}
	})
}
