// Command htmx is a shopping list that all who look at it share: a page without a script of
// its own. htmx opens an event stream, and every change comes over it as HTML, which Render
// makes once for everybody.
//
// There is no database: the list is what the group's history says. A page that comes back, to
// this process or to the next one with the same Redis, gets the changes that it missed:
//
//	go run ./examples/htmx -redis redis://127.0.0.1:6379
//
// The page has htmx from a CDN. Without a way there, -htmx names a folder that has it:
//
//	npm install htmx.org@4.0.1
//	go run ./examples/htmx -htmx node_modules/htmx.org/dist
package main

import (
	"bytes"
	"context"
	"crypto/rand"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"html/template"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/seed-29c60982/grouphub"
)

const (
	group         = "list"
	lastChanges   = 200            // of the list are kept
	listLife      = 24 * time.Hour // that long
	maxTextLength = 100            // in characters; the page has the same limit
	idLength      = 26             // of what rand.Text returns
)

//go:embed index.html
var source string

var page = template.Must(template.New("page").Parse(source))

// An item is what the list is made of. To take it off the list, its ID is enough.
type item struct {
	ID   string `json:"id"`
	Text string `json:"text,omitempty"`
}

func main() {
	addr := flag.String("addr", "127.0.0.1:8080", "listen on this `address`")
	redis := flag.String("redis", "", "share the list with other processes through the Redis at this `URL`")
	htmx := flag.String("htmx", "", "serve htmx from this `folder`; by default the page has it from a CDN")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // so that a second Ctrl-C ends the program at once
	if err := run(ctx, *addr, *redis, *htmx, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "htmx:", err)
		os.Exit(1)
	}
}

// run serves the list until ctx ends. Without a redis URL the list ends, too.
func run(ctx context.Context, addr, redis, htmx string, out io.Writer) error {
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
	server := newServer(routes(hub, htmx))
	ctx, stop := context.WithCancel(ctx)
	served := make(chan error, 1)
	go func() {
		served <- server.Serve(listener)
		stop()
	}()

	fmt.Fprintf(out, "Open http://%s/ in two browser windows.\n", listener.Addr())
	<-ctx.Done()

	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	// Both are needed: net/http forgets a connection when a stream takes it.
	err = errors.Join(hub.Shutdown(ctx), server.Shutdown(ctx))
	if reason := <-served; !errors.Is(reason, http.ErrServerClosed) {
		err = errors.Join(reason, err)
	}
	return err
}

// newServer returns a server with time limits: without them a stranger can occupy any number
// of connections by sending nothing. They do not cut a stream.
func newServer(handler http.Handler) *http.Server {
	return &http.Server{Handler: handler, ReadTimeout: 10 * time.Second, IdleTimeout: time.Minute}
}

// newOptions returns the hub's options. They have to be the same in every process.
func newOptions() *grouphub.Options {
	return &grouphub.Options{
		Policy: func(string) grouphub.GroupPolicy {
			return grouphub.GroupPolicy{History: lastChanges, HistoryTTL: listLife}
		},
	}
}

// routes returns the whole application. htmx is the folder that has htmx; none for the CDN.
func routes(hub *grouphub.Hub, htmx string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		page.Execute(w, htmx)
	})
	if htmx != "" {
		mux.Handle("GET /htmx/", http.StripPrefix("/htmx", http.FileServer(http.Dir(htmx))))
	}
	mux.Handle("GET /list", hub.Handler(grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error {
			// A page that comes back gets what it missed instead.
			return c.Join(group, grouphub.Last(lastChanges))
		},
		Resync: func(c *grouphub.Conn, _ []string) { startAnew(c) },
		Events: grouphub.Events{
			"item.added": render("item"),
			"item.done":  render("done"),
		},
	}))
	mux.HandleFunc("POST /items", func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, 4<<10)
		text := strings.TrimSpace(r.PostFormValue("text"))
		if text == "" || !utf8.ValidString(text) || utf8.RuneCountInString(text) > maxTextLength {
			http.Error(w, fmt.Sprintf("an item has 1 to %d characters", maxTextLength), http.StatusBadRequest)
			return
		}
		if tell(w, r, hub, "item.added", item{rand.Text(), text}) {
			page.ExecuteTemplate(w, "add", nil) // an empty form in the place of the one that was sent
		}
	})
	mux.HandleFunc("POST /items/{id}/done", func(w http.ResponseWriter, r *http.Request) {
		id := r.PathValue("id")
		if len(id) != idLength || !utf8.ValidString(id) {
			http.Error(w, "there is no such item", http.StatusNotFound)
			return
		}
		if tell(w, r, hub, "item.done", item{ID: id}) {
			w.WriteHeader(http.StatusNoContent)
		}
	})
	// The hub refuses other origins by itself. This refuses them for the forms, too.
	return http.NewCrossOriginProtection().Handler(mux)
}

// render returns the handler that makes HTML of an event, with this template.
func render(name string) grouphub.EventHandler {
	return grouphub.Render(func(e grouphub.Event) ([]byte, error) {
		var i item
		if err := e.Decode(&i); err != nil {
			return nil, err
		}
		var html bytes.Buffer
		err := page.ExecuteTemplate(&html, name, i)
		return html.Bytes(), err
	})
}

// startAnew has a page begin with an empty list, when it cannot be told what it missed.
func startAnew(c *grouphub.Conn) {
	err := c.Leave(group)
	if err == nil {
		err = c.Send([]byte(`<ul id="list" hx-swap-oob="innerHTML"></ul>`))
	}
	if err == nil {
		err = c.Join(group, grouphub.Last(lastChanges))
	}
	if err != nil {
		c.Close(1013, "try again later") // the page comes back, and begins anew then
	}
}

// tell tells everybody of a change. It reports false if that failed, which it has answered.
func tell(w http.ResponseWriter, r *http.Request, hub *grouphub.Hub, event string, i item) bool {
	err := hub.GroupSend(r.Context(), group, event, i)
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
	}
	return err == nil
}
