package sequence

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-29c60982/grouphub/layer"
)

func TestCommandsFromBeforeTheStartAreNotDeliveredAndAllOthersAre(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTopic(layer.Keep{})
		s.Commands = true
		s.publish(10, false)
		s.publish(1, true) // subscribed to by now
		s.set(func() { s.latency = time.Second })
		s.Start()
		s.publish(1, true) // in the history
		synctest.Wait()
		s.publish(1, true) // not in what is being read
		time.Sleep(10 * time.Second)
		s.expect(t, 3, 0)
		s.set(func() { s.history = layer.History{Epoch: "B"} })
		s.publish(2, false)
		s.Reconcile(true)
		time.Sleep(10 * time.Second)
		s.expect(t, 5, 1)
		if want := []string{"A.b.A11", "A.c.A12", "A.d.A13", "B.1.B1", "B.2.B2"}; !slices.Equal(s.delivered, want) {
			t.Errorf("delivered %q, want %q", s.delivered, want)
		}
		s.end()
		time.Sleep(maxPause)
	})
}

func TestANewTopicHasNoPast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTopic(layer.Keep{})
		s.Commands, s.New = true, true
		s.set(func() { s.down = true })
		s.Start()
		s.publish(3, false) // the first history could not be read, and the subscription is interrupted
		s.set(func() { s.down = false })
		s.Reconcile(true)
		time.Sleep(10 * time.Second)
		s.expect(t, 3, 0)
		s.publish(1, true)
		s.expect(t, 4, 0)
		s.end()
		time.Sleep(maxPause)
	})
}
