package grouphub_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
)

// What a client said before its close frame is still handled, but not after a callback
// that ends the connection.
func TestNoCallbackButDisconnectFollowsOneThatEndsTheConnection(t *testing.T) {
	for name, first := range map[string]func(*grouphub.Conn) error{
		"CloseError": func(*grouphub.Conn) error { return &grouphub.CloseError{Code: 4403, Reason: "no"} },
		"error":      func(*grouphub.Conn) error { return errors.New("broken") },
		"panic":      func(*grouphub.Conn) error { panic("broken") },
		"Close":      func(c *grouphub.Conn) error { c.Close(4403, "no"); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			var got string
			started, proceed, gone := make(chan struct{}), make(chan struct{}), make(chan string, 1)
			hub := newHub(t, &grouphub.Options{Logger: slog.New(slog.DiscardHandler), Consumer: grouphub.Consumer{
				Connect: joinAll,
				Receive: func(c *grouphub.Conn, m grouphub.Message) error {
					got += string(m.Data)
					if string(m.Data) != "A" {
						return nil
					}
					close(started)
					<-proceed
					return first(c)
				},
				Disconnect: func(context.Context, *grouphub.Conn, int) { gone <- got },
			}})
			c := serve(t, hub).dial("/")
			c.WriteMessage(websocket.TextMessage, []byte("A"))
			<-started
			c.WriteMessage(websocket.TextMessage, []byte("B"))
			c.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(1000, ""))
			wantClose(t, c, 1000) // the echo
			close(proceed)
			if got := <-gone; got != "A" {
				t.Errorf("callbacks ran for %q", got)
			}
		})
	}
}

func TestAConnectionWithoutItsUsersGroupIsClosed(t *testing.T) {
	for name, policy := range map[string]func() grouphub.GroupPolicy{
		"panic":  func() grouphub.GroupPolicy { panic("not a name that this policy knows") },
		"Goexit": func() grouphub.GroupPolicy { runtime.Goexit(); return grouphub.GroupPolicy{} },
	} {
		t.Run(name, func(t *testing.T) {
			hub := newHub(t, &grouphub.Options{
				Logger: slog.New(slog.DiscardHandler),
				Policy: func(string) grouphub.GroupPolicy { return policy() },
				Consumer: grouphub.Consumer{
					Connect:    func(*grouphub.Conn) error { t.Error("Connect was called"); return nil },
					Receive:    func(*grouphub.Conn, grouphub.Message) error { t.Error("Receive was called"); return nil },
					Disconnect: func(context.Context, *grouphub.Conn, int) { t.Error("Disconnect was called") },
				},
			})
			c := serve(t, grouphub.Authenticate(func(*http.Request) (grouphub.User, error) {
				return grouphub.User{ID: "ann"}, nil
			})(hub)).dial("/")
			c.WriteMessage(websocket.TextMessage, []byte("x"))
			wantClose(t, c, 1011)
			c.Close()
			eventually(t, func() bool { return hub.Stats().Conns == 0 }, "the connection lives on")
		})
	}
}

func TestAnAcceptThatOutlivesShutdownGets503(t *testing.T) {
	entered, proceed := make(chan struct{}), make(chan struct{})
	hub := grouphub.New(&grouphub.Options{Consumer: grouphub.Consumer{
		Accept:  func(*http.Request) error { close(entered); <-proceed; return nil },
		Connect: func(*grouphub.Conn) error { t.Error("Connect was called after Shutdown"); return nil },
	}})
	answered := make(chan string)
	go func() {
		status, body, _ := get(t, hub, upgradeHeader())
		answered <- fmt.Sprint(status, " ", body)
	}()
	<-entered
	if err := hub.Shutdown(canceled()); !errors.Is(err, context.Canceled) {
		t.Errorf("Shutdown: %v", err)
	}
	close(proceed)
	if got := <-answered; got != "503 the server is shutting down\n" {
		t.Errorf("got %q", got)
	}
	if s := hub.Stats(); s.Accepted != 0 || s.Rejected != 1 {
		t.Errorf("%+v", s)
	}
	if err := hub.Shutdown(background); err != nil { // it has no seat any more
		t.Error(err)
	}
}

func TestConnectIsNotCalledOnceTheConnectionIsClosed(t *testing.T) {
	unwanted := grouphub.Consumer{
		Connect:    func(*grouphub.Conn) error { t.Error("Connect was called"); return nil },
		Disconnect: func(context.Context, *grouphub.Conn, int) { t.Error("Disconnect was called") },
	}
	t.Run("by the end of the session", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			hub := grouphub.New(&grouphub.Options{Consumer: unwanted})
			c := hubtest.Dial(t, grouphub.Authenticate(func(*http.Request) (grouphub.User, error) {
				return grouphub.User{ID: "ann", Expires: time.Now().Add(time.Second)}, nil
			})(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				time.Sleep(time.Second) // another middleware
				hub.ServeHTTP(w, r)
			})), "/")
			c.ExpectClose(4401)
			hub.Shutdown(background)
		})
	})
	t.Run("by Shutdown", func(t *testing.T) {
		entered, proceed, down := make(chan struct{}), make(chan struct{}), make(chan error)
		unwanted.Accept = func(r *http.Request) error {
			if r.URL.Path != "/first" {
				return errors.New("not the first")
			}
			close(entered)
			<-proceed
			return nil
		}
		hub := grouphub.New(&grouphub.Options{Consumer: unwanted})
		go func() {
			<-entered
			go func() { down <- hub.Shutdown(background) }()
			eventually(t, func() bool {
				status, _, _ := get(t, hub, upgradeHeader())
				return status == http.StatusServiceUnavailable
			}, "Shutdown does not refuse")
			close(proceed)
		}()
		hubtest.Dial(t, hub, "/first").ExpectClose(1001)
		if err := <-down; err != nil {
			t.Error(err)
		}
	})
}

func TestEventsForAClosingConnectionAreNotDropped(t *testing.T) {
	for name, handler := range map[string]grouphub.EventHandler{
		"Forward": grouphub.Forward(),
		"Handle":  grouphub.Handle(func(*grouphub.Conn, grouphub.Event) error { return nil }),
	} {
		t.Run(name, func(t *testing.T) {
			hub, conns := connections(t, grouphub.Consumer{Connect: joinAll, Events: grouphub.Events{"note": handler}})
			serve(t, hub).dial("/") // it does not answer the close frame
			(<-conns).Close(1000, "")
			for i := range 10 {
				send(t, hub, "all", "note", i)
			}
			// A shard's events are pushed in order, so the last is known to have been.
			witness := hubtest.Dial(t, hub.Handler(noteConsumer), "/")
			send(t, hub, "all", "note", "last")
			witness.ExpectEvent("note")
			if n := hub.Stats().Dropped; n != 0 {
				t.Errorf("%d dropped", n)
			}
		})
	}
}

func TestSendToAClosingConnectionIsErrClosed(t *testing.T) {
	for name, handler := range map[string]grouphub.EventHandler{
		"Forward": grouphub.Forward(),
		"Render":  grouphub.Render(func(grouphub.Event) ([]byte, error) { return nil, nil }),
		"Handle":  grouphub.Handle(func(*grouphub.Conn, grouphub.Event) error { return nil }),
	} {
		t.Run(name, func(t *testing.T) {
			layer := grouphub.NewMemoryLayer()
			conns := make(chan *grouphub.Conn, 1)
			hub := newHub(t, &grouphub.Options{Layer: layer, Consumer: grouphub.Consumer{
				Connect: func(c *grouphub.Conn) error { conns <- c; return nil },
				Events:  grouphub.Events{"note": handler},
			}})
			serve(t, hub).dial("/") // it does not answer the close frame
			c := <-conns
			c.Close(1000, "")
			if err := hub.Send(background, c.Channel(), "note", 1); !errors.Is(err, grouphub.ErrClosed) {
				t.Errorf("Send: %v", err)
			}
			if n := hub.Stats().Dropped; n != 0 {
				t.Errorf("%d dropped, and the sender knows", n)
			}
			// Another hub does not hear of it.
			if err := newHub(t, &grouphub.Options{Layer: layer}).Send(background, c.Channel(), "note", 2); err != nil {
				t.Error(err)
			}
			eventually(t, func() bool { return hub.Stats().Dropped == 1 }, "what another hub has sent is not counted")
		})
	}
}

func TestSendToASlowConnectionIsErrClosedAndCountedOnce(t *testing.T) {
	var proceed chan struct{}
	for name, handler := range map[string]grouphub.EventHandler{
		"Forward": grouphub.Forward(),
		"Handle":  grouphub.Handle(func(*grouphub.Conn, grouphub.Event) error { <-proceed; return nil }),
	} {
		t.Run(name, func(t *testing.T) {
			proceed = make(chan struct{})
			defer close(proceed)
			layer := grouphub.NewMemoryLayer()
			conns := make(chan *grouphub.Conn, 1)
			hub := newHub(t, &grouphub.Options{Layer: layer, CloseTimeout: time.Minute, Consumer: grouphub.Consumer{
				Connect: func(c *grouphub.Conn) error { conns <- c; return nil },
				Events:  grouphub.Events{"note": handler},
			}})
			client := serve(t, hub).dial("/")
			defer client.Close()
			c := <-conns
			var err error
			for err == nil {
				err = hub.Send(background, c.Channel(), "note", strings.Repeat("x", 60<<10))
			}
			if s := hub.Stats(); !errors.Is(err, grouphub.ErrClosed) || s.SlowClosed != 1 || s.Dropped == 0 {
				t.Errorf("%v, %+v", err, s)
			}
			before := hub.Stats().Dropped
			other := newHub(t, &grouphub.Options{Layer: layer})
			if err := other.Send(background, c.Channel(), "note", 1); err != nil {
				t.Error(err)
			}
			if err := other.Ping(background); err != nil {
				t.Error(err)
			}
			eventually(t, func() bool { return hub.Stats().Dropped > before }, "it is not counted")
			if n := hub.Stats().Dropped - before; n != 1 {
				t.Errorf("one event is counted %d times", n)
			}
		})
	}
}
