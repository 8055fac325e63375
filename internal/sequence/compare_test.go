package sequence

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-29c60982/grouphub/layer"
)

// at returns the layer's position.
func (t *topic) at() layer.Position {
	t.mu.Lock()
	defer t.mu.Unlock()
	return layer.Position{Epoch: t.history.Epoch, Number: t.history.Last, Nonce: t.history.Nonce}
}

// compare compares the sequence with the layer's position, and returns how often the history was read for that.
func (t *topic) compare() (reads int) {
	before := t.reads
	t.Compare(t.Position(), t.at())
	synctest.Wait()
	return t.reads - before
}

func TestAComparisonReadsTheHistoryOfWhatIsNotWhereItWas(t *testing.T) {
	for name, c := range map[string]struct {
		begun, at         layer.Position // in place of those that are right, if not zero
		change            func(s *topic)
		reads             bool
		delivered, losses int
	}{
		"nothing has changed":            {},
		"all has arrived":                {change: func(s *topic) { s.publish(3, true) }, delivered: 3},
		"some arrived meanwhile":         {begun: numbered("A", 10).At, change: func(s *topic) { s.publish(3, true) }, delivered: 3},
		"and was not there yet":          {begun: numbered("A", 10).At, at: numbered("A", 11).At, change: func(s *topic) { s.publish(3, true) }, delivered: 3},
		"the last is missing":            {change: func(s *topic) { s.publish(1, false) }, reads: true, delivered: 1},
		"an epoch began and has arrived": {change: func(s *topic) { s.set(func() { s.history = emptyHistory("B") }); s.publish(2, true) }, delivered: 2},
		"an epoch began":                 {change: func(s *topic) { s.set(func() { s.history = emptyHistory("B") }) }, reads: true},
		"and the first is missing":       {change: func(s *topic) { s.set(func() { s.history = emptyHistory("B") }); s.publish(1, false) }, reads: true, delivered: 1},
		"an epoch began meanwhile": {begun: numbered("A", 10).At,
			change: func(s *topic) { s.set(func() { s.history = emptyHistory("B") }); s.publish(20, true) }, reads: true, delivered: 20},
		"the layer has gone back": {change: func(s *topic) {
			s.set(func() { s.history.Last, s.history.Nonce, s.history.Kept = 8, "A8", s.history.Kept[:8] })
		}, reads: true, losses: 1},
		"and so far again": {change: func(s *topic) {
			s.set(func() { s.history.Nonce, s.history.Kept[9].At.Nonce = "other", "other" })
		}, reads: true, losses: 1},
		"the position is unknown": {at: layer.Position{Epoch: "none"}, reads: true},
		"the nonce is unknown":    {at: layer.Position{Epoch: "A", Number: 10}, reads: true},
		"no nonce is known": {at: layer.Position{Epoch: "A", Number: 10},
			change: func(s *topic) { s.Sequence.mu.Lock(); s.last.Nonce = ""; s.Sequence.mu.Unlock() }, reads: true},
		"it is not the sequence's": {change: func(s *topic) { s.Sequence.mu.Lock(); s.last.Nonce = ""; s.Sequence.mu.Unlock() }, reads: true},
	} {
		t.Run(name, func(t *testing.T) {
			live(t, hundred, func(s *topic) {
				if c.change != nil {
					c.change(s)
				}
				begun, at := s.Position(), s.at()
				if c.begun != (layer.Position{}) {
					begun = c.begun
				}
				if c.at != (layer.Position{}) {
					at = c.at
				}
				before := s.reads
				s.Compare(begun, at)
				time.Sleep(maxPause)
				synctest.Wait()
				if read := s.reads > before; read != c.reads {
					t.Errorf("the history was read %d times", s.reads-before)
				}
				s.expect(t, c.delivered, c.losses)
				if s.compare() != 0 {
					t.Error("the history is read once more")
				}
			})
		})
	}
}

func TestAComparisonOfASequenceThatIsNotLiveReadsTheHistory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTopic(hundred)
		s.Compare(s.Position(), s.at())
		synctest.Wait()
		if s.reads != 0 {
			t.Error("the history was read before Start")
		}
		s.set(func() { s.down = true })
		s.Start()
		synctest.Wait()
		s.set(func() { s.down = false })
		s.Compare(layer.Position{}, layer.Position{})
		time.Sleep(maxPause)
		synctest.Wait()
		if s.compare() != 0 {
			t.Error("the history is read though it has been")
		}
		s.set(func() { s.down = true })
		s.publish(1, false)
		s.publish(1, true) // held
		synctest.Wait()
		s.Compare(s.Position(), s.Position())
		s.set(func() { s.down = false })
		time.Sleep(maxPause)
		s.expect(t, 2, 0)
		s.end()
		time.Sleep(maxPause)
	})
}

func TestTheHistoryOfAnUnusedTopicIsReadLongBeforeItsEpochMayEnd(t *testing.T) {
	live(t, hundred, func(s *topic) {
		for range 20 {
			quiet := time.Duration(0)
			for s.compare() == 0 && quiet < time.Hour {
				time.Sleep(20 * time.Second)
				quiet += 20 * time.Second
			}
			if quiet < minUnread || quiet > maxUnread+20*time.Second {
				t.Errorf("the history was not read for %v", quiet)
			}
		}
	})
}

func TestAComparisonDropsWhatIsTooOldForReplays(t *testing.T) {
	live(t, layer.Keep{Count: 100, Life: time.Minute}, func(s *topic) {
		s.publish(3, true)
		time.Sleep(time.Minute)
		if s.compare() != 0 || s.window.entries != nil {
			t.Errorf("%d publications are in memory that are too old", len(s.window.entries))
		}
		if s.publish(1, true); s.compare() != 0 {
			t.Error("the next publication does not fit")
		}
		s.expect(t, 4, 0)
	})
}
