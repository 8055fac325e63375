// Command chat is a chat with rooms: one consumer, one group for each room, one page.
// Whoever enters sees the last messages and who is there, and whoever was away for a
// moment gets what was missed.
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

// These are counted in characters. The page has the same limits.
const (
	maxNameLength = 40
	maxTextLength = 1000
)

// lastMessages is how many messages of a room are kept, and shown on entering.
const lastMessages = 50

//go:embed index.html
var page []byte

// A message is what the page sends, a text, and what a room gets, with the name of
// whoever wrote it. An announcement has no name.
type message struct {
	Name string `json:"name,omitempty"`
	Text string `json:"text"`
}

// A sentMessage also says when it was sent, since it may be read much later.
type sentMessage struct {
	message
	Sent time.Time `json:"sent"`
}

func main() {
	addr := flag.String("addr", "127.0.0.1:8080", "listen on this `address`")
	redis := flag.String("redis", "", "share rooms with other processes through the Redis at this `URL`")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // so that a second Ctrl-C ends the program at once
	if err := run(ctx, *addr, *redis, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "chat:", err)
		os.Exit(1)
	}
}

// run serves the chat until ctx ends, and then lets everybody go in good order.
// Without a redis URL its rooms are its own.
func run(ctx context.Context, addr, redis string, out io.Writer) error {
	options := newOptions()
	if redis != "" {
		layer, err := grouphub.NewRedisLayer(redis, nil)
		if err != nil {
			return err
		}
		defer layer.Close() // Shutdown leaves open a layer that New has not made
		options.Layer = layer
	}
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	hub := grouphub.New(options)
	server := newServer(routes(hub))
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
	// Both are needed: net/http forgets a connection when it is upgraded.
	err = errors.Join(hub.Shutdown(ctx), server.Shutdown(ctx))
	if reason := <-served; !errors.Is(reason, http.ErrServerClosed) {
		err = errors.Join(reason, err)
	}
	return err
}

// newServer returns a server with time limits: without them a stranger can occupy any number
// of connections by sending nothing. They do not concern connections that were upgraded.
func newServer(handler http.Handler) *http.Server {
	return &http.Server{Handler: handler, ReadTimeout: 10 * time.Second, IdleTimeout: time.Minute}
}

// newOptions returns the hub's options. They have to be the same in every process, the policy
// above all.
func newOptions() *grouphub.Options {
	return &grouphub.Options{
		MaxMessageSize: 8 << 10, // enough for maxTextLength characters, however JSON escapes them
		ReceiveRate:    10,
		Policy: func(group string) grouphub.GroupPolicy {
			if !strings.HasPrefix(group, roomPrefix) {
				return grouphub.GroupPolicy{}
			}
			return grouphub.GroupPolicy{History: lastMessages, HistoryTTL: roomLife, Announce: true}
		},
	}
}

// routes returns the whole application.
func routes(hub *grouphub.Hub) http.Handler {
	open := &rooms{used: make(map[string]time.Time)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Write(page)
	})
	mux.Handle("GET /client.js", grouphub.ClientJS())
	mux.Handle("/ws", grouphub.Authenticate(visitor)(hub.Handler(consumer(open))))
	mux.HandleFunc("POST /announce", announce(hub, open))
	// The hub refuses other origins by itself. This refuses them for the form, too.
	return http.NewCrossOriginProtection().Handler(mux)
}

// visitor believes every name. A real application looks into its session instead.
func visitor(r *http.Request) (grouphub.User, error) {
	return grouphub.User{ID: r.URL.Query().Get("name")}, nil
}

// consumer says what happens on one visitor's connection.
func consumer(open *rooms) grouphub.Consumer {
	return grouphub.Consumer{
		Accept: func(r *http.Request) error {
			// The page hears of a 403 as a final close, and lets the visitor change them.
			if query := r.URL.Query(); !validName(query.Get("room")) || !validName(query.Get("name")) {
				return &grouphub.Reject{
					Status: http.StatusForbidden,
					Reason: fmt.Sprintf("room and name must have 1 to %d characters", maxNameLength),
				}
			}
			if !open.use(r.URL.Query().Get("room")) {
				return &grouphub.Reject{Status: http.StatusServiceUnavailable, Reason: "there are too many rooms"}
			}
			return nil
		},
		Connect: func(c *grouphub.Conn) error {
			// A page that comes back gets what it missed in place of the last messages.
			return c.Join(group(roomOf(c)), grouphub.Last(lastMessages))
		},
		Receive: grouphub.ReceiveAs(func(c *grouphub.Conn, m message) error {
			if !validText(m.Text) {
				return &grouphub.CloseError{Code: 1008, Reason: "a text is empty or too long"}
			}
			if !open.use(roomOf(c)) { // it was not used for longer than roomLife, and others are
				return &grouphub.CloseError{Code: 1013, Reason: "there are too many rooms"}
			}
			// The connection's user is the author, whatever the message claims.
			m.Name = c.User().ID
			err := c.Hub().GroupSend(c.Context(), group(roomOf(c)), "chat.message", sentMessage{m, time.Now()})
			if errors.Is(err, grouphub.ErrUnavailable) || errors.Is(err, grouphub.ErrUncertain) {
				// Redis is away. Returning the error would close the connection.
				return c.SendJSON(map[string]any{"type": "chat.unsent", "data": m})
			}
			return err
		}),
		Events: grouphub.Events{
			"chat.message":      grouphub.Forward(),
			"chat.announcement": grouphub.Forward(),
			"presence":          grouphub.Forward(), // who comes and goes, which the policy announces
		},
	}
}

// announce writes to a room without being in it, as any part of a backend can. A real
// application would ask first who is calling.
func announce(hub *grouphub.Hub, open *rooms) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, 16<<10)
		room, text := r.PostFormValue("room"), r.PostFormValue("text")
		if !validName(room) || !validText(text) {
			http.Error(w, "an announcement needs a room and a text", http.StatusBadRequest)
			return
		}
		if !open.use(room) {
			http.Error(w, "there are too many rooms", http.StatusServiceUnavailable)
			return
		}
		err := hub.GroupSend(r.Context(), group(room), "chat.announcement", message{Text: text})
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	}
}

func roomOf(c *grouphub.Conn) string { return c.Request().URL.Query().Get("room") }

// roomPrefix keeps the rooms apart from an application's other groups.
const roomPrefix = "room:"

func group(room string) string { return roomPrefix + room }

// validName checks the names of rooms and of people, which are shown on one line.
func validName(s string) bool {
	return strings.TrimSpace(s) != "" && utf8.ValidString(s) &&
		utf8.RuneCountInString(s) <= maxNameLength && !strings.ContainsFunc(s, unicode.IsControl)
}

func validText(s string) bool {
	return strings.TrimSpace(s) != "" && utf8.RuneCountInString(s) <= maxTextLength
}
