package grouphub_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
)

const heartbeat = `{"type":"grouphub.heartbeat"}`

func TestWhoAsksForAHeartbeatGetsItWithinBounds(t *testing.T) {
	for query, want := range map[string]time.Duration{
		"?heartbeat=25":             25 * time.Second,
		"?heartbeat=7.5":            7 * time.Second,
		"?heartbeat=1&resume=":      5 * time.Second,
		"?heartbeat=1e9":            300 * time.Second,
		"?heartbeat=Inf":            300 * time.Second,
		"?room=a&heartbeat=30&x=%2": 30 * time.Second,
		"":                          0,
		"?heartbeat":                0,
		"?heartbeat=":               0,
		"?heartbeat=0":              0,
		"?heartbeat=-5":             0,
		"?heartbeat=NaN":            0,
		"?heartbeat=often":          0,
	} {
		synctest.Test(t, func(t *testing.T) {
			hub := grouphub.New(&grouphub.Options{Consumer: noteConsumer})
			defer hub.Shutdown(background)
			c := hubtest.Dial(t, hub, "/"+query)
			defer c.Close()
			if want == 0 {
				c.ExpectNone(time.Hour)
				return
			}
			for range 3 {
				c.ExpectNone(want - time.Millisecond)
				c.Expect(heartbeat)
			}
			time.Sleep(want - time.Second)
			send(t, hub, "all", "note", 1)
			c.ExpectEvent("note")
			c.ExpectNone(want - time.Millisecond)
			c.Expect(heartbeat)
		})
	}
}

func TestHeartbeatsGoOnBehindACallbackThatBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		done := make(chan struct{})
		hub := grouphub.New(&grouphub.Options{Consumer: grouphub.Consumer{
			Receive: func(*grouphub.Conn, grouphub.Message) error { <-done; return nil },
		}})
		defer hub.Shutdown(background)
		defer close(done)
		c := hubtest.Dial(t, hub, "/?heartbeat=10")
		defer c.Close()
		for range 3 { // the reader keeps one message ahead, and waits with the next
			c.Send("x")
		}
		for range 4 { // until the first ping, whose pong nobody reads
			c.ExpectNone(9 * time.Second)
			c.Expect(heartbeat)
		}
	})
}
