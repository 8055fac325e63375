package grouphub_test

import (
	"fmt"
	"testing"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
)

// onlyFor lets an event pass whose data is the name that the connection's query says.
func onlyFor(c *grouphub.Conn, e grouphub.Event) bool {
	c.In(e.Group) // which takes a lock, as an application may
	return string(e.Data) == fmt.Sprintf("%q", c.Request().URL.Query().Get("name"))
}

func TestIfIsAskedForEachConnectionWhateverHandlesTheEvent(t *testing.T) {
	events := grouphub.Events{
		"forward": grouphub.Forward().If(onlyFor),
		"render": grouphub.Render(func(e grouphub.Event) ([]byte, error) {
			return append([]byte("rendered "), e.Data...), nil
		}).If(onlyFor),
		"handle": grouphub.Handle(func(c *grouphub.Conn, e grouphub.Event) error {
			return c.SendJSON(map[string]any{"type": "handled", "data": e.Data})
		}).If(onlyFor),
		"note": grouphub.Forward(),
	}
	for name, policy := range map[string]func(string) grouphub.GroupPolicy{"live": nil, "with history": keeping(100)} {
		t.Run(name, func(t *testing.T) {
			hub := newHub(t, &grouphub.Options{Policy: policy, Logger: quiet(), Consumer: grouphub.Consumer{
				Connect: func(c *grouphub.Conn) error { return c.Join("all", grouphub.Last(100)) }, Events: events}})
			sendAll := func() {
				for range 10 {
					for _, who := range []string{"ann", "bob", "eve"} {
						for _, event := range []string{"forward", "render"} {
							send(t, hub, "all", event, who)
						}
					}
					send(t, hub, "all", "note", nil)
				}
				send(t, hub, "all", "handle", "ann")
				send(t, hub, "all", "handle", "bob")
				send(t, hub, "all", "handle", "eve")
			}
			expectAll := func(c *hubtest.Client, who string) {
				t.Helper()
				for range 10 {
					if e := c.ExpectEvent("forward"); string(e.Data) != fmt.Sprintf("%q", who) {
						t.Fatalf("%s got %s", who, e.Data)
					}
					c.Expect(fmt.Sprintf("rendered %q", who))
					c.ExpectEvent("note")
				}
				if e := c.ExpectEvent("handled"); string(e.Data) != fmt.Sprintf("%q", who) {
					t.Fatalf("%s got %s", who, e.Data)
				}
			}
			ann, bob := hubtest.Dial(t, hub, "/?name=ann"), hubtest.Dial(t, hub, "/?name=bob", hubtest.AsStream())
			sendAll()
			expectAll(ann, "ann")
			expectAll(bob, "bob")
			if policy != nil { // the same in a replay
				expectAll(hubtest.Dial(t, hub, "/?name=eve"), "eve")
			}
			if s := hub.Stats(); s.Dropped+s.Unhandled != 0 {
				t.Errorf("%+v", s)
			}
		})
	}
}

func TestAllOfSeveralIfsHaveToAgree(t *testing.T) {
	hub, conns := connections(t, grouphub.Consumer{Connect: joinAll, Events: grouphub.Events{
		"note": grouphub.Forward().If(func(_ *grouphub.Conn, e grouphub.Event) bool { return string(e.Data) > "1" }).
			If(func(_ *grouphub.Conn, e grouphub.Event) bool { return string(e.Data) < "4" }),
		"end": grouphub.Forward(),
	}})
	c := hubtest.Dial(t, hub, "/")
	for i := range 6 {
		send(t, hub, "all", "note", i)
	}
	expectData(t, c, 2, 3)
	channel := (<-conns).Channel()
	for i := range 6 { // to one connection
		if err := hub.Send(background, channel, "note", i); err != nil {
			t.Fatal(err)
		}
	}
	expectData(t, c, 2, 3)
	send(t, hub, "all", "end", nil)
	c.ExpectEvent("end")
}

func TestAnIfThatPanicsEndsItsConnectionAndNoOther(t *testing.T) {
	hub := hubOf(t, grouphub.Consumer{Connect: joinAll, Events: grouphub.Events{
		"note": grouphub.Forward().If(func(c *grouphub.Conn, _ grouphub.Event) bool {
			if c.Request().URL.RawQuery == "bad" {
				panic("on purpose")
			}
			return true
		})}})
	good, bad := hubtest.Dial(t, hub, "/"), hubtest.Dial(t, hub, "/?bad")
	send(t, hub, "all", "note", 1)
	send(t, hub, "all", "note", 2)
	expectData(t, good, 1, 2)
	bad.ExpectClose(1011)
}

func TestAClientThatResumesGoesOnWhileAnIfIsAskedAboutWhatComes(t *testing.T) {
	const total = 2000
	// All of it is kept: a client may be slower than whoever sends.
	hub := newHub(t, &grouphub.Options{Policy: keeping(total), Consumer: grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error { return c.Join("all", grouphub.Last(1000)) },
		Events: grouphub.Events{"note": grouphub.Forward().If(func(_ *grouphub.Conn, e grouphub.Event) bool {
			var n int
			return e.Decode(&n) == nil && n%2 == 0
		})},
	}})
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for i := 1; i <= total; i++ {
			send(t, hub, "all", "note", i)
		}
	}()
	for range 20 {
		c := hubtest.Dial(t, hub, "/")
		last := 0
		for range 50 {
			var n int
			if err := c.ExpectEvent("note").Decode(&n); err != nil || n%2 != 0 || last != 0 && n != last+2 {
				t.Fatalf("after %d came %d: %v", last, n, err)
			}
			if last = n; n == total {
				break
			}
		}
		c.Close()
	}
	<-sent
}
