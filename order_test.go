package grouphub_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
)

// mixed returns the events of a consumer that forwards "n", renders "rendered", and handles
// "slow", each of which waits for a token. What the client gets has the event's id.
func mixed(tokens <-chan struct{}) grouphub.Events {
	return grouphub.Events{
		"n":        grouphub.Forward(),
		"rendered": grouphub.Render(func(e grouphub.Event) ([]byte, error) { return json.Marshal(e) }),
		"slow": grouphub.Handle(func(c *grouphub.Conn, e grouphub.Event) error {
			<-tokens
			return c.SendJSON(e)
		}),
	}
}

func allTokens() chan struct{} {
	tokens := make(chan struct{})
	close(tokens)
	return tokens
}

// expectData expects events with these data, in this order, and returns the last one's id.
func expectData(t *testing.T, c *hubtest.Client, want ...any) (id string) {
	t.Helper()
	for _, w := range want {
		var e grouphub.Event
		if err := c.Next().Decode(&e); err != nil || string(e.Data) != fmt.Sprint(w) {
			t.Fatalf("got %s with %s, %v, want %v", e.Type, e.Data, err, w)
		}
		id = e.ID
	}
	return id
}

func TestAGroupWithHistoryHasOneOrderWhateverHandlesItsEvents(t *testing.T) {
	joinG := func(c *grouphub.Conn) error { return c.Join("g") }
	for name, test := range map[string]struct {
		live bool
		join func(c *grouphub.Conn) error
	}{
		"live":     {true, joinG},
		"replayed": {false, func(c *grouphub.Conn) error { return c.Join("g", grouphub.Last(100)) }},
	} {
		t.Run(name, func(t *testing.T) {
			tokens, conns := make(chan struct{}, 100), make(chan *grouphub.Conn, 1)
			hub := newHub(t, &grouphub.Options{Policy: keeping(100)})
			handler := hub.Handler(grouphub.Consumer{
				Connect: func(c *grouphub.Conn) error { conns <- c; return test.join(c) }, Events: mixed(tokens)})
			witness := hubtest.Dial(t, hub.Handler(grouphub.Consumer{Connect: joinG, Events: grouphub.Events{"*": grouphub.Forward()}}), "/")
			dial := func() (*hubtest.Client, string) { return hubtest.Dial(t, handler, "/"), (<-conns).Channel() }
			var c *hubtest.Client
			channel := "nobody!1"
			if test.live {
				c, channel = dial()
			}
			for i, event := range []string{"n", "rendered", "slow", "n", "slow", "rendered", "unknown", "n"} {
				send(t, hub, "g", event, i)
				if i == 3 {
					send(t, hub, "g", "n", "excepted", grouphub.Except(channel))
				}
			}
			if !test.live {
				c, _ = dial()
			}
			// Those that wait for it hold nobody else up.
			want := []any{0, 1, 2, 3, `"excepted"`, 4, 5, 6, 7}
			expectData(t, witness, want...)
			expectData(t, c, 0, 1)
			tokens <- struct{}{}
			rest := []any{4, 5, 7}
			if !test.live {
				rest = []any{`"excepted"`, 4, 5, 7}
			}
			expectData(t, c, 2, 3)
			if !test.live {
				expectData(t, c, rest[0])
				rest = rest[1:]
			}
			send(t, hub, "g", "n", 8)
			tokens <- struct{}{}
			expectData(t, c, append(rest, 8)...)
			// Nothing waits any more.
			send(t, hub, "g", "n", 9)
			expectData(t, c, 9)
			eventually(t, func() bool { s := hub.Stats(); return s.Unhandled == 1 && s.Dropped == 0 }, "%+v", hub.Stats())
		})
	}
}

func TestAResumeLosesNoHandleThatAForwardWouldHaveOvertaken(t *testing.T) {
	tokens := make(chan struct{}, 100)
	hub := newHub(t, &grouphub.Options{Policy: keeping(100), Consumer: grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error { return c.Join("g") }, Events: mixed(tokens)}})
	s := serve(t, hub)
	client := s.dial("/?resume=")
	read := func() (e grouphub.Event) {
		t.Helper()
		if err := json.Unmarshal([]byte(next(t, client)), &e); err != nil {
			t.Fatal(err)
		}
		return e
	}
	position := read().ID
	for i := range 6 {
		send(t, hub, "g", []string{"slow", "n"}[i%2], i)
	}
	tokens <- struct{}{}
	want := 0
	for want < 2 { // the third waits, and so does the fourth
		e := read()
		if position = e.ID; e.Type == "grouphub.position" {
			continue
		}
		if string(e.Data) != fmt.Sprint(want) {
			t.Fatalf("got %s, want %d", e.Data, want)
		}
		want++
	}
	client.NetConn().Close()
	for range 100 - len(tokens) {
		tokens <- struct{}{}
	}
	client = s.dial("/" + resumeQuery("g", position))
	for want < 6 {
		if e := read(); e.Type != "grouphub.position" {
			if string(e.Data) != fmt.Sprint(want) {
				t.Fatalf("got %s %s, want %d", e.Type, e.Data, want)
			}
			want++
		}
	}
}

// What a client has missed is larger than MaxPending, and so is what comes meanwhile: it is
// closed as too slow now and then, and comes back.
func TestEveryEventExactlyOnceWhateverHandlesItWhileAClientIsCutAgainAndAgain(t *testing.T) {
	t.Parallel()
	layer := grouphub.NewMemoryLayer()
	var hubs []*grouphub.Hub
	for range 2 {
		options := followed(layer)
		options.Policy, options.MaxPending = keeping(5_000), 100_000
		options.Consumer.Events = mixed(allTokens())
		hubs = append(hubs, newHub(t, options))
	}
	expectExactlyOnce(t, hubs, 3_000, func() {}, "slow", "n", "slow", "rendered", "slow")
}

// The position is where the client is when it has all that was replayed.
func TestThePositionComesBehindTheHandleCallsOfAReplay(t *testing.T) {
	tokens := make(chan struct{}, 1)
	hub := newHub(t, &grouphub.Options{Policy: keeping(100), Consumer: grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error { return c.Join("g", grouphub.Last(1)) }, Events: mixed(tokens)}})
	send(t, hub, "g", "slow", 1)
	c := hubtest.Dial(t, hub, "/?resume=")
	tokens <- struct{}{}
	id := expectData(t, c, 1)
	if e := c.ExpectEvent("grouphub.position"); e.ID != id {
		t.Errorf("the position is %s, want %s", e.ID, id)
	}
}

func TestWhatWaitsForAHandleIsNotPushedAfterALeave(t *testing.T) {
	tokens, conns := make(chan struct{}, 1), make(chan *grouphub.Conn, 1)
	hub := newHub(t, &grouphub.Options{Policy: keeping(100), Consumer: grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error { conns <- c; return c.Join("g") }, Events: mixed(tokens)}})
	c := hubtest.Dial(t, hub, "/")
	conn := <-conns
	for i, event := range []string{"slow", "slow", "n"} {
		send(t, hub, "g", event, i)
	}
	tokens <- struct{}{}
	expectData(t, c, 0)
	tokens <- struct{}{}
	expectData(t, c, 1)
	send(t, hub, "g", "slow", 3)
	send(t, hub, "g", "slow", 4)
	send(t, hub, "g", "n", 5)
	expectData(t, c, 2)
	tokens <- struct{}{}
	expectData(t, c, 3)
	for i, err := range []error{conn.Leave("g"), conn.Join("g")} {
		if err != nil {
			t.Fatal(i, err)
		}
	}
	send(t, hub, "g", "n", 6)
	tokens <- struct{}{} // for the one that may have begun before the Leave
	var e grouphub.Event
	for string(e.Data) != "6" {
		if err := c.Next().Decode(&e); err != nil || string(e.Data) == "5" {
			t.Fatalf("got %s, %v", e.Data, err)
		}
	}
}

func TestGroupCloseComesBehindTheHandleCallsOfAGroupWithHistory(t *testing.T) {
	for name, blocks := range map[string]bool{"that end": false, "that block": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tokens := make(chan struct{})
				hub := grouphub.New(&grouphub.Options{Policy: keeping(100), CloseTimeout: 3 * time.Second, Consumer: grouphub.Consumer{
					Connect: func(c *grouphub.Conn) error { return c.Join("g") }, Events: mixed(tokens)}})
				c := hubtest.Dial(t, hub, "/")
				for i, event := range []string{"slow", "n", "slow"} {
					send(t, hub, "g", event, i)
				}
				start := time.Now()
				if err := hub.GroupClose(background, "g", 4000, "bye"); err != nil {
					t.Fatal(err)
				}
				if !blocks {
					close(tokens)
					expectData(t, c, 0, 1, 2)
				}
				c.ExpectClose(4000)
				if took := time.Since(start); blocks && took != 3*time.Second || !blocks && took > time.Second {
					t.Errorf("closed after %v", took)
				}
				if blocks {
					close(tokens)
				}
				hub.Shutdown(background)
				time.Sleep(time.Minute) // a timer is left
			})
		})
	}
}

// The id of a frame that overtook a Resync would be one to resume from, and the Resync lost.
func TestFramesWaitForTheResyncBeforeThem(t *testing.T) {
	layer := newFaultyLayer()
	entered, proceed := make(chan struct{}), make(chan struct{})
	hub := newHub(t, &grouphub.Options{Layer: layer, Policy: keeping(5), Consumer: grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error { return c.Join("g") },
		Receive: func(*grouphub.Conn, grouphub.Message) error { close(entered); <-proceed; return nil },
		Resync:  func(c *grouphub.Conn, groups []string) { c.Send([]byte("resync of " + strings.Join(groups, " "))) },
		Events:  grouphub.Events{"n": grouphub.Forward()},
	}})
	c := hubtest.Dial(t, hub, "/")
	sendNumbers(t, hub, "g", 1, 1)
	expectNumbers(t, c, 1, 1)
	c.Send("block")
	<-entered
	layer.setFault(loseAll)
	sendNumbers(t, hub, "g", 2, 20)
	layer.setFault(nil)
	sendNumbers(t, hub, "g", 21, 21)
	eventually(t, func() bool { return hub.Stats().Resyncs == 1 }, "no Resync")
	close(proceed)
	c.Expect("resync of g")
	expectNumbers(t, c, 17, 21)
}
