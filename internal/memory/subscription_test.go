package memory

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-29c60982/grouphub/layer"
)

func TestSubscriptionThatEndsHoldsNobodyUp(t *testing.T) {
	for _, end := range []string{"Subscription", "Layer"} {
		t.Run(end, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := New()
				r, full := newWaitingReceiver(), newWaitingReceiver()
				attach(t, l, "a", r, "topic")
				s := attach(t, l, "b", full, "topic")
				full.full <- struct{}{}
				published := make(chan error)
				go func() { published <- l.Publish(context.Background(), publication("topic", "one")) }()
				synctest.Wait()
				start := time.Now()
				if end == "Layer" {
					l.Close()
					if err := <-published; !errors.Is(err, layer.ErrClosed) {
						t.Errorf("Publish: %v, want ErrClosed", err)
					}
				} else {
					s.Close()
					if err := <-published; err != nil || r.received() != "[one]" {
						t.Errorf("Publish: %v, received %v, want one", err, r.received())
					}
				}
				if time.Since(start) != 0 || full.received() != "[]" {
					t.Errorf("took %v, received %v, want nothing at once", time.Since(start), full.received())
				}
			})
		})
	}
}
