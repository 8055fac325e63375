package grouphub_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/gorilla/websocket"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
)

func TestOnceDeliversOnce(t *testing.T) {
	hub := historyHub(t, nil)
	c := hubtest.Dial(t, hub, "/g")
	for range 3 {
		send(t, hub, "g", "n", 1, grouphub.Once("order 17"))
	}
	send(t, hub, "g", "n", 2, grouphub.Once("order 18"))
	send(t, hub, "h", "n", 1, grouphub.Once("order 17")) // another group
	expectNumbers(t, c, 1, 2)
	plain := newHub(t, nil)
	if err := plain.GroupSend(background, "g", "n", 1, grouphub.Once("x")); err == nil || !strings.Contains(err.Error(), "history") {
		t.Errorf("Once without history: %v", err)
	}
}

func TestNothingIsLostWhileTheLayerDropsAndRepeats(t *testing.T) {
	layer := newFaultyLayer()
	hub := historyHub(t, layer)
	a, b := hubtest.Dial(t, hub, "/g"), hubtest.Dial(t, hub, "/g")
	layer.setFault(dropAndRepeat())
	const n = 2000
	for i := 1; i <= n; i++ {
		send(t, hub, "g", "n", i)
		if i%50 == 0 { // the history must cover the gap
			layer.receiver.Lost([]string{"g:g"})
			expectNumbers(t, a, i-49, i)
			expectNumbers(t, b, i-49, i)
		}
	}
	if s := hub.Stats(); s.Recovered == 0 || s.Resyncs != 0 || s.Dropped != 0 {
		t.Errorf("%+v", s)
	}
}

func TestEveryEventExactlyOnceWhileTheLayerDropsAndAClientIsCut(t *testing.T) {
	memory := grouphub.NewMemoryLayer()
	var layers []*faultyLayer
	var hubs []*grouphub.Hub
	for range 2 {
		layer := &faultyLayer{MemoryLayer: memory}
		layers, hubs = append(layers, layer), append(hubs, newHub(t, followed(layer)))
		layer.setFault(dropAndRepeat())
	}
	expectExactlyOnce(t, hubs, 200, func() {
		for _, layer := range layers { // nothing follows that would show a gap at the end
			layer.setFault(nil)
			layer.receiver.Lost([]string{"g:g"})
		}
	})
	for i, hub := range hubs {
		if hub.Stats().Recovered == 0 {
			t.Errorf("hub %d has recovered nothing", i)
		}
	}
}

func TestEveryEventExactlyOnceWhileAClientIsCutAgainAndAgain(t *testing.T) {
	layer := grouphub.NewMemoryLayer()
	var hubs []*grouphub.Hub
	for range 2 {
		options := followed(layer)
		options.Policy = keeping(5_000)
		hubs = append(hubs, newHub(t, options))
	}
	expectExactlyOnce(t, hubs, 3_000, func() {})
}

func TestGapThatHistoryDoesNotCoverIsResync(t *testing.T) {
	layer := newFaultyLayer()
	hub := historyHub(t, layer)
	c := hubtest.Dial(t, hub, "/g")
	sendNumbers(t, hub, "g", 1, 5)
	expectNumbers(t, c, 1, 5)
	layer.setFault(loseAll)
	sendNumbers(t, hub, "g", 6, 205)
	layer.setFault(nil)
	sendNumbers(t, hub, "g", 206, 206)
	c.Expect(`{"type":"resync","group":"g"}`)
	expectNumbers(t, c, 107, 206)
}

func TestGapIsFilledWhenTheLayerIsBack(t *testing.T) {
	layer := newFaultyLayer()
	hub := historyHub(t, layer)
	c := hubtest.Dial(t, hub, "/g")
	sendNumbers(t, hub, "g", 1, 1)
	expectNumbers(t, c, 1, 1)
	layer.down.Store(true)
	layer.setFault(loseAll)
	sendNumbers(t, hub, "g", 2, 5)
	layer.setFault(nil)
	sendNumbers(t, hub, "g", 6, 20)
	layer.down.Store(false)
	expectNumbers(t, c, 2, 20)
}

func TestNewEpochIsResyncUnlessNothingIsMissing(t *testing.T) {
	layer := newFaultyLayer()
	hub := historyHub(t, layer)
	c := hubtest.Dial(t, hub, "/g")
	deliver := func(epoch string, number uint64, nonce string, data int) {
		layer.mu.Lock()
		defer layer.mu.Unlock()
		payload := grouphub.EncodeEvent("g", "n", data)
		layer.receiver.Deliver(grouphub.Publication{Topic: "g:g", Payload: payload,
			At: grouphub.Position{Epoch: epoch, Number: number, Nonce: nonce}})
	}
	deliver("one", 1, "a", 1)
	deliver("one", 2, "b", 2)
	deliver("one", 2, "b", 2) // a repeat
	deliver("two", 1, "a", 3) // the count begins anew: nothing is missing
	expectNumbers(t, c, 1, 3)
	deliver("two", 1, "x", 4) // the number again, for another event
	c.Expect(`{"type":"resync","group":"g"}`)
	expectNumbers(t, c, 4, 4)
	deliver("three", 7, "a", 5) // the memory layer knows of no such thing
	c.Expect(`{"type":"resync","group":"g"}`)
}

func TestNewEpochBeforeTheLayerTellsOfALossIsResync(t *testing.T) {
	layer := newFaultyLayer()
	hub := historyHub(t, layer)
	c := hubtest.Dial(t, hub, "/g")
	layer.receiver.Deliver(grouphub.Publication{Topic: "g:g", Payload: grouphub.EncodeEvent("g", "n", 1),
		At: grouphub.Position{Epoch: "old", Number: 1, Nonce: "a"}})
	sendNumbers(t, hub, "g", 2, 2) // the first of the layer's own epoch
	expectNumbers(t, c, 1, 2)
	layer.receiver.Lost([]string{"g:g"}) // the subscription was interrupted, so the old epoch may have had more
	c.Expect(`{"type":"resync","group":"g"}`)
	sendNumbers(t, hub, "g", 3, 3)
	expectNumbers(t, c, 3, 3)
}

func TestOrderIsTheSameOnAllHubsInAGroupWithHistory(t *testing.T) {
	const senders, each, members = 6, 200, 4
	layer := grouphub.NewMemoryLayer()
	var hubs []*grouphub.Hub
	for range 2 {
		hubs = append(hubs, newHub(t, &grouphub.Options{Layer: layer, Policy: keeping(senders * each), Consumer: noteConsumer}))
	}
	var clients []*hubtest.Client
	for m := range members {
		clients = append(clients, hubtest.Dial(t, hubs[m%2], "/"))
	}
	sendFromMany(t, senders, each, hubs...)
	expectOneOrder(t, clients, senders, each)
}

func TestHistoryExpiresAndLeavesNothingInMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		layer := grouphub.NewMemoryLayer()
		hub := grouphub.New(&grouphub.Options{Layer: layer, Consumer: grouphub.Consumer{
			Connect: func(c *grouphub.Conn) error { return c.Join("g", grouphub.Last(10)) },
			Events:  grouphub.Events{"n": grouphub.Forward()},
		}, Policy: func(string) grouphub.GroupPolicy {
			return grouphub.GroupPolicy{History: 10, HistoryTTL: time.Minute}
		}})
		idle, _ := grouphub.MemoryInUse(layer)
		send(t, hub, "g", "n", 1)
		time.Sleep(59 * time.Second)
		c := hubtest.Dial(t, hub, "/")
		expectNumbers(t, c, 1, 1)
		time.Sleep(2 * time.Minute)
		late := hubtest.Dial(t, hub, "/")
		send(t, hub, "g", "n", 2)
		expectNumbers(t, late, 2, 2)
		c.Close()
		late.Close()
		time.Sleep(25 * time.Hour) // the count is kept for a day
		if topics, _ := grouphub.MemoryInUse(layer); topics != idle {
			t.Errorf("%d topics are left, %d before", topics, idle)
		}
		hub.Shutdown(background)
		layer.Close()
	})
}

func TestAnEventOlderThanItsTimeIsNotReplayed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub := grouphub.New(&grouphub.Options{
			Consumer: grouphub.Consumer{
				Connect: func(c *grouphub.Conn) error { return c.Join("g", grouphub.Last(10)) },
				Events:  grouphub.Events{"n": grouphub.Forward()},
			},
			Policy: func(string) grouphub.GroupPolicy {
				return grouphub.GroupPolicy{History: 10, HistoryTTL: time.Minute}
			},
		})
		stays := hubtest.Dial(t, hub, "/")
		sendNumbers(t, hub, "g", 1, 1)
		id := expectNumbers(t, stays, 1, 1).ID
		time.Sleep(40 * time.Second)
		sendNumbers(t, hub, "g", 2, 2)
		time.Sleep(19 * time.Second)
		c := hubtest.Dial(t, hub, "/")
		expectNumbers(t, c, 1, 2)
		c.Close()
		time.Sleep(time.Second)
		for _, query := range []string{"", resumeQuery("g", id)} {
			c := hubtest.Dial(t, hub, "/"+query)
			expectNumbers(t, c, 2, 2)
			c.Close()
		}
		time.Sleep(40 * time.Second)
		c = hubtest.Dial(t, hub, "/"+resumeQuery("g", id))
		c.Expect(`{"type":"resync","group":"g"}`)
		c.ExpectEvent("grouphub.position")
		c.Close()
		late := hubtest.Dial(t, hub, "/")
		late.ExpectNone(time.Minute)
		late.Close()
		stays.Close()
		hub.Shutdown(background)
	})
}

func TestIdleGroupsLeaveNothingInMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		layer := grouphub.NewMemoryLayer()
		hub := grouphub.New(&grouphub.Options{Layer: layer, Consumer: grouphub.Consumer{
			Connect: func(c *grouphub.Conn) error { return c.Join(c.Request().URL.Path) },
			Events:  grouphub.Events{"n": grouphub.Forward()},
		}, Policy: func(string) grouphub.GroupPolicy {
			return grouphub.GroupPolicy{History: 10, HistoryTTL: time.Minute, Presence: true}
		}})
		idle, _ := grouphub.MemoryInUse(layer)
		for i := range 20 {
			group := fmt.Sprint("/", i)
			c := hubtest.Dial(t, hub, group)
			send(t, hub, group, "n", 1, grouphub.Once("one"))
			send(t, hub, group, "n", 1, grouphub.Once("one"))
			send(t, hub, group, "n", 2)
			expectNumbers(t, c, 1, 2)
			time.Sleep(time.Second)
			if n := grouphub.MemoryLeases(layer); n != 2 {
				t.Fatalf("%d leases, want the group's and the hub's", n)
			}
			c.Close()
			time.Sleep(time.Second)
			// Nobody is ever there to receive these.
			send(t, hub, "worker's"+group, "n", 1, grouphub.Once("one"))
		}
		time.Sleep(25 * time.Hour) // the count outlives the history by a day
		if topics, queues := grouphub.MemoryInUse(layer); topics != idle || queues != 0 {
			t.Errorf("%d topics and %d queues are left, %d topics before", topics, queues, idle)
		}
		if n := grouphub.MemoryLeases(layer); n != 1 {
			t.Errorf("%d leases, want the hub's", n)
		}
		hub.Shutdown(background)
		if n := grouphub.MemoryLeases(layer); n != 0 {
			t.Errorf("%d leases after Shutdown", n)
		}
		time.Sleep(time.Hour + time.Second) // somebody may come back to where nothing was sent yet
		if topics, queues := grouphub.MemoryInUse(layer); topics != 0 || queues != 0 {
			t.Errorf("%d topics and %d queues are left after Shutdown", topics, queues)
		}
		layer.Close()
	})
}

func TestAHubThatBeganLaterForgetsEventsWhenTheLayerDoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub := grouphub.New(&grouphub.Options{
			Consumer: grouphub.Consumer{
				Connect: func(c *grouphub.Conn) error { return c.Join("g", grouphub.Last(10)) },
				Events:  grouphub.Events{"n": grouphub.Forward()},
			},
			Policy: func(string) grouphub.GroupPolicy {
				return grouphub.GroupPolicy{History: 10, HistoryTTL: time.Hour}
			},
		})
		sendNumbers(t, hub, "g", 1, 1)
		time.Sleep(59 * time.Minute)
		c := hubtest.Dial(t, hub, "/")
		expectNumbers(t, c, 1, 1)
		time.Sleep(2 * time.Minute)
		late := hubtest.Dial(t, hub, "/")
		sendNumbers(t, hub, "g", 2, 2)
		expectNumbers(t, late, 2, 2)
		c.Close()
		late.Close()
		hub.Shutdown(background)
	})
}

func TestHistoryDoesNotKeepAConnectionThatAnEventExcepted(t *testing.T) {
	conns := make(chan weak.Pointer[grouphub.Conn], 1)
	hub := newHub(t, &grouphub.Options{Policy: keeping(10), Consumer: grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error {
			conns <- weak.Make(c)
			return c.Join("g")
		},
		Receive: func(c *grouphub.Conn, _ grouphub.Message) error {
			return c.Hub().GroupSend(c.Context(), "g", "n", 1, grouphub.Except(c.Channel()))
		},
		Events: grouphub.Events{"n": grouphub.Forward()},
	}})
	stays := hubtest.Dial(t, hub, "/")
	<-conns
	s := serve(t, hub)
	c := s.dial("/")
	gone := <-conns
	if err := c.WriteMessage(websocket.TextMessage, nil); err != nil {
		t.Fatal(err)
	}
	stays.ExpectEvent("n")
	c.Close()
	s.Close()
	eventually(t, func() bool { runtime.GC(); return gone.Value() == nil }, "the connection is still there")
}
