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
		"empty": grouphub.Render(func(grouphub.Event) ([]byte, error) { return nil, nil }),
	}})
	a, b := hubtest.Dial(t, hub, "/"), hubtest.Dial(t, hub, "/")
	for _, event := range []string{"error", "panic", "bytes", "empty"} {
		send(t, hub, "all", event, nil)
	}
	a.Expect("")
	b.Expect("")
	eventually(t, func() bool { return hub.Stats().Dropped == 6 }, "%+v", hub.Stats())
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
