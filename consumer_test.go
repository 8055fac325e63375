package grouphub_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
)

func TestCallbacksRunOneAtATime(t *testing.T) {
	var running, calls atomic.Int32
	var over atomic.Bool
	callback := func() {
		if running.Add(1) != 1 {
			t.Error("two callbacks of one connection at the same time")
		}
		if over.Load() {
			t.Error("a callback runs after Disconnect")
		}
		runtime.Gosched()
		calls.Add(1)
		running.Add(-1)
	}
	entered, disconnected := make(chan struct{}), make(chan struct{})
	layer := newFaultyLayer()
	hub := newHub(t, &grouphub.Options{Layer: layer, Consumer: grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error { callback(); return c.Join("all") },
		Receive: func(c *grouphub.Conn, m grouphub.Message) error {
			if string(m.Data) == "block" {
				running.Add(1)
				close(entered)
				<-c.Context().Done() // and soon afterwards Disconnect is queued
				runtime.Gosched()
				running.Add(-1)
			}
			callback()
			return nil
		},
		Resync: func(*grouphub.Conn, []string) { callback() },
		Events: grouphub.Events{"note": grouphub.Handle(func(c *grouphub.Conn, e grouphub.Event) error {
			callback()
			return nil
		})},
		Disconnect: func(context.Context, *grouphub.Conn, int) { callback(); over.Store(true); close(disconnected) },
	}})
	c := serve(t, hub).dial("/")
	var senders sync.WaitGroup
	flood := func() {
		for range 3 {
			senders.Go(func() {
				for range 100 {
					send(t, hub, "all", "note", 1)
				}
			})
		}
		senders.Go(func() {
			for range 100 {
				layer.receiver.Lost([]string{"g:all"})
			}
		})
	}
	flood()
	for range 100 {
		c.WriteMessage(websocket.TextMessage, []byte("x"))
	}
	senders.Wait()
	eventually(t, func() bool { return calls.Load() == 501 }, "not all callbacks ran")
	// The end comes while others wait for their turn.
	c.WriteMessage(websocket.TextMessage, []byte("block"))
	<-entered
	flood()
	senders.Wait()
	c.NetConn().Close()
	<-disconnected
}

// What a callback wants of its own connection is ErrClosed when the client has left, or was
// closed as too slow, and that is no error of the application's.
func TestAClientThatLeftIsNoErrorOfACallback(t *testing.T) {
	for name, end := range map[string]func(*websocket.Conn, *grouphub.Conn){
		"left":   func(client *websocket.Conn, _ *grouphub.Conn) { client.WriteMessage(websocket.CloseMessage, nil) },
		"closed": func(_ *websocket.Conn, c *grouphub.Conn) { c.Close(4000, "") },
		"slow": func(_ *websocket.Conn, c *grouphub.Conn) {
			for c.Send(make([]byte, 1<<20)) == nil {
			}
		},
		"cut": func(client *websocket.Conn, _ *grouphub.Conn) { client.NetConn().Close() },
	} {
		t.Run(name, func(t *testing.T) {
			logger, logged := logAll()
			hub := newHub(t, &grouphub.Options{Logger: logger})
			conns, entered, proceed := make(chan *grouphub.Conn, 1), make(chan struct{}), make(chan struct{})
			client := serve(t, hub.Handler(grouphub.Consumer{
				Connect: func(c *grouphub.Conn) error { conns <- c; return nil },
				Receive: func(c *grouphub.Conn, _ grouphub.Message) error {
					close(entered)
					<-proceed
					for {
						if err := c.Send([]byte("x")); err != nil {
							return fmt.Errorf("answer: %w", err)
						}
					}
				},
			})).dial("/")
			client.WriteMessage(websocket.TextMessage, nil)
			<-entered
			end(client, <-conns)
			if name == "left" {
				wantClose(t, client, 1005) // the answer, so it is known there
			}
			close(proceed)
			client.Close()
			eventually(t, func() bool { return hub.Stats().Conns == 0 }, "the connection is still there")
			if text := logged.String(); strings.Contains(text, "level=ERROR") || strings.Contains(text, "level=WARN") {
				t.Errorf("logged %s", text)
			}
		})
	}
}

// What another connection is closed for is an error like any other.
func TestAnotherConnectionsErrClosedIsAnErrorOfACallback(t *testing.T) {
	logger, logged := logAll()
	conns := make(chan *grouphub.Conn, 2)
	hub := newHub(t, &grouphub.Options{Logger: logger, Consumer: grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error { conns <- c; return nil },
		Receive: func(c *grouphub.Conn, m grouphub.Message) error {
			return c.Hub().Send(c.Context(), string(m.Data), "note", 1)
		},
	}})
	gone, c := hubtest.Dial(t, hub, "/"), hubtest.Dial(t, hub, "/")
	other := <-conns
	gone.Close()
	eventually(t, func() bool { return hub.Stats().Conns == 1 }, "the other one is still there")
	c.Send(other.Channel())
	c.ExpectClose(1011)
	if !strings.Contains(logged.String(), "level=ERROR") {
		t.Errorf("logged %s", logged.String())
	}
}

func TestAnIllegalNameFromAStrangerIsNoErrorOfTheApplications(t *testing.T) {
	logger, logged := logAll()
	hub := newHub(t, &grouphub.Options{Logger: logger, Consumer: grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error { return c.Join("room:" + c.Request().URL.Query().Get("room")) },
		Receive: func(c *grouphub.Conn, m grouphub.Message) error {
			return c.Hub().GroupSend(c.Context(), string(m.Data), "note", 1)
		},
	}})
	hubtest.Dial(t, hub, "/?room=a%00b").ExpectClose(1008)
	hubtest.Dial(t, hub, "/?room="+strings.Repeat("x", 300)).ExpectClose(1008)
	c := hubtest.Dial(t, hub, "/?room=a")
	c.Send("\n")
	c.ExpectClose(1008)
	text := logged.String()
	if strings.Contains(text, "level=ERROR") || strings.Count(text, "level=DEBUG") != 3 || !strings.Contains(text, "control character") {
		t.Errorf("logged %s", text)
	}
}

// meeting returns a function that waits until two are in it at the same time.
func meeting(t *testing.T, what string) func() {
	met := make(chan struct{})
	return func() {
		select {
		case met <- struct{}{}:
		case <-met:
		case <-time.After(30 * time.Second):
			t.Errorf("two calls of %s do not run at the same time", what)
		}
	}
}

func TestAcceptRunsConcurrently(t *testing.T) {
	meet := meeting(t, "Accept")
	s := serve(t, hubOf(t, grouphub.Consumer{Accept: func(*http.Request) error { meet(); return nil }}))
	var dials sync.WaitGroup
	for range 2 {
		dials.Go(func() {
			conn, _, err := websocket.DefaultDialer.Dial(s.webSocket(), nil)
			if err != nil {
				t.Error(err)
				return
			}
			conn.Close()
		})
	}
	dials.Wait()
}

func TestBlockingCallbackHoldsUpOnlyItsConnection(t *testing.T) {
	entered, proceed := make(chan struct{}), make(chan struct{})
	hub := hubOf(t, grouphub.Consumer{
		Connect: joinAll,
		Receive: func(c *grouphub.Conn, m grouphub.Message) error {
			close(entered)
			<-proceed
			return nil
		},
		Events: grouphub.Events{"note": grouphub.Forward()},
	})
	a, b := hubtest.Dial(t, hub, "/"), hubtest.Dial(t, hub, "/")
	a.Send("block")
	<-entered
	send(t, hub, "all", "note", 1)
	b.ExpectEvent("note")
	a.ExpectEvent("note") // Forward does not wait for callbacks either
	close(proceed)
}

func TestCallbackMayCallAnythingOnHubAndConn(t *testing.T) {
	for _, where := range []string{"connect", "receive", "handle", "resync", "render", "disconnect"} {
		t.Run(where, func(t *testing.T) { testCallbackMayCallAnything(t, where) })
	}
}

func testCallbackMayCallAnything(t *testing.T, where string) {
	var hub *grouphub.Hub
	var conn *grouphub.Conn
	down := make(chan error, 1)
	check := func(calls map[string]error, want error) {
		for name, err := range calls {
			if !errors.Is(err, want) {
				t.Errorf("%s: %v, want %v", name, err, want)
			}
		}
	}
	calls := func(at string, ctx context.Context) {
		if at != where {
			return
		}
		if s := hub.Stats(); s.Accepted != 1 {
			t.Errorf("%+v", s)
		}
		// Only a connection that is alive can do these.
		var want error
		if at == "disconnect" {
			want = grouphub.ErrClosed
		}
		check(map[string]error{
			"GroupAdd": hub.GroupAdd(ctx, "added", conn.Channel()),
			"Send":     hub.Send(ctx, conn.Channel(), "note", 1),
		}, want)
		check(map[string]error{
			"GroupDiscard":    hub.GroupDiscard(ctx, "added", conn.Channel()),
			"GroupSend":       hub.GroupSend(ctx, "all", "note", 1),
			"Members":         second(hub.Members(ctx, "all")),
			"Ping":            hub.Ping(ctx),
			"Send to a queue": hub.Send(ctx, "queue", "job", 1),
			"Receive":         second(hub.Receive(ctx, "queue")),
		}, nil)
		if at != "render" { // that is called for no connection
			conn.Set("key", "value")
			if value, ok := conn.Get("key"); !ok || value != "value" || conn.Hub() != hub || conn.Subprotocol() != "" ||
				conn.PathValue("none") != "" || conn.User().ID != "" || !slices.Contains(conn.Groups(), "all") ||
				conn.Request().Context() != conn.Context() {
				t.Errorf("value %v, groups %q", value, conn.Groups())
			}
			check(map[string]error{
				"Join":       conn.Join("more"),
				"Conn.Send":  conn.Send([]byte("x")),
				"SendBinary": conn.SendBinary([]byte("x")),
				"SendJSON":   conn.SendJSON("x"),
			}, want)
			check(map[string]error{"Leave": conn.Leave("more")}, nil)
			check(map[string]error{"Close": conn.Close(4000, "enough")}, want)
		}
		check(map[string]error{"GroupClose": hub.GroupClose(ctx, "all", 4000, "enough")}, nil)
		go func() { down <- hub.Shutdown(background) }()
	}
	layer := newFaultyLayer()
	hub = newHub(t, &grouphub.Options{
		Layer:  layer,
		Policy: func(string) grouphub.GroupPolicy { return grouphub.GroupPolicy{Presence: true} },
		Consumer: grouphub.Consumer{
			Connect: func(c *grouphub.Conn) error {
				conn = c
				err := c.Join("all")
				calls("connect", background)
				return err
			},
			Receive:    func(*grouphub.Conn, grouphub.Message) error { calls("receive", background); return nil },
			Resync:     func(*grouphub.Conn, []string) { calls("resync", background) },
			Disconnect: func(ctx context.Context, _ *grouphub.Conn, _ int) { calls("disconnect", ctx) },
			Events: grouphub.Events{
				"note":   grouphub.Forward(),
				"handle": grouphub.Handle(func(*grouphub.Conn, grouphub.Event) error { calls("handle", background); return nil }),
				"render": grouphub.Render(func(grouphub.Event) ([]byte, error) { calls("render", background); return nil, nil }),
			},
		}})
	client := serve(t, hub).dial("/")
	switch where {
	case "receive":
		client.WriteMessage(websocket.TextMessage, []byte("x"))
	case "handle", "render":
		send(t, hub, "all", where, nil)
	case "resync":
		layer.receiver.Lost([]string{"g:all"})
	case "disconnect":
		client.Close()
	}
	if where != "disconnect" {
		client.SetReadDeadline(time.Now().Add(30 * time.Second))
		for {
			if _, _, err := client.ReadMessage(); err != nil {
				// In Render Shutdown may be faster than GroupClose, which waits for it.
				if !websocket.IsCloseError(err, 4000) && (where != "render" || !websocket.IsCloseError(err, 1001)) {
					t.Errorf("read: %v", err)
				}
				break
			}
		}
	}
	if err := <-down; err != nil {
		t.Error(err)
	}
}

func TestCallbackErrorsCloseWithTheirCode(t *testing.T) {
	for want, err := range map[int]error{
		4321: &grouphub.CloseError{Code: 4321, Reason: "so there"},
		1011: errors.New("broken"),
		1013: fmt.Errorf("x: %w", grouphub.ErrUncertain),
	} {
		hub := hubOf(t, grouphub.Consumer{
			Connect: joinAll,
			Receive: func(*grouphub.Conn, grouphub.Message) error { return err },
			Events:  grouphub.Events{"note": grouphub.Handle(func(*grouphub.Conn, grouphub.Event) error { return err })},
		})
		a, b := hubtest.Dial(t, hub, "/"), hubtest.Dial(t, hub, "/")
		a.Send("x")
		a.ExpectClose(want)
		send(t, hub, "all", "note", 1)
		b.ExpectClose(want)
	}
	bad := hubOf(t, grouphub.Consumer{
		Connect: func(*grouphub.Conn) error { return &grouphub.CloseError{Code: 1006} }})
	hubtest.Dial(t, bad, "/").ExpectClose(1011)
}

func TestPanicInACallbackClosesThatConnectionWith1011(t *testing.T) {
	var logged safeBuffer
	consumer := func(where string) grouphub.Consumer {
		boom := func(at string) {
			if at == where {
				panic("boom in " + at)
			}
		}
		return grouphub.Consumer{
			Connect: func(c *grouphub.Conn) error { boom("connect"); return c.Join("all") },
			Receive: func(c *grouphub.Conn, m grouphub.Message) error { boom("receive"); return nil },
			Events: grouphub.Events{"note": grouphub.Handle(func(c *grouphub.Conn, e grouphub.Event) error {
				boom("handle")
				return nil
			})},
			Resync:     func(*grouphub.Conn, []string) { boom("resync") },
			Disconnect: func(context.Context, *grouphub.Conn, int) { boom("disconnect") },
		}
	}
	layer := newFaultyLayer()
	hub := newHub(t, &grouphub.Options{Layer: layer, Consumer: noteConsumer, Logger: slog.New(slog.NewTextHandler(&logged, nil))})
	witness := hubtest.Dial(t, hub, "/")
	for _, where := range []string{"connect", "receive", "handle"} {
		c := hubtest.Dial(t, hub.Handler(consumer(where)), "/")
		if where == "receive" {
			c.Send("x")
		}
		send(t, hub, "all", "note", where)
		c.ExpectClose(1011)
		witness.ExpectEvent("note")
	}
	c := hubtest.Dial(t, hub.Handler(consumer("resync")), "/")
	layer.receiver.Lost([]string{"g:all"})
	c.ExpectClose(1011)
	witness.Expect(`{"type":"resync","group":"all"}`)
	send(t, hub, "all", "note", "resync")
	witness.ExpectEvent("note")
	hubtest.Dial(t, hub.Handler(consumer("disconnect")), "/").Close()
	for _, where := range []string{"connect", "receive", "handle", "resync", "disconnect"} {
		eventually(t, func() bool { return strings.Contains(logged.String(), "boom in "+where) }, "%s is not logged", where)
	}
	if !strings.Contains(logged.String(), "consumer_test.go") {
		t.Error("no stack is logged")
	}
	// Accept runs before there is a connection.
	refused := hubtest.DialRefused(t, hub.Handler(grouphub.Consumer{Accept: func(*http.Request) error { panic("boom") }}), "/")
	if refused.StatusCode != http.StatusInternalServerError {
		t.Errorf("got %v", refused)
	}
}

func TestGoexitInACallbackDoesNotWedgeItsConnection(t *testing.T) {
	disconnected := make(chan struct{})
	hub := hubOf(t, grouphub.Consumer{
		Receive:    func(*grouphub.Conn, grouphub.Message) error { runtime.Goexit(); return nil },
		Disconnect: func(context.Context, *grouphub.Conn, int) { close(disconnected) },
	})
	c := hubtest.Dial(t, hub, "/")
	c.Send("x")
	c.ExpectClose(1011)
	<-disconnected
}
