package grouphub_test

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
)

func TestHandlersShareOneHub(t *testing.T) {
	hub := newHub(t, nil)
	other := noteConsumer
	other.Events = grouphub.Events{"note": grouphub.Render(func(e grouphub.Event) ([]byte, error) {
		return fmt.Appendf(nil, "<b>%s</b>", e.Data), nil
	})}
	a := hubtest.Dial(t, hub.Handler(noteConsumer), "/")
	b := hubtest.Dial(t, hub.Handler(other), "/")
	send(t, hub, "all", "note", 1)
	a.Expect(`{"type":"note","group":"all","data":1}`)
	b.Expect(`<b>1</b>`)
}

func TestPingGoesThroughTheLayer(t *testing.T) {
	hub := newHub(t, nil)
	if err := hub.Ping(background); err != nil {
		t.Fatal(err)
	}
	layer := newFaultyLayer()
	layer.publish = func(grouphub.Publication) error { return grouphub.ErrUnavailable }
	down := newHub(t, &grouphub.Options{Layer: layer})
	if err := down.Ping(background); !errors.Is(err, grouphub.ErrUnavailable) {
		t.Error(err)
	}
}

func TestErrorsAreTheSenders(t *testing.T) {
	for _, want := range []error{grouphub.ErrUnavailable, grouphub.ErrUncertain} {
		layer := newFaultyLayer()
		layer.publish = func(grouphub.Publication) error { return fmt.Errorf("%w: pulled the plug", want) }
		hub := newHub(t, &grouphub.Options{
			Layer: layer,
			Consumer: grouphub.Consumer{
				Connect: joinAll,
				Receive: func(c *grouphub.Conn, m grouphub.Message) error {
					if string(m.Data) == "ping" {
						return c.Send([]byte("pong"))
					}
					return c.Hub().GroupSend(c.Context(), "all", "note", 1)
				},
			},
		})
		a, b := hubtest.Dial(t, hub, "/"), hubtest.Dial(t, hub, "/")
		if err := hub.GroupSend(background, "all", "note", 1); !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
		if err := hub.GroupClose(background, "all", 4000, ""); !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
		// The sockets stay open, but for one whose callback returns the error.
		a.Send("send")
		a.ExpectClose(1013)
		b.Send("ping")
		b.Expect("pong")
		b.Close()
	}
}

func TestALayerBelongsToWhoeverMadeIt(t *testing.T) {
	layer := grouphub.NewMemoryLayer()
	one, two := grouphub.New(&grouphub.Options{Layer: layer, Consumer: noteConsumer}), newHub(t, &grouphub.Options{Layer: layer, Consumer: noteConsumer})
	a, b := hubtest.Dial(t, one, "/"), hubtest.Dial(t, two, "/")
	send(t, one, "all", "note", 1)
	a.ExpectEvent("note")
	b.ExpectEvent("note")
	if err := one.Shutdown(background); err != nil {
		t.Fatal(err)
	}
	a.ExpectClose(1001)
	send(t, two, "all", "note", 2)
	b.ExpectEvent("note")
	if err := layer.Publish(background, grouphub.Publication{Topic: "t"}); err != nil {
		t.Errorf("the layer is closed: %v", err)
	}
	// One that New has made is the hub's.
	own := grouphub.New(nil)
	if err := own.Shutdown(background); err != nil {
		t.Fatal(err)
	}
	if err := grouphub.LayerOf(own).Publish(background, grouphub.Publication{Topic: "t"}); !errors.Is(err, grouphub.ErrClosed) {
		t.Errorf("Publish on a hub's own layer after Shutdown: %v", err)
	}
}

func TestLogHandlerMayUseTheHub(t *testing.T) {
	var conn *grouphub.Conn
	logged := make(chan error, 1)
	hub := grouphub.New(&grouphub.Options{
		Logger: slog.New(handlerFunc(func(r slog.Record) {
			if strings.Contains(r.Message, "without a handler") {
				logged <- conn.Leave("all")
			}
		})),
		Consumer: grouphub.Consumer{Connect: func(c *grouphub.Conn) error { conn = c; return c.Join("all") }},
	})
	hubtest.Dial(t, hub, "/")
	send(t, hub, "all", "unknown", 1)
	select {
	case <-logged:
		hub.Shutdown(background)
	case <-time.After(20 * time.Second):
		t.Fatal("deadlock: the log handler runs under the shard's lock")
	}
}

func TestLogHandlerMaySendToTheGroupThatItHearsOf(t *testing.T) {
	layer := grouphub.NewMemoryLayer()
	conns := make(chan *grouphub.Conn, 1)
	sent := make(chan error, 1)
	var hub *grouphub.Hub
	options := handOver(layer, conns)
	options.Logger = slog.New(handlerFunc(func(r slog.Record) {
		if strings.Contains(r.Message, "without a number") {
			sent <- hub.GroupSend(background, "g", "alert", r.Message)
		}
	}))
	hub = newHub(t, options)
	hubtest.Dial(t, hub, "/")
	if err := (<-conns).Join("g"); err != nil {
		t.Fatal(err)
	}
	send(t, newHub(t, &grouphub.Options{Layer: layer}), "g", "n", 1) // another policy
	if err := <-sent; err != nil {
		t.Errorf("the handler's send: %v", err)
	}
}
