package grouphub_test

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

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

// What a Join asks for may be more than callbacks can have waiting, and the Join may be in one
// of them. So it goes on when they have run.
func TestReplayLargerThanMaxPendingWaitsForTheCallbacks(t *testing.T) {
	const events, groups = 300, 3
	for name, within := range map[string]bool{"in Connect": true, "outside": false} {
		t.Run(name, func(t *testing.T) {
			conns := make(chan *grouphub.Conn, 1)
			hub := newHub(t, &grouphub.Options{Policy: keeping(events), MaxPending: 100 << 10})
			for i := range events {
				send(t, hub, fmt.Sprint("g", i%groups), []string{"slow", "n"}[i%10/9], fmt.Sprint(i, strings.Repeat("x", 8<<10)))
			}
			joinAll := func(c *grouphub.Conn) error {
				for g := range groups {
					if err := c.Join(fmt.Sprint("g", g), grouphub.Last(events)); err != nil {
						return err
					}
				}
				if got := len(c.Groups()); got != groups {
					t.Errorf("it is in %d groups", got)
				}
				return nil
			}
			handler := hub.Handler(grouphub.Consumer{
				Connect: func(c *grouphub.Conn) error {
					conns <- c
					if within {
						return joinAll(c)
					}
					return nil
				},
				Events: mixed(allTokens()),
			})
			c := hubtest.Dial(t, handler, "/")
			if conn := <-conns; !within {
				if err := joinAll(conn); err != nil {
					t.Fatal(err)
				}
			}
			for g := range groups { // these come last
				send(t, hub, fmt.Sprint("g", g), "n", fmt.Sprint(events+g, "x"))
			}
			var last [groups]int
			for g := range groups {
				last[g] = g - groups
			}
			for range events + groups {
				var e grouphub.Event
				var text string
				if err := c.Next().Decode(&e); err != nil {
					t.Fatal(err)
				}
				e.Decode(&text)
				number, _, _ := strings.Cut(text, "x")
				var g, n int
				fmt.Sscan(strings.TrimPrefix(e.Group, "g"), &g)
				fmt.Sscan(number, &n)
				if n != last[g]+groups {
					t.Fatalf("in group %d %d came after %d", g, n, last[g])
				}
				last[g] = n
			}
			if s := hub.Stats(); s.SlowClosed != 0 || s.Resyncs != 0 || s.Dropped != 0 {
				t.Errorf("%+v", s)
			}
		})
	}
}

func TestAMemberThatIsStillReplayedIsOne(t *testing.T) {
	t.Parallel()
	tokens, conns := make(chan struct{}), make(chan *grouphub.Conn, 2)
	policy := func(string) grouphub.GroupPolicy { return grouphub.GroupPolicy{History: 100, Presence: true} }
	hub := newHub(t, &grouphub.Options{Policy: policy, MaxPending: 20 << 10, CloseTimeout: time.Second, Consumer: grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error { conns <- c; return c.Join("g", grouphub.Last(100)) },
		Events:  mixed(tokens),
	}})
	for i := range 20 {
		send(t, hub, "g", "slow", fmt.Sprint(i, strings.Repeat("x", 8<<10)))
	}
	c, d := hubtest.Dial(t, hub, "/"), hubtest.Dial(t, hub, "/")
	first, second := <-conns, <-conns
	for _, conn := range []*grouphub.Conn{first, second} {
		if groups := conn.Groups(); len(groups) != 1 {
			t.Errorf("it is in %q", groups)
		}
		if err := conn.Join("g"); err != nil { // again
			t.Error(err)
		}
	}
	if members, err := hub.Members(background, "g"); err != nil || len(members) != 2 {
		t.Errorf("%d members, %v", len(members), err)
	}
	if err := first.Leave("g"); err != nil {
		t.Error(err)
	}
	if err := hub.GroupClose(background, "g", 4000, "bye"); err != nil {
		t.Error(err)
	}
	d.ExpectClose(4000)
	close(tokens)
	// The call that had begun ends, and no other begins.
	expectText := c.Next()
	if !strings.Contains(string(expectText.Data), `"data":"0x`) {
		t.Errorf("got %.50s", expectText.Data)
	}
	if err := first.Send([]byte("end")); err != nil {
		t.Error(err)
	}
	c.Expect("end")
}

func TestAReplayOfHandleCallsThatAreLargerThanMaxPendingGoesOn(t *testing.T) {
	hub := newHub(t, &grouphub.Options{Policy: keeping(100), MaxPending: 64 << 10, Consumer: grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error { return c.Join("g", grouphub.Last(100)) },
		Events: grouphub.Events{"n": grouphub.Handle(func(c *grouphub.Conn, e grouphub.Event) error {
			return c.SendJSON(len(e.Data))
		})},
	}})
	for i := range 10 {
		send(t, hub, "g", "n", strings.Repeat("x", 100<<10+i))
	}
	for _, opts := range [][]hubtest.DialOption{nil, {hubtest.AsStream()}} {
		c := hubtest.Dial(t, hub, "/", opts...)
		for i := range 10 {
			c.Expect(fmt.Sprint(100<<10 + i + 2))
		}
	}
	resuming := hubtest.Dial(t, hub, "/?resume=")
	for i := range 10 {
		for m := resuming.Next(); string(m.Data) != fmt.Sprint(100<<10+i+2); m = resuming.Next() {
			if !strings.Contains(string(m.Data), "grouphub.position") {
				t.Fatalf("got %.100s", m.Data)
			}
		}
	}
}
