package grouphub_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"runtime"
	"testing"

	"github.com/gorilla/websocket"

	"github.com/seed-29c60982/grouphub"
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
