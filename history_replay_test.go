package grouphub_test

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/gorilla/websocket"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
)

func TestLastReplaysTheLastEventsAndGoesLive(t *testing.T) {
	hub := historyHub(t, nil)
	sendNumbers(t, hub, "g", 1, 150)
	c := hubtest.Dial(t, hub, "/g?last=5")
	sendNumbers(t, hub, "g", 151, 160)
	expectNumbers(t, c, 146, 160)
	all := hubtest.Dial(t, hub, "/g?last=1000")
	expectNumbers(t, all, 61, 160)
	none := hubtest.Dial(t, hub, "/g")
	sendNumbers(t, hub, "g", 161, 161)
	expectNumbers(t, none, 161, 161)
}

func TestAfterReplaysWhatCameAfterAnID(t *testing.T) {
	hub := historyHub(t, nil)
	c := hubtest.Dial(t, hub, "/g")
	sendNumbers(t, hub, "g", 1, 10)
	id := expectNumbers(t, c, 1, 10).ID
	sendNumbers(t, hub, "g", 11, 20)
	again := hubtest.Dial(t, hub, "/g?after="+url.QueryEscape(id))
	sendNumbers(t, hub, "g", 21, 30)
	expectNumbers(t, again, 11, 30)
}

func TestReplayReachesRenderAndHandle(t *testing.T) {
	hub := newHub(t, &grouphub.Options{Policy: keeping(10), Consumer: grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error { return c.Join("g", grouphub.Last(10)) },
		Events: grouphub.Events{
			"render": grouphub.Render(func(e grouphub.Event) ([]byte, error) { return append([]byte("rendered "), e.Data...), nil }),
			"handle": grouphub.Handle(func(c *grouphub.Conn, e grouphub.Event) error { return c.Send(append([]byte("handled "), e.Data...)) }),
		},
	}})
	send(t, hub, "g", "render", 1)
	send(t, hub, "g", "handle", 2)
	c := hubtest.Dial(t, hub, "/")
	c.Expect("rendered 1")
	c.Expect("handled 2")
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

func TestReplayLargerThanMaxPendingWaitsForTheClient(t *testing.T) {
	hub := newHub(t, &grouphub.Options{Policy: keeping(100), MaxPending: 64 << 10, Consumer: grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error { return c.Join("g", grouphub.Last(100)) },
		Events:  grouphub.Events{"n": grouphub.Forward()},
	}})
	text := strings.Repeat("x", 100<<10)
	for i := range 100 {
		send(t, hub, "g", "n", fmt.Sprint(i, text))
	}
	c := serve(t, hub).dialEarly(websocket.DefaultDialer, "/")
	for i := range 100 {
		if got := next(t, c); !strings.Contains(got[:100], fmt.Sprintf(`"data":"%dx`, i)) {
			t.Fatalf("event %d: got %.80s", i, got)
		}
	}
	if s := hub.Stats(); s.SlowClosed != 0 || s.Resyncs != 0 {
		t.Errorf("%+v", s)
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
		client := serve(t, hub).dialEarly(websocket.DefaultDialer, "/")
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
