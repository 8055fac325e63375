package grouphub_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
)

func TestGroupAddOfAnotherHubsChannel(t *testing.T) {
	layer := grouphub.NewMemoryLayer()
	conns := make(chan *grouphub.Conn, 1)
	one := newHub(t, &grouphub.Options{Layer: layer, Consumer: grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error { conns <- c; return nil },
		Events:  grouphub.Events{"*": grouphub.Forward()},
	}})
	two := newHub(t, &grouphub.Options{Layer: layer})
	c := hubtest.Dial(t, one, "/")
	conn := <-conns
	if err := two.GroupAdd(background, "g", conn.Channel()); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { return len(conn.Groups()) == 1 }, "not added")
	send(t, two, "g", "note", 1)
	c.ExpectEvent("note")
	if err := two.GroupDiscard(background, "g", conn.Channel()); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { return len(conn.Groups()) == 0 }, "not discarded")
	if err := two.Send(background, conn.Channel(), "direct", 2); err != nil {
		t.Fatal(err)
	}
	c.Expect(`{"type":"direct","data":2}`)
	c.Close()
	eventually(t, func() bool { return one.Stats().Conns == 0 }, "still there")
	if err := one.GroupAdd(background, "g", conn.Channel()); !errors.Is(err, grouphub.ErrClosed) {
		t.Errorf("GroupAdd of a closed connection: %v", err)
	}
	if err := one.GroupDiscard(background, "g", conn.Channel()); err != nil {
		t.Errorf("GroupDiscard of a closed connection: %v", err)
	}
	if err := one.Send(background, conn.Channel(), "direct", 2); !errors.Is(err, grouphub.ErrClosed) {
		t.Errorf("Send to a closed connection: %v", err)
	}
	if err := two.Send(background, conn.Channel(), "direct", 2); err != nil {
		t.Errorf("Send to a closed connection of another hub: %v", err)
	}
	eventually(t, func() bool { return one.Stats().Dropped == 1 }, "not counted")
}

func TestExceptLeavesConnectionsOut(t *testing.T) {
	hub, conns := connections(t, noteConsumer)
	a := hubtest.Dial(t, hub, "/")
	channel := (<-conns).Channel()
	b := hubtest.Dial(t, hub, "/")
	for i := range 200 { // in runs, of which a gets parts
		var opts []grouphub.SendOption
		if i%3 != 0 {
			opts = append(opts, grouphub.Except(channel, "nobody!1"))
		}
		send(t, hub, "all", "note", i, opts...)
	}
	for i := range 200 {
		b.Expect(fmt.Sprintf(`{"type":"note","group":"all","data":%d}`, i))
		if i%3 == 0 {
			a.Expect(fmt.Sprintf(`{"type":"note","group":"all","data":%d}`, i))
		}
	}
	if err := hub.GroupClose(background, "all", 4000, "", grouphub.Except(channel)); err != nil {
		t.Fatal(err)
	}
	b.ExpectClose(4000)
	send(t, hub, "all", "note", "still here")
	a.ExpectEvent("note")
}

func TestGroupCloseComesAfterWhatWasSentBefore(t *testing.T) {
	hub := hubOf(t, noteConsumer)
	c := hubtest.Dial(t, hub, "/")
	for i := range 100 {
		send(t, hub, "all", "note", i)
	}
	if err := hub.GroupClose(background, "all", 4000, "bye"); err != nil {
		t.Fatal(err)
	}
	for range 100 {
		c.ExpectEvent("note")
	}
	c.ExpectClose(4000)
	if err := hub.GroupClose(background, "all", 1005, ""); err == nil {
		t.Error("GroupClose with 1005 was accepted")
	}
}

func TestNames(t *testing.T) {
	hub, conns := connections(t, grouphub.Consumer{})
	hubtest.Dial(t, hub, "/")
	conn := <-conns
	for _, name := range []string{"", "a\nb", "\xff", strings.Repeat("x", 256), "a\x7f", "\u0085"} {
		for operation, err := range map[string]error{
			"Join": conn.Join(name), "Leave": conn.Leave(name),
			"GroupAdd":         hub.GroupAdd(background, name, conn.Channel()),
			"GroupAdd channel": hub.GroupAdd(background, "g", name),
			"GroupDiscard":     hub.GroupDiscard(background, name, conn.Channel()),
			"GroupSend":        hub.GroupSend(background, name, "note", nil),
			"GroupSend event":  hub.GroupSend(background, "g", name, nil),
			"GroupClose":       hub.GroupClose(background, name, 1000, ""),
			"Send":             hub.Send(background, name, "note", nil),
			"Receive":          second(hub.Receive(background, name)),
		} {
			if !errors.Is(err, grouphub.ErrInvalidName) {
				t.Errorf("%s of %q: %v", operation, name, err)
			}
		}
	}
	if err := hub.GroupAdd(background, "g", "queue"); !errors.Is(err, grouphub.ErrInvalidName) {
		t.Errorf("GroupAdd of a queue: %v", err)
	}
	if _, err := hub.Receive(background, conn.Channel()); !errors.Is(err, grouphub.ErrInvalidName) {
		t.Errorf("Receive from a connection: %v", err)
	}
	if got := conn.Groups(); len(got) != 0 {
		t.Errorf("Groups are %q", got)
	}
	for _, name := range []string{"x", strings.Repeat("x", 255), "Füße 日本", "a!b", "a:b"} {
		if err := conn.Join(name); err != nil {
			t.Error(err)
		}
	}
}

func TestEventLargerThanMaxEventSizeIsErrTooLarge(t *testing.T) {
	hub := newHub(t, &grouphub.Options{MaxEventSize: 100, Consumer: noteConsumer})
	c := hubtest.Dial(t, hub, "/")
	err := hub.GroupSend(background, "all", "note", strings.Repeat("x", 100))
	if !errors.Is(err, grouphub.ErrTooLarge) || !strings.Contains(err.Error(), "100") {
		t.Error(err)
	}
	if err := hub.GroupSend(background, "all", "note", json.RawMessage(`{"broken`)); err == nil {
		t.Error("broken JSON was accepted")
	}
	send(t, hub, "all", "note", 1)
	c.Expect(`{"type":"note","group":"all","data":1}`)
	big := newHub(t, &grouphub.Options{Consumer: noteConsumer})
	s := serve(t, big)
	conn := s.dial("/")
	text := strings.Repeat("x", 1<<20-100) // as large as may be, and all that may wait
	send(t, big, "all", "note", text)
	wantNext(t, conn, `{"type":"note","group":"all","data":"`+text+`"}`)
}

// A client sends a binary message that is JSON, but not UTF-8.
func TestRawMessageThatIsNotUTF8ReachesNobodyAsText(t *testing.T) {
	bad := json.RawMessage("\"\xff\"")
	hub, conns := connections(t, grouphub.Consumer{
		Connect: joinAll,
		Receive: func(c *grouphub.Conn, m grouphub.Message) error {
			return c.Hub().GroupSend(c.Context(), "all", "note", json.RawMessage(m.Data))
		},
		Events: grouphub.Events{"note": grouphub.Forward()},
	})
	c := hubtest.Dial(t, hub, "/")
	conn := <-conns
	if err := hub.GroupSend(background, "all", "note", bad); err == nil {
		t.Errorf("GroupSend took invalid UTF-8")
		if m := c.Next(); !utf8.Valid(m.Data) {
			t.Errorf("text frame of %q: every browser in the group closes with 1007", m.Data)
		}
	}
	if err := conn.SendJSON(bad); err == nil {
		t.Errorf("SendJSON took invalid UTF-8")
	}
}

func ExampleHub_GroupSend() {
	hub := grouphub.New(nil)
	defer hub.Shutdown(context.Background())
	err := hub.GroupSend(context.Background(), "room:lobby", "chat.message", map[string]string{"text": "hello"})
	fmt.Println(err)
	// Output: <nil>
}
