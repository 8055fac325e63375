// Command tasks runs long jobs in the background and shows their progress: the request
// that starts a job ends at once, and the job tells its group how far it is.
//
// A job is a message on a named channel, which a worker takes. Workers are goroutines of this
// process, or, with -redis redis://127.0.0.1:6379, other processes that are started with -worker.
package main

import (
	"context"
	"crypto/rand"
	_ "embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/seed-29c60982/grouphub"
)

const (
	maxJobs = 100    // that a process runs at the same time; a real application also limits them for each user
	channel = "jobs" // where jobs wait for a worker
	prefix  = "job:" // of the groups of those who watch a job
)

//go:embed index.html
var page []byte

// A configuration is what the flags say.
type configuration struct {
	addr, redis string
	worker      bool
	duration    time.Duration
}

func main() {
	var c configuration
	flag.StringVar(&c.addr, "addr", "127.0.0.1:8080", "listen on this `address`")
	flag.DurationVar(&c.duration, "duration", 8*time.Second, "how long a job takes")
	flag.StringVar(&c.redis, "redis", "", "leave the jobs to workers, through the Redis at this `URL`")
	flag.BoolVar(&c.worker, "worker", false, "work on the jobs of other processes, and serve no page; needs -redis")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // so that a second Ctrl-C ends the program at once
	if err := run(ctx, c, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "tasks:", err)
		os.Exit(1)
	}
}

// run serves the page, or works on jobs, or does both, until ctx ends.
func run(ctx context.Context, c configuration, out io.Writer) error {
	js := &jobs{store: &memoryStore{jobs: map[string]keptJob{}}, duration: c.duration}
	options := js.options()
	switch {
	case c.redis != "":
		layer, err := grouphub.NewRedisLayer(c.redis, nil)
		if err != nil {
			return err
		}
		defer layer.Close() // Shutdown leaves open a layer that New has not made
		database, err := newRedisStore(c.redis)
		if err != nil {
			return err
		}
		defer database.client.Close()
		options.Layer, js.store = layer, database
	case c.worker:
		return errors.New("-worker needs -redis, where the jobs of other processes are")
	}
	if c.worker {
		js.hub = grouphub.New(options)
		fmt.Fprintln(out, "Working on the jobs of other processes.")
		js.work(ctx)
		return js.hub.Shutdown(context.WithoutCancel(ctx)) // it has no connections to wait for
	}

	listener, err := net.Listen("tcp", c.addr)
	if err != nil {
		return err
	}
	js.hub = grouphub.New(options)
	server := newServer(js.routes())
	ctx, stop := context.WithCancel(ctx)
	served := make(chan error, 1)
	go func() {
		served <- server.Serve(listener)
		stop()
	}()
	fmt.Fprintf(out, "Open http://%s/ and start a job or two.\n", listener.Addr())
	if c.redis == "" {
		js.work(ctx)
	}
	<-ctx.Done()

	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	// Both are needed: net/http forgets a connection when it is upgraded.
	err = errors.Join(js.hub.Shutdown(ctx), server.Shutdown(ctx))
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

// A progress is what everybody who watches a job is told.
type progress struct {
	Name    string `json:"name"`
	Percent int    `json:"percent"`
}

// A start is what a worker needs to know of a job.
type start struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

// jobs are all jobs, by ids that cannot be guessed: whoever has the id of a job may watch it.
type jobs struct {
	store    store
	hub      *grouphub.Hub
	duration time.Duration
}

// options returns the hub's options. They have to be the same in every process, the policy
// above all.
func (js *jobs) options() *grouphub.Options {
	return &grouphub.Options{Policy: func(group string) grouphub.GroupPolicy {
		if !strings.HasPrefix(group, prefix) {
			return grouphub.GroupPolicy{}
		}
		return grouphub.GroupPolicy{Snapshot: js.snapshot}
	}}
}

// snapshot loads what a page begins with. The hub sends it at the right moment among the events.
func (js *jobs) snapshot(ctx context.Context, group string) (any, error) {
	p, _, err := js.store.get(ctx, strings.TrimPrefix(group, prefix))
	return p, err
}

func (js *jobs) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Write(page)
	})
	mux.Handle("GET /client.js", grouphub.ClientJS())
	mux.HandleFunc("POST /jobs", js.start)
	mux.Handle("/ws/{job}", js.hub.Handler(grouphub.Consumer{
		Connect: js.watch,
		Events:  grouphub.Events{"snapshot": grouphub.Forward(), "job.progress": grouphub.Forward()},
	}))
	// The hub refuses other origins by itself. This refuses them for the start of a job, too.
	return http.NewCrossOriginProtection().Handler(mux)
}

// watch makes a connection a member of its job's group.
func (js *jobs) watch(c *grouphub.Conn) error {
	id := c.PathValue("job")
	if _, ok, err := js.store.get(c.Context(), id); err != nil {
		return err
	} else if !ok {
		return &grouphub.CloseError{Code: 4404, Reason: "there is no such job any more"}
	}
	return c.Join(prefix + id)
}

// start answers at once, with the id of a job that goes on by itself.
func (js *jobs) start(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 4<<10)
	s := start{ID: rand.Text(), Name: r.PostFormValue("name")}
	err := js.store.set(r.Context(), s.ID, progress{Name: s.Name})
	if err == nil {
		err = js.hub.Send(r.Context(), channel, "job.start", s)
	}
	switch {
	case errors.Is(err, errFull), errors.Is(err, grouphub.ErrQueueFull):
		w.Header().Set("Retry-After", "5")
		http.Error(w, "there are too many jobs", http.StatusServiceUnavailable)
		return
	case err != nil:
		slog.Warn("job not started", "err", err)
		http.Error(w, "there is nobody to work on it", http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusCreated)
	json.NewEncoder(w).Encode(map[string]string{"id": s.ID})
}

// work runs jobs until ctx ends.
func (js *jobs) work(ctx context.Context) {
	var workers sync.WaitGroup
	for range maxJobs {
		workers.Go(func() {
			err := js.hub.Work(ctx, channel, grouphub.Tasks{"job.start": js.run})
			if ctx.Err() == nil {
				slog.Error("worker ended", "err", err)
			}
		})
	}
	workers.Wait()
}

// run stands for a real job: a hundred times it does some work, and then says so.
func (js *jobs) run(ctx context.Context, e grouphub.Event) error {
	var s start
	if err := e.Decode(&s); err != nil {
		return err
	}
	step := time.NewTicker(max(js.duration/100, time.Millisecond))
	defer step.Stop()
	for percent := 1; percent <= 100; percent++ {
		select {
		case <-step.C:
		case <-ctx.Done():
			return nil
		}
		now := progress{Name: s.Name, Percent: percent}
		// First the data, then the event: so no snapshot is older than what was sent before it.
		// Of the events only the last one matters to a page that is behind.
		err := js.store.set(ctx, s.ID, now)
		if err == nil {
			err = js.hub.GroupSend(ctx, prefix+s.ID, "job.progress", now, grouphub.Latest("progress"))
		}
		// A job does not fail because nobody could be told.
		if err != nil && ctx.Err() == nil {
			slog.Warn("progress not sent", "job", s.ID, "percent", percent, "err", err)
		}
	}
	return nil
}
