package grouphub_test

import (
	"encoding/json"
	"errors"
	"log/slog"
	"regexp"
	"strings"
	"testing"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
)

func TestRenderThatFailsIsCountedAndClosesNothing(t *testing.T) {
	hub := hubOf(t, grouphub.Consumer{Connect: joinAll, Events: grouphub.Events{
		"error": grouphub.Render(func(grouphub.Event) ([]byte, error) { return nil, errors.New("broken") }),
		"panic": grouphub.Render(func(grouphub.Event) ([]byte, error) { panic("broken") }),
		"bytes": grouphub.Render(func(grouphub.Event) ([]byte, error) { return []byte{0xff}, nil }),
		"empty": grouphub.Render(func(grouphub.Event) ([]byte, error) { return []byte{}, nil }),
	}})
	a, b := hubtest.Dial(t, hub, "/"), hubtest.Dial(t, hub, "/")
	for _, event := range []string{"error", "panic", "bytes", "empty"} {
		send(t, hub, "all", event, nil)
	}
	a.Expect("")
	b.Expect("")
	eventually(t, func() bool { return hub.Stats().Dropped == 6 }, "%+v", hub.Stats())
}

func TestARenderThatReturnsNilSendsNothing(t *testing.T) {
	for name, policy := range map[string]func(string) grouphub.GroupPolicy{"live": nil, "replayed": keeping(10)} {
		t.Run(name, func(t *testing.T) {
			hub := newHub(t, &grouphub.Options{Policy: policy, Consumer: grouphub.Consumer{
				Connect: func(c *grouphub.Conn) error { return c.Join("all", grouphub.Last(10)) },
				Events: grouphub.Events{
					"odd": grouphub.Render(func(e grouphub.Event) ([]byte, error) {
						if n := string(e.Data); n == "1" || n == "3" {
							return e.Data, nil
						}
						return nil, nil
					}),
					"note": grouphub.Forward(),
				}}})
			sendAll := func() {
				for n := range 5 {
					send(t, hub, "all", "odd", n)
				}
				send(t, hub, "all", "odd", 0)
			}
			var clients []*hubtest.Client
			if policy == nil {
				clients = []*hubtest.Client{hubtest.Dial(t, hub, "/"), hubtest.Dial(t, hub, "/")}
				sendAll()
			} else {
				sendAll()
				clients = []*hubtest.Client{hubtest.Dial(t, hub, "/"), hubtest.Dial(t, hub, "/")}
			}
			send(t, hub, "all", "odd", 1)
			for _, c := range clients {
				for _, want := range []string{"1", "3", "1"} {
					c.Expect(want)
				}
			}
			// A frame is counted just after it is pushed.
			eventually(t, func() bool { return hub.Stats().Delivered == 6 }, "%d frames", hub.Stats().Delivered)
			if n := hub.Stats().Dropped; n != 0 {
				t.Errorf("%d dropped", n)
			}
		})
	}
}

func TestHandleAsDecodesAndABadEventClosesNobody(t *testing.T) {
	hub := hubOf(t, grouphub.Consumer{Connect: joinAll, Events: grouphub.Events{
		"typed": grouphub.HandleAs(func(c *grouphub.Conn, v struct{ N int }) error { return c.SendJSON(v.N) }),
		"event": grouphub.Handle(func(c *grouphub.Conn, e grouphub.Event) error { return c.SendJSON(e) }),
	}})
	c := hubtest.Dial(t, hub, "/")
	send(t, hub, "all", "typed", map[string]any{"N": "seven"})
	send(t, hub, "all", "typed", map[string]any{"N": 7})
	c.Expect("7")
	send(t, hub, "all", "typed", nil)
	c.Expect("0")
	send(t, hub, "all", "event", json.RawMessage(`{"a": "<&>"}`))
	c.Expect(`{"type":"event","group":"all","data":{"a":"\u003c\u0026\u003e"}}`)
	if n := hub.Stats().Dropped; n != 1 {
		t.Errorf("%d dropped", n)
	}
}

func TestEventTypesWithoutAHandlerReachNoClient(t *testing.T) {
	var logged safeBuffer
	hub := newHub(t, &grouphub.Options{Consumer: noteConsumer,
		Logger: slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	c := hubtest.Dial(t, hub, "/")
	other := hubtest.Dial(t, hub.Handler(noteConsumer), "/") // another consumer with the same events
	for range 3 {
		send(t, hub, "all", "mystery", nil)
		send(t, hub, "all", "riddle", nil)
	}
	send(t, hub, "all", "note", 1)
	c.ExpectEvent("note")
	other.ExpectEvent("note")
	eventually(t, func() bool { return hub.Stats().Unhandled == 12 }, "not all are counted") // just after the push
	star := hubtest.Dial(t, hub.Handler(grouphub.Consumer{Connect: joinAll, Events: grouphub.Events{"*": grouphub.Forward()}}), "/")
	send(t, hub, "all", "mystery", 1)
	star.ExpectEvent("mystery")
	if err := hub.Shutdown(background); err != nil { // now all is logged
		t.Fatal(err)
	}
	for _, event := range []string{"mystery", "riddle"} {
		line := regexp.MustCompile(`(?m)^.* level=DEBUG .*type=` + event + `$`)
		if n := len(line.FindAllString(logged.String(), -1)); n != 1 || strings.Count(logged.String(), event) != 1 {
			t.Errorf("%s is not logged once at debug level:\n%s", event, logged.String())
		}
	}
}

func TestRenderBinarySendsBinaryMessages(t *testing.T) {
	bytes := []byte{0xff, 0, '\n', 0xfe}
	hub := newHub(t, &grouphub.Options{Policy: keeping(10), Consumer: grouphub.Consumer{
		Connect: joinAll,
		Events: grouphub.Events{
			"picture": grouphub.RenderBinary(func(e grouphub.Event) ([]byte, error) {
				if string(e.Data) == "0" {
					return nil, nil
				}
				return bytes, nil
			}),
			"note": grouphub.Forward(),
		}}})
	clients := []*hubtest.Client{hubtest.Dial(t, hub, "/"), hubtest.Dial(t, hub, "/", hubtest.AsStream())}
	asking := hubtest.Dial(t, hub, "/?resume=") // is told where it is, which the picture does not say
	asking.ExpectEvent("grouphub.position")
	for i := range 3 {
		send(t, hub, "all", "picture", i)
	}
	send(t, hub, "all", "note", nil)
	for _, c := range clients {
		for range 2 {
			if m := c.Next(); !m.Binary || string(m.Data) != string(bytes) {
				t.Errorf("got %+v", m)
			}
		}
		c.ExpectEvent("note")
	}
	for _, binary := range []bool{false, true, false, true, false, false} {
		if m := asking.Next(); m.Binary != binary {
			t.Errorf("got %+v, want binary %v", m, binary)
		}
	}
}

func TestIgnoredEventsAreKnownAndNothingHappens(t *testing.T) {
	hub := hubOf(t, grouphub.Consumer{Connect: joinAll, Events: grouphub.Events{
		"typing": grouphub.Ignore(), "*": grouphub.Forward(),
	}})
	clients := []*hubtest.Client{hubtest.Dial(t, hub, "/"), hubtest.Dial(t, hub, "/", hubtest.AsStream())}
	send(t, hub, "all", "typing", nil)
	send(t, hub, "all", "note", nil)
	for _, c := range clients {
		c.ExpectEvent("note")
	}
	if s := hub.Stats(); s.Unhandled+s.Dropped != 0 {
		t.Errorf("%+v", s)
	}
}
