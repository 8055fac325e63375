package grouphub_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
)

func TestACloseThatIsDeliveredLateDoesNotConcernWhoJoinedAfterIt(t *testing.T) {
	for _, history := range []int{0, 10} {
		t.Run(fmt.Sprint("history of ", history), func(t *testing.T) {
			layer := newHoldingLayer(isNothing)
			hub := newHub(t, &grouphub.Options{Layer: layer, Consumer: noteConsumer, Policy: keeping(history)})
			closeGroup := func() {
				t.Helper()
				if err := hub.GroupClose(background, "all", 4401, "logged out"); err != nil {
					t.Fatal(err)
				}
			}
			early := hubtest.Dial(t, hub, "/")
			layer.hold(isAnything)
			closeGroup()
			closed := time.Now()
			eventually(t, func() bool { return time.Since(closed) > 100*time.Millisecond }, "time stands still")
			late := hubtest.Dial(t, hub, "/")
			layer.hold(isNothing)
			early.ExpectClose(4401)
			send(t, hub, "all", "note", "to who is there")
			late.ExpectEvent("note")
			closeGroup() // the next one is meant for it
			late.ExpectClose(4401)
		})
	}
}

// The group's events and the commands may come over different connections, of which one stands
// still.
func TestACloseWhoseMarkComesLateIsCarriedOutOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		layer := newHoldingLayer(isNothing)
		defer layer.Close()
		hub := grouphub.New(&grouphub.Options{Layer: layer, Consumer: noteConsumer})
		defer hub.Shutdown(background)
		early := hubtest.Dial(t, hub, "/")
		layer.hold(isAnything)
		if err := hub.GroupClose(background, "all", 4401, "logged out"); err != nil {
			t.Fatal(err)
		}
		layer.hold(isGroup)
		early.ExpectClose(4401) // without the mark, after a while
		time.Sleep(time.Second)
		late := hubtest.Dial(t, hub, "/")
		layer.hold(isNothing)
		send(t, hub, "all", "note", "to who is there")
		late.ExpectEvent("note")
	})
}
