// Command tasks runs long jobs in the background and shows their progress: the request
// that starts a job ends at once, and the job tells its group how far it is.
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
	"sync"
	"syscall"
	"time"

	"github.com/seed-29c60982/grouphub"
)

const (
	maxJobs     = 100              // that run at the same time; a real application also limits them for each user
	maxFinished = 1000             // that can still be looked at; beyond it the oldest goes
	keepFor     = 10 * time.Minute // how long a finished job can be looked at
)

//go:embed index.html
var page []byte

func main() {
	addr := flag.String("addr", "127.0.0.1:8080", "listen on this `address`")
	duration := flag.Duration("duration", 8*time.Second, "how long a job takes")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // so that a second Ctrl-C ends the program at once
	if err := run(ctx, *addr, *duration, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "tasks:", err)
		os.Exit(1)
	}
}

// run serves the page and its jobs until ctx ends, and then stops both.
func run(ctx context.Context, addr string, duration time.Duration, out io.Writer) error {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	hub := grouphub.New(nil)
	js := newJobs(ctx, hub, duration)
	server := newServer(js.routes())
	served := make(chan error, 1)
	go func() {
		served <- server.Serve(listener)
		stop()
	}()

	fmt.Fprintf(out, "Open http://%s/ and start a job or two.\n", listener.Addr())
	<-ctx.Done()

	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	// Both are needed: net/http forgets a connection when it is upgraded.
	err = errors.Join(hub.Shutdown(ctx), server.Shutdown(ctx))
	if reason := <-served; !errors.Is(reason, http.ErrServerClosed) {
		err = errors.Join(reason, err)
	}
	js.running.Wait() // they share run's context, which is over
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

// jobs are all jobs of this process, by ids that cannot be guessed: whoever has the id of a
// job may watch it.
type jobs struct {
	// Static after construction.
	ctx      context.Context // of run, because a job outlives the request that started it
	hub      *grouphub.Hub
	duration time.Duration

	running sync.WaitGroup

	// Guarded by mu.
	mu       sync.Mutex
	byID     map[string]progress // those that run, and the finished ones
	finished []finishedJob       // oldest first
}

// A finishedJob is a job that is only looked at, until a time.
type finishedJob struct {
	id    string
	until time.Time
}

func newJobs(ctx context.Context, hub *grouphub.Hub, duration time.Duration) *jobs {
	return &jobs{ctx: ctx, hub: hub, duration: duration, byID: map[string]progress{}}
}

func (js *jobs) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Write(page)
	})
	mux.HandleFunc("POST /jobs", js.start)
	mux.Handle("/ws/{job}", js.hub.Handler(grouphub.Consumer{
		Connect: js.watch,
		Events:  grouphub.Events{"job.progress": grouphub.Forward()},
	}))
	// The hub refuses other origins by itself. This refuses them for the start of a job, too.
	return http.NewCrossOriginProtection().Handler(mux)
}

// watch makes a connection a member of its job's group and tells it the present state.
// It joins before it looks: what happens between the two comes as an event. Either may
// arrive first, so the page keeps the higher percentage.
func (js *jobs) watch(c *grouphub.Conn) error {
	id := c.PathValue("job")
	joined := c.Join(group(id))
	now, ok := js.get(id)
	if !ok {
		return &grouphub.CloseError{Code: 4404, Reason: "there is no such job any more"}
	}
	if joined != nil {
		return joined
	}
	data, err := json.Marshal(now)
	if err != nil {
		return err
	}
	return c.SendJSON(grouphub.Event{Type: "job.progress", Data: data})
}

// start answers at once, with the id of a job that goes on by itself.
func (js *jobs) start(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 4<<10)
	id, name := rand.Text(), r.PostFormValue("name")
	if !js.add(id, progress{Name: name}) {
		w.Header().Set("Retry-After", "5")
		http.Error(w, "there are too many jobs", http.StatusServiceUnavailable)
		return
	}
	js.running.Go(func() {
		defer js.finish(id)
		js.work(id, name)
	})
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusCreated)
	json.NewEncoder(w).Encode(map[string]string{"id": id})
}

// work stands for a real job: a hundred times it does some work, and then says so.
func (js *jobs) work(id, name string) {
	step := time.NewTicker(max(js.duration/100, time.Millisecond))
	defer step.Stop()
	for percent := 1; percent <= 100; percent++ {
		select {
		case <-step.C:
		case <-js.ctx.Done():
			return
		}
		now := progress{Name: name, Percent: percent}
		js.set(id, now)
		// A job does not fail because nobody could be told.
		err := js.hub.GroupSend(js.ctx, group(id), "job.progress", now)
		if err != nil && js.ctx.Err() == nil {
			slog.Warn("progress not sent", "job", id, "percent", percent, "err", err)
		}
	}
}

func group(id string) string { return "job:" + id }

// add begins a job. It reports false if as many run as may.
func (js *jobs) add(id string, p progress) bool {
	js.mu.Lock()
	defer js.mu.Unlock()
	if len(js.byID)-len(js.finished) >= maxJobs {
		return false
	}
	js.byID[id] = p
	return true
}

func (js *jobs) get(id string) (progress, bool) {
	js.mu.Lock()
	defer js.mu.Unlock()
	js.forgetLocked()
	p, ok := js.byID[id]
	return p, ok
}

func (js *jobs) set(id string, p progress) {
	js.mu.Lock()
	defer js.mu.Unlock()
	js.byID[id] = p
}

// finish notes that a job no longer runs. It can still be looked at for a while.
func (js *jobs) finish(id string) {
	js.mu.Lock()
	defer js.mu.Unlock()
	js.finished = append(js.finished, finishedJob{id, time.Now().Add(keepFor)})
	js.forgetLocked()
}

// forgetLocked drops the finished jobs that have had their time, or are too many.
func (js *jobs) forgetLocked() {
	now := time.Now()
	for len(js.finished) > maxFinished || len(js.finished) > 0 && now.After(js.finished[0].until) {
		delete(js.byID, js.finished[0].id)
		js.finished = js.finished[1:]
	}
}
