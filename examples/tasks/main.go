// Command tasks runs long jobs in the background and shows their progress: the request
// that starts a job ends at once, and the job tells its group how far it is.
//
// A job is a message on a named channel, which a worker takes. Workers are goroutines of this
// process, or, with -redis redis://127.0.0.1:6379, other processes that are started with -worker.
//
// A message is lost with its worker, and when nobody has taken it for a minute. So what there is
// to do stands in the store, and a job that nobody works on is sent again.
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

	maxTries  = 10              // of a job; it may be what its workers die of
	beatEvery = 5 * time.Second // how often a worker says that it is there, and how often is looked for jobs without one
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
	var background sync.WaitGroup
	background.Go(func() { js.tend(ctx) })
	if c.redis == "" {
		background.Go(func() { js.work(ctx) })
	}
	<-ctx.Done()
	background.Wait()

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

// A progress is what the store has of a job, and what everybody who watches it is told.
type progress struct {
	Name    string `json:"name"`
	State   state  `json:"state"`
	Percent int    `json:"percent"`
	Tries   int    `json:"tries"` // how often it was sent again since nobody worked on it
}

// A state is what becomes of a job: it waits, it runs, and it is done. It waits again when its
// worker has gone, and has failed when that has happened too often.
type state string

const (
	waiting state = "waiting"
	running state = "running"
	done    state = "done"
	failed  state = "failed"
)

// over reports whether there is nothing more to do.
func (p progress) over() bool { return p.State == done || p.State == failed }

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
	id, job := rand.Text(), progress{Name: r.PostFormValue("name")}
	err := js.enqueue(r.Context(), id, job)
	if err != nil && !errors.Is(err, errFull) {
		job.State = failed // so that it is not sent later, when nobody expects it any more
		js.save(context.WithoutCancel(r.Context()), id, job)
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
	json.NewEncoder(w).Encode(map[string]string{"id": id})
}

// enqueue leaves a job to the next worker that is free.
func (js *jobs) enqueue(ctx context.Context, id string, job progress) error {
	job.State = waiting
	if err := js.store.set(ctx, id, job); err != nil {
		return err
	}
	return js.hub.Send(ctx, channel, "job.start", id)
}

// tend sends jobs again that nobody works on, until ctx ends.
func (js *jobs) tend(ctx context.Context) {
	look := time.NewTicker(beatEvery)
	defer look.Stop()
	for {
		select {
		case <-look.C:
		case <-ctx.Done():
			return
		}
		ids, err := js.store.overdue(ctx)
		if err != nil && ctx.Err() == nil {
			slog.Warn("cannot look for jobs that nobody works on", "err", err)
		}
		for _, id := range ids {
			if err := js.tryAgain(ctx, id); err != nil && ctx.Err() == nil {
				slog.Warn("job not sent again", "job", id, "err", err)
			}
		}
	}
}

// tryAgain sends a job again. If that cannot be done now, the job will be overdue again.
func (js *jobs) tryAgain(ctx context.Context, id string) error {
	job, ok, err := js.store.get(ctx, id)
	if err != nil || job.over() {
		return err
	}
	if job.Tries++; !ok || job.Tries > maxTries { // what it was is forgotten, or it has failed too often
		job.State = failed
		js.tell(ctx, id, job)
		return nil
	}
	return js.enqueue(ctx, id, job)
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

// run stands for a real job: it does some work a hundred times, and each time says so. It begins
// where the job's last worker has stopped. If that one has only been asleep, both go on, so what a
// job does must be right when it is done twice.
func (js *jobs) run(ctx context.Context, e grouphub.Event) error {
	var id string
	if err := e.Decode(&id); err != nil {
		return err
	}
	job, ok, err := js.store.get(ctx, id)
	if err != nil || !ok || job.over() {
		return err
	}
	job.State = running
	js.tell(ctx, id, job)
	step, beat := time.NewTicker(max(js.duration/100, time.Millisecond)), time.NewTicker(beatEvery)
	defer step.Stop()
	defer beat.Stop()
	for job.State == running {
		select {
		case <-step.C:
			if job.Percent++; job.Percent == 100 {
				job.State = done
			}
			js.tell(ctx, id, job)
		case <-beat.C: // a step that takes long must not look like a worker that has died
			js.save(ctx, id, job)
		case <-ctx.Done(): // this worker ends, and another one goes on
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			_ = js.enqueue(ctx, id, job) // if not, it will be overdue
			return nil
		}
	}
	return nil
}

// tell says how far a job is: first the store, then those who watch, so that no snapshot is older
// than what was sent before it. Only the last event matters to a page that is behind.
func (js *jobs) tell(ctx context.Context, id string, job progress) {
	js.save(ctx, id, job)
	err := js.hub.GroupSend(ctx, prefix+id, "job.progress", job, grouphub.Latest("progress"))
	if err != nil && ctx.Err() == nil {
		slog.Warn("progress not sent", "job", id, "percent", job.Percent, "err", err)
	}
}

// save writes down how far a job is. A job does not fail because that cannot be done.
func (js *jobs) save(ctx context.Context, id string, job progress) {
	if err := js.store.set(ctx, id, job); err != nil && ctx.Err() == nil {
		slog.Warn("progress not saved", "job", id, "percent", job.Percent, "err", err)
	}
}
