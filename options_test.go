package grouphub_test

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
)

func TestNewPanicsOnlyOnContradictoryOptions(t *testing.T) {
	for _, o := range []grouphub.Options{
		{MaxConns: -1}, {MaxMessageSize: -1}, {PongTimeout: time.Second, PingInterval: time.Second}, {CloseTimeout: -1},
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("New(%+v) did not panic", o)
				}
			}()
			grouphub.New(&o)
		}()
	}
	newHub(t, &grouphub.Options{PingInterval: time.Hour})
	newHub(t, &grouphub.Options{PongTimeout: time.Second})
	// It may mean never.
	newHub(t, &grouphub.Options{PingInterval: math.MaxInt64})
	newHub(t, &grouphub.Options{PingInterval: math.MaxInt64, PongTimeout: math.MaxInt64})
	newHub(t, &grouphub.Options{PongTimeout: math.MaxInt64})
}

// A limit may be so high that it means none.
func TestHugeMaxPendingDoesNotKillAtTheFirstPing(t *testing.T) {
	hub := newHub(t, &grouphub.Options{MaxPending: math.MaxInt, Consumer: grouphub.Consumer{
		Receive: func(c *grouphub.Conn, m grouphub.Message) error { return c.Send(m.Data) },
	}})
	c := serve(t, hub).dial("/")
	c.WriteControl(websocket.PingMessage, nil, time.Now().Add(time.Second))
	c.WriteMessage(websocket.TextMessage, []byte("x"))
	c.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, _, err := c.ReadMessage(); err != nil {
		t.Errorf("after a ping: %v", err)
	}
}

func TestHugeMaxMessageSizeWithCompression(t *testing.T) {
	hub := newHub(t, &grouphub.Options{MaxMessageSize: math.MaxInt64, Compression: true, Consumer: grouphub.Consumer{
		Receive: func(c *grouphub.Conn, m grouphub.Message) error { return c.Send(m.Data) },
	}})
	c := serve(t, hub).dialWith(&websocket.Dialer{EnableCompression: true}, "/")
	c.WriteMessage(websocket.TextMessage, []byte("hello"))
	wantNext(t, c, "hello")
}

func TestOnePolicy(t *testing.T) {
	var logged safeBuffer
	layer := grouphub.NewMemoryLayer()
	groups := []string{"a", "b"}
	hub := newHub(t, &grouphub.Options{Layer: layer, Policy: keeping(10), Logger: slog.New(slog.NewTextHandler(&logged, nil)),
		Consumer: grouphub.Consumer{
			Connect: func(c *grouphub.Conn) error { return errors.Join(c.Join("a"), c.Join("b")) },
			Events:  grouphub.Events{"note": grouphub.Forward()},
		}})
	other := newHub(t, &grouphub.Options{Layer: layer}) // a worker that was given no Policy
	c := hubtest.Dial(t, hub, "/")
	const events = 20
	for i := range events {
		for _, group := range groups {
			send(t, other, group, "note", i)
			c.Expect(fmt.Sprintf(`{"type":"note","group":"%s","data":%d}`, group, i))
		}
	}
	if n := hub.Stats().PolicyMismatch; n != 2*events {
		t.Errorf("PolicyMismatch is %d, want %d", n, 2*events)
	}
	if err := hub.Shutdown(background); err != nil { // now all is logged
		t.Fatal(err)
	}
	if n := strings.Count(logged.String(), "level=ERROR"); n != len(groups) || strings.Count(logged.String(), "Policy") != n {
		t.Errorf("logged %d errors, want one for each group:\n%s", n, logged.String())
	}
	for _, group := range groups {
		if !strings.Contains(logged.String(), `group="\"`+group+`\""`) {
			t.Errorf("group %s is not logged:\n%s", group, logged.String())
		}
	}
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
