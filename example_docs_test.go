package grouphub_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"time"

	"github.com/gorilla/websocket"

	"github.com/seed-29c60982/grouphub"
)

type message struct {
	Text string `json:"text"`
}

// This is what docs/from-a-gorilla-hub.md and docs/from-melody.md come to: clients get what
// another one sent, and nothing around it.
func Example_raw() {
	hub := grouphub.New(nil)
	defer hub.Shutdown(context.Background())
	mux := http.NewServeMux()

	mux.Handle("/ws/{room}", hub.Handler(grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error {
			return c.Join("room:" + c.PathValue("room"))
		},
		Receive: func(c *grouphub.Conn, m grouphub.Message) error {
			return hub.GroupSend(c.Context(), "room:"+c.PathValue("room"), "raw", json.RawMessage(m.Data))
		},
		Events: grouphub.Events{
			// The clients get what was sent, and nothing around it, as before.
			"raw": grouphub.Render(func(e grouphub.Event) ([]byte, error) { return e.Data, nil }),
		},
	}))

	ann, bob := dial(mux, "/ws/lobby", nil), dial(mux, "/ws/lobby", nil)
	defer ann.close()
	defer bob.close()
	ann.send(`{"move":"e4"}`)
	bob.print()
	// Output: {"move":"e4"}
}

// This is what docs/from-socket.io.md comes to.
func Example_rooms() {
	hub := grouphub.New(nil)
	defer hub.Shutdown(context.Background())
	mux := http.NewServeMux()

	mux.Handle("/ws/chat/{room}", hub.Handler(grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error {
			return c.Join("room:" + c.PathValue("room"))
		},
		Receive: grouphub.ReceiveAs(func(c *grouphub.Conn, m message) error {
			return hub.GroupSend(c.Context(), "room:"+c.PathValue("room"), "chat.message", m)
		}),
		Events: grouphub.Events{"chat.message": grouphub.Forward()},
	}))

	ann, bob := dial(mux, "/ws/chat/lobby", nil), dial(mux, "/ws/chat/lobby", nil)
	defer ann.close()
	defer bob.close()
	ann.send(`{"text":"hello"}`)
	bob.print()
	// Output: {"type":"chat.message","group":"room:lobby","data":{"text":"hello"}}
}

// The page sends a fresh token over the connection that it has.
func ExampleConn_SetUser_freshToken() {
	hub := grouphub.New(nil)
	defer hub.Shutdown(context.Background())
	users := tokens{"first": {ID: "ann"}, "fresh": {ID: "ann"}}

	consumer := grouphub.Consumer{
		Receive: grouphub.ReceiveAs(func(c *grouphub.Conn, m struct{ Token string }) error {
			user, err := users.Verify(c.Context(), m.Token)
			if err != nil {
				return &grouphub.CloseError{Code: 4401, Reason: "the token is not valid"}
			}
			return c.SetUser(user)
		}),
	}

	app := grouphub.Authenticate(grouphub.Bearer(users.Verify))(hub.Handler(consumer))
	page := dial(app, "/?access_token=first", nil)
	defer page.close()
	page.send(`{"token":"fresh"}`)
	page.send(`{"token":"stolen"}`)
	page.print()
	// Output: websocket: close 4401: the token is not valid
}

// A refusal has the form that the application's other answers have.
func ExampleOptions_refuse() {
	hub := grouphub.New(&grouphub.Options{
		Refuse: func(w http.ResponseWriter, r *http.Request, status int, err error) {
			reason := http.StatusText(status)
			if reject := (*grouphub.Reject)(nil); errors.As(err, &reject) {
				reason = reject.Reason // any other error's text is not meant for clients
			}
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			json.NewEncoder(w).Encode(map[string]string{"error": reason})
		},
		Consumer: grouphub.Consumer{
			Accept: func(r *http.Request) error {
				return &grouphub.Reject{Status: 403, Reason: "this room is closed"}
			},
		},
	})
	defer hub.Shutdown(context.Background())

	server := httptest.NewServer(hub)
	defer server.Close()
	_, answer, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(server.URL, "http"), nil)
	fmt.Println(err)
	io.Copy(os.Stdout, answer.Body)
	// Output:
	// websocket: bad handshake
	// {"error":"this room is closed"}
}

// This is what docs/scaling.md has for a process with more connections than its part.
func Example_shed() {
	hub := grouphub.New(nil)
	defer hub.Shutdown(context.Background())
	ann, bob := dial(hub, "/", nil), dial(hub, "/", nil)
	defer ann.close()
	defer bob.close()

	shed(hub, 2)

	ann.print()
	bob.print()
	// Output:
	// websocket: close 1012: please reconnect
	// websocket: close 1012: please reconnect
}

func shed(hub *grouphub.Hub, connections int) {
	for c := range hub.Conns() {
		if connections--; connections < 0 {
			return
		}
		c.Close(1012, "please reconnect") // an error means that it has ended already
		time.Sleep(time.Millisecond)      // or they all come back at once
	}
}
