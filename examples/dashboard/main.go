// Command dashboard shows live values in a page. Whoever enters gets all of them at once, as
// the group's snapshot, and then what changes. Each value has a Latest key, so that a page that
// cannot keep up gets the last value of each instead of all that it has missed.
//
// A button in the page connects a second, slow reader, which shows that.
//
// With -redis redis://127.0.0.1:6379, all processes that are given the same Redis show the same
// values. Start the others with -measure=false.
package main

import (
	"context"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/seed-29c60982/grouphub"
)

const (
	dashboard = "dashboard"            // the group of all pages
	pause     = 5 * time.Millisecond   // between two measurements: 200 events a second
	slowness  = 250 * time.Millisecond // what the slow reader needs for an event
)

//go:embed index.html
var page []byte

func main() {
	addr := flag.String("addr", "127.0.0.1:8080", "listen on this `address`")
	redis := flag.String("redis", "", "share the values with other processes through the Redis at this `URL`")
	measuring := flag.Bool("measure", true, "send values, and not only show those of another process")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // so that a second Ctrl-C ends the program at once
	if err := run(ctx, *addr, *redis, *measuring, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "dashboard:", err)
		os.Exit(1)
	}
}

// run serves the page and measures until ctx ends.
func run(ctx context.Context, addr, redis string, measuring bool, out io.Writer) error {
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
	// Without time limits a stranger can occupy any number of connections by sending nothing.
	server := &http.Server{Handler: routes(hub), ReadTimeout: 10 * time.Second, IdleTimeout: time.Minute}
	ctx, stop := context.WithCancel(ctx)
	served := make(chan error, 1)
	go func() {
		served <- server.Serve(listener)
		stop()
	}()
	var measurements sync.WaitGroup
	if measuring {
		measurements.Go(func() { measure(ctx, hub) })
	}

	fmt.Fprintf(out, "Open http://%s/ and add a slow reader.\n", listener.Addr())
	<-ctx.Done()
	measurements.Wait()

	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	// Both are needed: net/http forgets a connection when it is upgraded.
	err = errors.Join(hub.Shutdown(ctx), server.Shutdown(ctx))
	if reason := <-served; !errors.Is(reason, http.ErrServerClosed) {
		err = errors.Join(reason, err)
	}
	return err
}

// A reading is one value, when it was measured.
type reading struct {
	Name  string    `json:"name"`
	Unit  string    `json:"unit"`
	Value float64   `json:"value"`
	At    time.Time `json:"at"`
}

// sensors stand for the application's data: what is measured, about which middle, and how far from it.
var sensors = []struct {
	name, unit     string
	middle, spread float64
}{
	{"Temperature", "°C", 21, 4}, {"Humidity", "%", 48, 12}, {"Pressure", "hPa", 1013, 9},
	{"Wind", "m/s", 6, 5}, {"Solar power", "kW", 8.4, 3}, {"Load", "kW", 5.2, 2.5},
	{"Battery", "%", 71, 14}, {"Water level", "cm", 132, 20},
}

// read returns what a sensor says now. Here it depends on the clock alone, so that all processes
// agree; an application asks its database.
func read(sensor int) reading {
	s, now := sensors[sensor], time.Now()
	x := float64(now.UnixMilli()%1e8)/4000 + float64(sensor)
	value := s.middle + s.spread*(0.7*math.Sin(x)+0.3*math.Sin(3.7*x))
	return reading{s.name, s.unit, math.Round(value*10) / 10, now}
}

// measure sends one sensor's value after the other, until ctx ends.
func measure(ctx context.Context, hub *grouphub.Hub) {
	step := time.NewTicker(pause)
	defer step.Stop()
	for sensor := 0; ; sensor = (sensor + 1) % len(sensors) {
		select {
		case <-step.C:
		case <-ctx.Done():
			return
		}
		r := read(sensor)
		err := hub.GroupSend(ctx, dashboard, "reading", r, grouphub.Latest(r.Name))
		if err != nil && ctx.Err() == nil {
			slog.Warn("value not sent", "sensor", r.Name, "err", err)
		}
	}
}

// newOptions returns the hub's options. They have to be the same in every process.
func newOptions() *grouphub.Options {
	return &grouphub.Options{Policy: func(group string) grouphub.GroupPolicy {
		return grouphub.GroupPolicy{Snapshot: snapshot}
	}}
}

// snapshot loads what a page begins with. It runs once for all who wait for it.
func snapshot(context.Context, string) (any, error) {
	all := make([]reading, len(sensors))
	for i := range sensors {
		all[i] = read(i)
	}
	return all, nil
}

func routes(hub *grouphub.Hub) http.Handler {
	join := func(c *grouphub.Conn) error { return c.Join(dashboard) }
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Write(page)
	})
	mux.Handle("GET /client.js", grouphub.ClientJS())
	mux.Handle("/ws", hub.Handler(grouphub.Consumer{
		Connect: join,
		Events:  grouphub.Events{"snapshot": grouphub.Forward(), "reading": grouphub.Forward()},
	}))
	mux.Handle("/ws/slow", hub.Handler(grouphub.Consumer{
		Connect: join,
		Events:  grouphub.Events{"snapshot": grouphub.Forward(), "reading": grouphub.Handle(slowly)},
	}))
	return mux
}

// slowly hands an event on like Forward, after a time in which many others are sent.
func slowly(c *grouphub.Conn, e grouphub.Event) error {
	select {
	case <-time.After(slowness):
		return c.SendJSON(e)
	case <-c.Context().Done():
		return nil
	}
}
