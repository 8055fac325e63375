// Command chat is a chat with rooms: one consumer, one group for each room, one page.
//
// The room and the name are in the page's URL, /?room=lobby&name=Ann. Any backend code
// may write to a room, which POST /announce shows:
//
//	curl -d room=lobby -d text='Tea is ready' http://127.0.0.1:8080/announce
//
// With -redis redis://127.0.0.1:6379, all processes that are given the same Redis share
// their rooms.
package main

import (
	"context"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/seed-29c60982/grouphub"
)

// In characters; the page has the same limits.
const (
	maxNameLength = 40
	maxTextLength = 1000
)

//go:embed index.html
var page []byte

// A message is what the page sends, a text, and what a room gets, with the name of
// whoever wrote it. An announcement has no name.
type message struct {
	Name string `json:"name,omitempty"`
	Text string `json:"text"`
}

func main() {
	addr := flag.String("addr", "127.0.0.1:8080", "listen on this `address`")
	redis := flag.String("redis", "", "share rooms with other processes through the Redis at this `URL`")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second Ctrl-C does not wait
	if err := run(ctx, *addr, *redis, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "chat:", err)
		os.Exit(1)
	}
}

// run serves the chat until ctx ends, and then lets everybody go in good order.
// Without a redis URL its rooms are its own.
func run(ctx context.Context, addr, redis string, out io.Writer) error {
	options := &grouphub.Options{
		MaxMessageSize: 8 << 10, // maxTextLength characters, however JSON writes them
		ReceiveRate:    10,
	}
	if redis != "" {
		layer, err := grouphub.NewRedisLayer(redis, nil)
		if err != nil {
			return err
		}
		defer layer.Close() // whose it is; Shutdown leaves it open
		options.Layer = layer
	}
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	hub := grouphub.New(options)
	server := &http.Server{Handler: routes(hub), ReadHeaderTimeout: 3 * time.Second}
	ctx, stop := context.WithCancel(ctx)
	served := make(chan error, 1)
	go func() {
		served <- server.Serve(listener)
		stop()
	}()

	url := "http://" + listener.Addr().String()
	fmt.Fprintf(out, "Open %s/ in two browser windows.\n", url)
	fmt.Fprintf(out, "Announce with: curl -d room=lobby -d text=Hello %s/announce\n", url)
	<-ctx.Done()

	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	// It takes both: net/http forgets a connection when it is upgraded.
	err = errors.Join(hub.Shutdown(ctx), server.Shutdown(ctx))
	if reason := <-served; !errors.Is(reason, http.ErrServerClosed) {
		err = errors.Join(reason, err)
	}
	return err
}

// routes is the whole application.
func routes(hub *grouphub.Hub) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Write(page)
	})
	mux.Handle("GET /client.js", grouphub.ClientJS())
	mux.Handle("GET /ws", hub.Handler(consumer()))
	mux.HandleFunc("POST /announce", announce(hub))
	// The hub refuses other origins by itself; this does it for the form.
	return http.NewCrossOriginProtection().Handler(mux)
}

// consumer says what happens on one visitor's connection.
func consumer() grouphub.Consumer {
	return grouphub.Consumer{
		Accept: func(r *http.Request) error {
			query := r.URL.Query()
			if !validName(query.Get("room")) || !validName(query.Get("name")) {
				return &grouphub.Reject{
					Status: http.StatusBadRequest,
					Reason: fmt.Sprintf("room and name must have 1 to %d characters", maxNameLength),
				}
			}
			return nil
		},
		Connect: func(c *grouphub.Conn) error {
			return c.Join(roomOf(c))
		},
		Receive: grouphub.ReceiveAs(func(c *grouphub.Conn, m message) error {
			if !validText(m.Text) {
				return &grouphub.CloseError{Code: 1008, Reason: "a text is empty or too long"}
			}
			// Whose connection it is decides, not what the message claims.
			m.Name = c.Request().URL.Query().Get("name")
			err := c.Hub().GroupSend(c.Context(), roomOf(c), "chat.message", m)
			if errors.Is(err, grouphub.ErrUnavailable) || errors.Is(err, grouphub.ErrUncertain) {
				// Redis is away. To return the error would close the connection.
				return c.SendJSON(map[string]any{"type": "chat.unsent", "data": m})
			}
			return err
		}),
		Events: grouphub.Events{
			"chat.message":      grouphub.Forward(),
			"chat.announcement": grouphub.Forward(),
		},
	}
}

// announce writes to a room without being in it, as any part of a backend can. A real
// application would ask first who is calling.
func announce(hub *grouphub.Hub) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, 16<<10)
		room, text := r.PostFormValue("room"), r.PostFormValue("text")
		if !validName(room) || !validText(text) {
			http.Error(w, "an announcement needs a room and a text", http.StatusBadRequest)
			return
		}
		err := hub.GroupSend(r.Context(), group(room), "chat.announcement", message{Text: text})
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		w.WriteHeader(http.StatusNoContent) // a browser then stays on its page
	}
}

func roomOf(c *grouphub.Conn) string { return group(c.Request().URL.Query().Get("room")) }

// The prefix keeps the rooms apart from whatever else an application has groups for.
func group(room string) string { return "room:" + room }

// validName is for rooms and names, which are shown on one line.
func validName(s string) bool {
	return strings.TrimSpace(s) != "" && utf8.ValidString(s) &&
		utf8.RuneCountInString(s) <= maxNameLength && !strings.ContainsFunc(s, unicode.IsControl)
}

func validText(s string) bool {
	return strings.TrimSpace(s) != "" && utf8.RuneCountInString(s) <= maxTextLength
}
