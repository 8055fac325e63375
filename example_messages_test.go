package grouphub_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/seed-29c60982/grouphub"
)

var errNoText = errors.New("a message needs a text")

// store stands for the application's database.
func store(context.Context, string, string) (id int, err error) { return 7, nil }

// This is docs/messages.md: messages of several types on one connection, and answers.
func Example_messageTypes() {
	hub := grouphub.New(nil)
	defer hub.Shutdown(context.Background())
	mux := http.NewServeMux()

	type request struct {
		Number int             `json:"number"` // chosen by the client
		Type   string          `json:"type"`
		Data   json.RawMessage `json:"data"`
	}

	handlers := map[string]func(c *grouphub.Conn, data json.RawMessage) (result any, err error){
		"message.post": func(c *grouphub.Conn, data json.RawMessage) (any, error) {
			var post struct{ Room, Text string }
			if err := json.Unmarshal(data, &post); err != nil || post.Text == "" {
				return nil, errNoText
			}
			id, err := store(c.Context(), post.Room, post.Text)
			if err != nil {
				return nil, err
			}
			return id, hub.GroupSend(c.Context(), "room:"+post.Room, "message.new", post.Text)
		},
		"typing": func(c *grouphub.Conn, data json.RawMessage) (any, error) {
			return nil, hub.GroupSend(c.Context(), "room:lobby", "typing", c.User().ID, grouphub.Except(c.Channel()))
		},
	}

	mux.Handle("/ws", hub.Handler(grouphub.Consumer{
		Receive: grouphub.ReceiveAs(func(c *grouphub.Conn, r request) error {
			handle, ok := handlers[r.Type]
			if !ok {
				return &grouphub.CloseError{Code: 4404, Reason: "no such type of message"}
			}
			result, err := handle(c, r.Data)
			answer := map[string]any{"type": "answer", "number": r.Number, "result": result}
			if err != nil {
				answer["error"] = err.Error() // a real program does not show every error
			}
			return c.SendJSON(answer)
		}),
	}))

	page := dial(mux, "/ws", nil)
	defer page.close()
	page.send(`{"number":1,"type":"message.post","data":{"room":"lobby","text":"hello"}}`)
	page.print()
	page.send(`{"number":2,"type":"message.post","data":{"room":"lobby"}}`)
	page.print()
	page.send(`{"number":3,"type":"message.unpost"}`)
	page.print()
	// Output:
	// {"number":1,"result":7,"type":"answer"}
	// {"error":"a message needs a text","number":2,"result":null,"type":"answer"}
	// websocket: close 4404: no such type of message
}

// Readiness is for whoever leads clients to a process, liveness for whoever restarts it.
func Example_healthChecks() {
	hub := grouphub.New(nil)
	mux := http.NewServeMux()

	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, r *http.Request) {}) // the process answers
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), time.Second)
		defer cancel()
		if err := hub.Ping(ctx); err != nil { // ErrClosed once Shutdown was called
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		}
	})

	ask := func() {
		answer := httptest.NewRecorder()
		mux.ServeHTTP(answer, httptest.NewRequest("GET", "/readyz", nil))
		fmt.Println(answer.Code)
	}
	ask()
	hub.Shutdown(context.Background())
	ask()
	// Output:
	// 200
	// 503
}
