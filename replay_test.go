package grouphub_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/gorilla/websocket"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
)

// A slowReplay is a connection that is being replayed more than its socket takes, of
// which nothing is read yet.
type slowReplay struct {
	hub    *grouphub.Hub
	conn   *grouphub.Conn
	client *websocket.Conn
	joined chan error // what Join has returned
}

const slowEvents = 150 // of 100 KiB each

func startSlowReplay(t *testing.T) *slowReplay {
	t.Helper()
	s := &slowReplay{joined: make(chan error, 1)}
	conns := make(chan *grouphub.Conn, 1)
	s.hub = newHub(t, &grouphub.Options{Policy: keeping(1000), Consumer: grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error {
			conns <- c
			err := c.Join("g", grouphub.Last(1000))
			s.joined <- err
			return err
		},
		Events: grouphub.Events{"n": grouphub.Forward()},
	}})
	for i := range slowEvents {
		send(t, s.hub, "g", "n", fmt.Sprintf("%d %s", i, strings.Repeat("x", 100<<10)))
	}
	server := newServer(t, s.hub)
	server.Start()
	client, _, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(server.URL, "http"), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	s.client, s.conn = client, <-conns
	eventually(t, func() bool { return s.hub.Stats().Delivered > 0 }, "the replay has not begun")
	return s
}

// until reads events up to a message or an event that says so, and returns how often each one came.
func (s *slowReplay) until(t *testing.T, end string) map[string]int {
	t.Helper()
	seen := make(map[string]int)
	for {
		text := next(t, s.client)
		_, data, _ := strings.Cut(text, `"data":"`)
		number, _, _ := strings.Cut(strings.TrimSuffix(data, `"}`), " ")
		if text == end || number == end {
			return seen
		}
		seen[number]++
	}
}

func TestDiscardEndsAReplay(t *testing.T) {
	s := startSlowReplay(t)
	if err := s.hub.GroupDiscard(background, "g", s.conn.Channel()); err != nil {
		t.Fatal(err)
	}
	send(t, s.hub, "g", "n", "secret")
	go func() {
		if err := <-s.joined; err != nil {
			t.Error(err)
		}
		s.conn.Send([]byte("end"))
	}()
	if seen := s.until(t, "end"); seen["secret"] > 0 || len(seen) == slowEvents {
		t.Errorf("got %d events, %d of them sent afterwards", len(seen), seen["secret"])
	}
}

func TestAJoinAfterALeaveDuringAReplayIsTheOnlyOne(t *testing.T) {
	s := startSlowReplay(t)
	if err := s.conn.Leave("g"); err != nil {
		t.Fatal(err)
	}
	go func() {
		if err := s.conn.Join("g", grouphub.Last(1)); err != nil {
			t.Error(err)
		}
		if err := <-s.joined; err != nil {
			t.Error(err)
		}
		send(t, s.hub, "g", "n", "live")
		send(t, s.hub, "g", "n", "end")
	}()
	seen := s.until(t, "end")
	for number, n := range seen {
		if n > 1 {
			t.Errorf("%s came %d times", number, n)
		}
	}
	if seen["live"] != 1 || seen[fmt.Sprint(slowEvents-1)] != 1 || len(seen) >= slowEvents {
		t.Errorf("%d events, live %d times", len(seen), seen["live"])
	}
}

func TestManyReplaysLargerThanMaxPendingTogetherWaitForTheClient(t *testing.T) {
	const groups, events = 40, 80 // 8 MB in all
	for _, together := range []bool{false, true} {
		hub := newHub(t, &grouphub.Options{Policy: keeping(1000), Consumer: grouphub.Consumer{
			Connect: func(c *grouphub.Conn) error {
				joined := make(chan error, groups)
				for g := range groups {
					join := func() { joined <- c.Join(fmt.Sprint(g), grouphub.Last(1000)) }
					if together {
						go join()
					} else {
						join()
					}
				}
				var err error
				for range groups {
					err = errors.Join(err, <-joined)
				}
				return err
			},
			Events: grouphub.Events{"n": grouphub.Forward()},
		}})
		text := strings.Repeat("x", 100<<10)
		for i := range events {
			send(t, hub, fmt.Sprint(i%groups), "n", text)
		}
		server := newServer(t, hub)
		server.Start()
		client, _, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(server.URL, "http"), nil)
		if err != nil {
			t.Fatal(err)
		}
		// Nothing is read until a socket is full.
		eventually(t, func() bool { return hub.Stats().Delivered >= 20 }, "the replays have not begun")
		for range events {
			next(t, client)
		}
		if n := hub.Stats().SlowClosed; n != 0 {
			t.Errorf("%d closed as too slow", n)
		}
		client.Close()
	}
}

func TestExceptHoldsInAReplay(t *testing.T) {
	hub := newHub(t, &grouphub.Options{Policy: keeping(10), Consumer: grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error {
			for i, opts := range [][]grouphub.SendOption{{}, {grouphub.Except(c.Channel())}, {grouphub.Except("another")}} {
				if err := c.Hub().GroupSend(c.Context(), "g", "n", i, opts...); err != nil {
					return err
				}
			}
			return c.Join("g", grouphub.Last(10))
		},
		Events: grouphub.Events{"n": grouphub.Forward()},
	}})
	c := hubtest.Dial(t, hub, "/")
	for _, want := range []string{"0", "2"} {
		if e := c.ExpectEvent("n"); string(e.Data) != want {
			t.Errorf("got %s, want %s", e.Data, want)
		}
	}
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

func TestAPositionFromBeforeTheFirstEventIsNotGoodForever(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub := grouphub.New(&grouphub.Options{
			Consumer: grouphub.Consumer{
				Connect: func(c *grouphub.Conn) error { return c.Join("g") },
				Events:  grouphub.Events{"n": grouphub.Forward()},
			},
			Policy: func(string) grouphub.GroupPolicy {
				return grouphub.GroupPolicy{History: 10, HistoryTTL: time.Minute}
			},
		})
		c := hubtest.Dial(t, hub, "/?resume=")
		id := c.ExpectEvent("grouphub.position").ID
		c.Close()
		sendNumbers(t, hub, "g", 1, 1)
		time.Sleep(59 * time.Second)
		c = hubtest.Dial(t, hub, "/"+resumeQuery("g", id))
		expectNumbers(t, c, 1, 1)
		c.Close()
		time.Sleep(48 * time.Hour) // nobody remembers that there was an event
		c = hubtest.Dial(t, hub, "/"+resumeQuery("g", id))
		c.Expect(`{"type":"resync","group":"g"}`)
		c.Close()
		hub.Shutdown(background)
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

func TestAJoinThatFailedLeavesTheResumeToTheNext(t *testing.T) {
	t.Parallel()
	layer := &faultyLayer{MemoryLayer: grouphub.NewMemoryLayer()}
	other := historyHub(t, layer.MemoryLayer)
	c := hubtest.Dial(t, other, "/g")
	sendNumbers(t, other, "g", 1, 1)
	id := expectNumbers(t, c, 1, 1).ID
	sendNumbers(t, other, "g", 2, 3)
	var failed atomic.Int32
	hub := newHub(t, &grouphub.Options{Layer: layer, Policy: keeping(100), Consumer: grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error {
			// The layer is down for longer than a Join lasts.
			err := c.Join("g")
			if errors.Is(err, grouphub.ErrUnavailable) {
				failed.Add(1)
				layer.down.Store(false)
				err = c.Join("g")
			}
			return err
		},
		Events: grouphub.Events{"n": grouphub.Forward()},
	}})
	layer.down.Store(true)
	s := newServer(t, hub)
	s.Start()
	client, _, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(s.URL, "http")+"/"+resumeQuery("g", id), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for i := 2; i <= 3; i++ {
		if got := next(t, client); !strings.Contains(got, fmt.Sprintf(`"data":%d}`, i)) {
			t.Errorf("got %s, want %d", got, i)
		}
	}
	if failed.Load() != 1 {
		t.Error("no Join failed")
	}
}

func TestResumeOfAGroupWithoutHistoryIsResync(t *testing.T) {
	hub := newHub(t, &grouphub.Options{Consumer: noteConsumer})
	c := hubtest.Dial(t, hub, "/"+resumeQuery("all", "A.5."))
	c.Expect(`{"type":"resync","group":"all"}`)
	send(t, hub, "all", "note", 1)
	c.ExpectEvent("note")
	hubtest.Dial(t, hub, "/"+resumeQuery("another", "A.5."))
	if n := hub.Stats().Resyncs; n != 1 {
		t.Errorf("%d Resyncs", n)
	}
}

// A lateLayer confirms a subscription and reads a history just in time.
type lateLayer struct{ *grouphub.MemoryLayer }

type lateSubscription struct{ grouphub.Subscription }

const late = 4 * time.Second

func (l lateLayer) Attach(hub string, r grouphub.Receiver) (grouphub.Subscription, error) {
	s, err := l.MemoryLayer.Attach(hub, r)
	return lateSubscription{s}, err
}

func (l lateLayer) History(ctx context.Context, topic string, after uint64) (grouphub.History, error) {
	time.Sleep(late)
	return l.MemoryLayer.History(ctx, topic, after)
}

func (s lateSubscription) Add(ctx context.Context, topics ...string) error {
	if topics[0] == "g:g" {
		time.Sleep(late)
	}
	return s.Subscription.Add(ctx, topics...)
}

func TestAJoinLastsFiveSecondsInAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conns := make(chan *grouphub.Conn, 1)
		hub := grouphub.New(&grouphub.Options{Layer: lateLayer{grouphub.NewMemoryLayer()}, Policy: keeping(10), Consumer: grouphub.Consumer{
			Connect: func(c *grouphub.Conn) error { conns <- c; return nil },
		}})
		c := hubtest.Dial(t, hub, "/")
		begun := time.Now()
		err := (<-conns).Join("g")
		if took := time.Since(begun); took != 5*time.Second || !errors.Is(err, grouphub.ErrUnavailable) {
			t.Errorf("%v after %v", err, took)
		}
		c.Close()
		hub.Shutdown(background)
	})
}

func TestAPolicyMayCallTheHub(t *testing.T) {
	var hub *grouphub.Hub
	hub = newHub(t, &grouphub.Options{Consumer: noteConsumer, Policy: func(string) grouphub.GroupPolicy {
		return grouphub.GroupPolicy{History: 10 + hub.Stats().Groups}
	}})
	c := hubtest.Dial(t, hub, "/")
	send(t, hub, "all", "note", 1)
	c.ExpectEvent("note")
}
