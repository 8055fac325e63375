package sequence

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-29c60982/grouphub/layer"
)

func TestReadingForComparisonHoldsNothingUp(t *testing.T) {
	live(t, hundred, func(s *topic) {
		s.set(func() { s.latency = time.Second })
		for range 5 {
			s.Reconcile(false)
			s.publish(1, true)
			time.Sleep(300 * time.Millisecond)
		}
		s.expect(t, 5, 0)
		synctest.Wait()
		time.Sleep(3 * time.Second)
		s.expect(t, 5, 0)
	})
}

func TestReconcilingWhileTheHistoryIsDownHoldsNothingUp(t *testing.T) {
	live(t, hundred, func(s *topic) {
		s.set(func() { s.down = true })
		s.Reconcile(false)
		for range 10 {
			time.Sleep(time.Second)
			s.publish(1, true)
		}
		s.expect(t, 10, 0)
		// What is missing at the end is noticed when it is back.
		s.publish(2, false)
		s.set(func() { s.down = false })
		time.Sleep(maxPause)
		s.expect(t, 12, 0)
	})
}

func TestALossThatAComparisonFindsIsToldOnce(t *testing.T) {
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
				s.Reconcile(true)
				synctest.Wait()
				s.publish(1, true) // held, or delivered, and then not again
				time.Sleep(10 * time.Second)
				s.publish(1, true)
				synctest.Wait()
				if s.resyncs != 1 {
					t.Errorf("%d losses", s.resyncs)
				}
				if n := len(s.delivered); n == 0 || slices.Contains(s.delivered[:n-1], s.delivered[n-1]) {
					t.Errorf("delivered %v", s.delivered)
				}
			})
		})
	}
}

// A replica that becomes the master lacks what its master has accepted last.
func TestALossAtTheEndIsToldOnceWhoeverNoticesItFirst(t *testing.T) {
	loseEnd := func(s *topic) {
		s.history.Last, s.history.Nonce = 7, "A7"
		s.history.Kept = s.history.Kept[:7]
		s.latency = time.Second
	}
	again := func(s *topic) { // publishes the eighth once more
		p := numbered("A", 8)
		p.At.Nonce = "other"
		s.set(func() {
			s.history.Last, s.history.Nonce = 8, p.At.Nonce
			s.history.Kept = append(s.history.Kept, p)
		})
		s.Receive(p)
	}
	for name, notice := range map[string]func(s *topic){
		"a reading, and another is asked for meanwhile": func(s *topic) {
			s.Reconcile(true)
			time.Sleep(1500 * time.Millisecond) // the comparison has ended, and the gap is filled
			s.Reconcile(true)
			time.Sleep(time.Second)
			again(s)
		},
		"a publication, while the history is read": func(s *topic) {
			s.Reconcile(true)
			time.Sleep(500 * time.Millisecond)
			again(s)
		},
	} {
		t.Run(name, func(t *testing.T) {
			live(t, hundred, func(s *topic) {
				s.set(func() { loseEnd(s) })
				notice(s)
				time.Sleep(10 * time.Second)
				s.expect(t, 1, 1)
			})
		})
	}
}

func TestNumbersGivenOutAgainAreALossEvenIfTheNextOneFits(t *testing.T) {
	live(t, hundred, func(s *topic) {
		s.set(func() { s.history.Kept[9].At.Nonce = "other"; s.latency = time.Second })
		s.Reconcile(true)
		s.publish(1, true) // in order, as it seems
		time.Sleep(10 * time.Second)
		s.expect(t, 1, 1)
	})
}

func TestAnEpochThatBeginsOnAnUnbrokenSubscriptionIsNoLoss(t *testing.T) {
	live(t, hundred, func(s *topic) {
		s.set(func() { s.history = emptyHistory("B") })
		s.Reconcile(false)
		synctest.Wait()
		s.expect(t, 0, 0)
		s.publish(3, true)
		s.set(func() { s.history = emptyHistory("C") })
		s.publish(2, false)
		s.Reconcile(false)
		synctest.Wait()
		s.expect(t, 5, 0)
		// It was broken, after all.
		s.Reconcile(true)
		synctest.Wait()
		s.expect(t, 5, 1)
		s.Reconcile(true)
		synctest.Wait()
		s.expect(t, 5, 1)
	})
}

func TestAnEpochOfWhichTheBeginningDoesNotArriveIsALoss(t *testing.T) {
	live(t, hundred, func(s *topic) {
		s.set(func() { s.history = emptyHistory("B") })
		s.publish(1, false)
		s.publish(1, true)
		synctest.Wait()
		s.expect(t, 0, 1) // what is there when it is noticed is for replays
		s.publish(1, true)
		s.expect(t, 1, 1)
	})
}

func TestAnEpochThatBeginsDuringAReadingAfterAnInterruptionIsOneLoss(t *testing.T) {
	for name, early := range map[string]bool{"before the history is read": true, "meanwhile": false} {
		t.Run(name, func(t *testing.T) {
			live(t, hundred, func(s *topic) {
				s.set(func() { s.history, s.latency = emptyHistory("B"), time.Second })
				s.Reconcile(true)
				if early {
					s.publish(1, true)
					synctest.Wait()
				} else {
					synctest.Wait()
					s.publish(1, true)
				}
				time.Sleep(10 * time.Second)
				s.publish(1, true)
				synctest.Wait()
				if s.resyncs != 1 || len(s.delivered) == 0 || s.delivered[len(s.delivered)-1] != "B.2.B2" {
					t.Errorf("%d losses, delivered %q", s.resyncs, s.delivered)
				}
			})
		})
	}
}
