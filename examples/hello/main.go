// Hello is the program of the README: rooms that a browser can talk in, and that
// the rest of the backend can send to.
package main

import (
	"log"
	"net/http"
	"time"

	"github.com/seed-29c60982/grouphub"
)

type message struct {
	Text string `json:"text"`
}

func routes(hub *grouphub.Hub) http.Handler {
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

	// Any code of the backend can send to the room.
	mux.HandleFunc("POST /announce/{room}", func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, 4<<10)
		m := message{Text: r.FormValue("text")}
		if m.Text == "" {
			http.Error(w, "an announcement needs a text of at most 4 KiB", http.StatusBadRequest)
			return
		}
		if err := hub.GroupSend(r.Context(), "room:"+r.PathValue("room"), "chat.message", m); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		}
	})
	// The hub refuses pages of other sites by itself. This refuses their forms, too.
	return http.NewCrossOriginProtection().Handler(mux)
}

func main() {
	server := http.Server{
		Addr:        "127.0.0.1:8080",
		Handler:     routes(grouphub.New(nil)),
		ReadTimeout: 10 * time.Second, // of a request; it does not concern connections that were upgraded
		IdleTimeout: time.Minute,
	}
	log.Fatal(server.ListenAndServe())
}
