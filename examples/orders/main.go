// Command orders is a shop whose page shows orders as they come. An order and the event that
// tells of it are written in one transaction: there is neither an order that no page heard of
// nor an event of an order that does not exist, wherever the process is killed.
//
//	go run .
//	curl -d customer=Ann -d item=Tea http://127.0.0.1:8080/orders
//	curl -d customer=Ben -d item=Cake -d fail=yes http://127.0.0.1:8080/orders # rolled back
//
// Orders are in a file of SQLite. With -postgres postgres://… they are in PostgreSQL, and so is
// the layer, so that the pages of all processes show the orders of all.
package main

import (
	"cmp"
	"context"
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
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/layer"
)

const (
	group      = "orders" // whose members are all open pages
	shown      = 20       // orders that the page has at first
	maxLength  = 80       // bytes of a customer's or an item's name
	eventOfNew = "order.placed"
)

// An order is what the form places.
type order struct {
	ID       int64  `json:"id"`
	Customer string `json:"customer"`
	Item     string `json:"item"`
}

// A store has orders, and the events that were written with them until they have gone out.
type store interface {
	// Place writes an order, and what send sends via a publisher, in one transaction. An
	// error of send undoes both.
	Place(ctx context.Context, o order, send func(o order, via layer.Publisher) error) error
	// Latest returns the last orders, the latest first.
	Latest(ctx context.Context, n int) ([]order, error)
	// Relay publishes the events of committed orders until ctx ends.
	Relay(ctx context.Context, to layer.Publisher) error
	Close()
}

//go:embed index.html
var page string

var pageTemplate = template.Must(template.New("page").Parse(page))

func main() {
	addr := flag.String("addr", "127.0.0.1:8080", "listen on this `address`")
	url := flag.String("postgres", "", "keep orders in the PostgreSQL at this `URL`, and share them with other processes")
	file := flag.String("sqlite", filepath.Join(os.TempDir(), "grouphub-orders.db"), "keep orders in this `file` if there is no PostgreSQL")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // so that a second Ctrl-C ends the program at once
	if err := run(ctx, *addr, *url, *file, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "orders:", err)
		os.Exit(1)
	}
}

// run serves the shop until ctx ends, and then lets everybody go in good order.
func run(ctx context.Context, addr, url, file string, out io.Writer) error {
	orders, events, err := open(ctx, url, file)
	if err != nil {
		return err
	}
	defer orders.Close()
	defer events.Close() // Shutdown leaves open a layer that New has not made
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	hub := newHub(events)
	server := &http.Server{Handler: routes(hub, orders), ReadTimeout: 10 * time.Second, IdleTimeout: time.Minute}
	ctx, stop := context.WithCancel(ctx)
	ended := make(chan error, 2)
	go func() {
		ended <- server.Serve(listener)
		stop()
	}()
	go func() {
		ended <- orders.Relay(ctx, events)
		stop()
	}()
	fmt.Fprintf(out, "Open http://%s/ in two browser windows.\n", listener.Addr())
	<-ctx.Done()

	leaving, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	err = errors.Join(hub.Shutdown(leaving), server.Shutdown(leaving))
	for range 2 {
		if reason := <-ended; !errors.Is(reason, http.ErrServerClosed) {
			err = errors.Join(err, reason)
		}
	}
	return err
}

// open opens the store, and the layer that fits it: one in memory is enough for a file that
// only one process has.
func open(ctx context.Context, url, file string) (store, grouphub.Layer, error) {
	if url != "" {
		return openPostgres(ctx, url)
	}
	orders, err := openSQLite(file)
	return orders, grouphub.NewMemoryLayer(), err
}

// newHub returns a hub that keeps the last orders, for pages that were offline.
func newHub(events grouphub.Layer) *grouphub.Hub {
	return grouphub.New(&grouphub.Options{
		Layer:  events,
		Policy: func(string) grouphub.GroupPolicy { return grouphub.GroupPolicy{History: 100} },
		Consumer: grouphub.Consumer{
			// The page is rendered before it connects. It knows by their ids the orders that
			// both it and the last events have.
			Connect: func(c *grouphub.Conn) error { return c.Join(group, grouphub.Last(shown)) },
			Events:  grouphub.Events{"*": grouphub.Forward()},
		},
	})
}

// routes returns the whole application.
func routes(hub *grouphub.Hub, orders store) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		latest, err := orders.Latest(r.Context(), shown)
		if err != nil {
			http.Error(w, "the orders cannot be read at present", http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		pageTemplate.Execute(w, latest)
	})
	mux.Handle("GET /client.js", grouphub.ClientJS())
	mux.Handle("/live", hub)
	mux.HandleFunc("POST /orders", func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, 4<<10)
		o := order{Customer: strings.TrimSpace(r.FormValue("customer")), Item: strings.TrimSpace(r.FormValue("item"))}
		if err := cmp.Or(check(o.Customer), check(o.Item)); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		err := orders.Place(r.Context(), o, func(o order, via layer.Publisher) error {
			if err := hub.GroupSend(r.Context(), group, eventOfNew, o, grouphub.Via(via)); err != nil {
				return err
			}
			if r.FormValue("fail") != "" {
				return errDeclined // after the event was sent: neither is seen
			}
			return nil
		})
		switch {
		case errors.Is(err, errDeclined):
			http.Error(w, err.Error(), http.StatusPaymentRequired)
		case err != nil:
			http.Error(w, "the order could not be placed", http.StatusServiceUnavailable)
		default:
			http.Redirect(w, r, "/", http.StatusSeeOther)
		}
	})
	// The hub refuses other origins by itself. This refuses them for the form, too.
	return http.NewCrossOriginProtection().Handler(mux)
}

var errDeclined = errors.New("the card was declined, and the order rolled back")

func check(name string) error {
	if name == "" || len(name) > maxLength {
		return fmt.Errorf("customer and item must have 1 to %d bytes", maxLength)
	}
	return nil
}
