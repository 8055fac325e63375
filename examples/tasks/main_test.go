package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
	"github.com/seed-29c60982/grouphub/internal/leak"
	"github.com/seed-29c60982/grouphub/internal/redistest"
)

// TestMain fails the suite if a goroutine outlives it.
func TestMain(m *testing.M) { leak.Check(m) }

func newTasks(t *testing.T, duration time.Duration) http.Handler {
	js := newJobs(t, duration)
	startWorkers(t, js)
	return js.routes()
}

// newJobs returns jobs that nobody works on yet.
func newJobs(t *testing.T, duration time.Duration) *jobs {
	js := &jobs{store: &memoryStore{jobs: map[string]keptJob{}}, duration: duration}
	js.hub = grouphub.New(js.options())
	t.Cleanup(func() {
		if err := js.hub.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return js
}

// startWorkers works on jobs, and looks after them, until the test ends.
func startWorkers(t *testing.T, js *jobs) {
	ctx, stop := context.WithCancel(context.Background())
	var background sync.WaitGroup
	background.Go(func() { js.tend(ctx) })
	background.Go(func() { js.work(ctx) })
	t.Cleanup(func() {
		stop()
		background.Wait()
	})
}

func post(tasks http.Handler, name string, header http.Header) *httptest.ResponseRecorder {
	r := httptest.NewRequest("POST", "/jobs", strings.NewReader(url.Values{"name": {name}}.Encode()))
	for name, values := range header {
		r.Header[name] = values
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	w := httptest.NewRecorder()
	tasks.ServeHTTP(w, r)
	return w
}

func startJob(t *testing.T, tasks http.Handler, name string) (id string) {
	t.Helper()
	w := post(tasks, name, nil)
	var answer struct{ ID string }
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || w.Code != http.StatusCreated {
		t.Fatalf("start of a job: %d %s", w.Code, w.Body)
	}
	return answer.ID
}

// next returns the next progress, whether it comes as an event or as a snapshot.
func next(t *testing.T, c *hubtest.Client) progress {
	t.Helper()
	m := c.Next()
	var e struct {
		Type string
		Data progress
	}
	if err := json.Unmarshal(m.Data, &e); err != nil || e.Type != "snapshot" && e.Type != "job.progress" {
		t.Fatalf("%s is no progress (error %v)", m.Data, err)
	}
	return e.Data
}

func TestTwoJobsReach100PercentAndStayApart(t *testing.T) {
	tasks := newTasks(t, 500*time.Millisecond)
	watchers := map[string]*hubtest.Client{}
	for _, name := range []string{"first", "第二"} {
		watchers[name] = hubtest.Dial(t, tasks, "/ws/"+startJob(t, tasks, name))
	}
	for name, watcher := range watchers {
		percent := 0
		for percent < 100 {
			p := next(t, watcher)
			if p.Name != name {
				t.Fatalf("who watches %q hears of %q", name, p.Name)
			}
			if p.Percent < percent {
				t.Fatalf("%q goes back from %d %% to %d %%", name, percent, p.Percent)
			}
			percent = p.Percent
		}
	}
}

func TestWhoComesLaterHearsThePresentState(t *testing.T) {
	tasks := newTasks(t, time.Hour)
	id := startJob(t, tasks, "slow")
	if got := next(t, hubtest.Dial(t, tasks, "/ws/"+id)); got.Name != "slow" || got.Percent != 0 || got.over() {
		t.Errorf("during the job: %+v", got)
	}

	tasks = newTasks(t, 100*time.Millisecond)
	id = startJob(t, tasks, "quick")
	watcher := hubtest.Dial(t, tasks, "/ws/"+id)
	for next(t, watcher).Percent < 100 {
	}
	if got, want := next(t, hubtest.Dial(t, tasks, "/ws/"+id)), (progress{Name: "quick", State: done, Percent: 100}); got != want {
		t.Errorf("after the job: %+v, want %+v", got, want)
	}
}

func TestUnknownJobClosesWith4404(t *testing.T) {
	tasks := newTasks(t, time.Hour)
	for _, path := range []string{"/ws/unknown", "/ws/%00"} {
		hubtest.Dial(t, tasks, path).ExpectClose(4404)
	}
}

func TestJobsAreLimited(t *testing.T) {
	tasks := newTasks(t, time.Hour)
	started := 0
	for ; started <= 2*maxJobs; started++ { // as many wait as run
		if w := post(tasks, "one of many", nil); w.Code == http.StatusServiceUnavailable {
			break
		}
	}
	if started < maxJobs || started > 2*maxJobs {
		t.Errorf("%d jobs were started, want %d at least, and %d at most", started, maxJobs, 2*maxJobs)
	}
}

func TestFinishedJobsAreInNobodysWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const duration = 8 * time.Second
		tasks := newTasks(t, duration)
		first := startJob(t, tasks, "first")
		for range maxJobs - 1 {
			startJob(t, tasks, "one of many")
		}
		time.Sleep(duration + time.Second)
		last := startJob(t, tasks, "last")
		time.Sleep(duration + time.Second)
		for id, want := range map[string]progress{
			first: {Name: "first", State: done, Percent: 100},
			last:  {Name: "last", State: done, Percent: 100},
		} {
			if got := next(t, hubtest.Dial(t, tasks, "/ws/"+id)); got != want {
				t.Errorf("after the job: %+v, want %+v", got, want)
			}
		}
		time.Sleep(keepFor)
		hubtest.Dial(t, tasks, "/ws/"+last).ExpectClose(4404)
	})
}

func TestKeptJobsAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kept := &memoryStore{jobs: map[string]keptJob{}}
		for i := range maxKept {
			if err := kept.set(t.Context(), fmt.Sprint(i), progress{}); err != nil {
				t.Fatal(err)
			}
		}
		if err := kept.set(t.Context(), "another", progress{}); !errors.Is(err, errFull) {
			t.Errorf("one job too many: %v", err)
		}
		if err := kept.set(t.Context(), "0", progress{}); err != nil {
			t.Errorf("a job that is kept: %v", err)
		}
		time.Sleep(keepFor + 1)
		if err := kept.set(t.Context(), "another", progress{}); err != nil || len(kept.jobs) != 1 {
			t.Errorf("%d jobs are kept after their time (error %v), want 1", len(kept.jobs), err)
		}
	})
}

// untilOver reads what a watcher is told until the job is over.
func untilOver(t *testing.T, watcher *hubtest.Client) progress {
	t.Helper()
	for {
		if p := next(t, watcher); p.over() {
			return p
		}
	}
}

func TestAJobThatWaitsForMoreThanAMinuteIsDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		js := newJobs(t, 8*time.Second)
		tasks := js.routes()
		id := startJob(t, tasks, "early")
		time.Sleep(3 * time.Minute) // its message has gone by then
		startWorkers(t, js)
		time.Sleep(beatEvery)
		watcher := hubtest.Dial(t, tasks, "/ws/"+id)
		if got := untilOver(t, watcher); got.State != done || got.Percent != 100 {
			t.Errorf("the job ended as %+v", got)
		}
	})
}

func TestAJobWhoseWorkerHasDiedIsGoneOnWith(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		js := newJobs(t, 8*time.Second)
		tasks := js.routes()
		id := startJob(t, tasks, "hard")
		if _, err := js.hub.Receive(t.Context(), channel); err != nil {
			t.Fatal(err)
		}
		js.tell(t.Context(), id, progress{Name: "hard", State: running, Percent: 40}) // its last word
		died := time.Now()
		startWorkers(t, js)
		time.Sleep(silentFor + beatEvery) // nobody says anything
		watcher := hubtest.Dial(t, tasks, "/ws/"+id)
		for p := next(t, watcher); !p.over(); p = next(t, watcher) {
			if p.Percent < 40 {
				t.Fatalf("the job has begun anew: %+v", p)
			}
		}
		if took := time.Since(died); took > silentFor+beatEvery+8*time.Second {
			t.Errorf("the job was done after %v", took)
		}
	})
}

func TestAJobThatNobodyFinishesHasFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		js := newJobs(t, time.Hour)
		tasks := js.routes()
		id := startJob(t, tasks, "lethal")
		ctx, stop := context.WithCancel(t.Context())
		var background sync.WaitGroup
		background.Go(func() { js.tend(ctx) })
		time.Sleep((maxTries + 1) * (waitFor + beatEvery))
		if got := next(t, hubtest.Dial(t, tasks, "/ws/"+id)); got.State != failed {
			t.Errorf("the job ended as %+v", got)
		}
		stop()
		background.Wait()
		if ids, err := js.store.overdue(t.Context()); len(ids) > 0 || err != nil {
			t.Errorf("overdue are %q (error %v)", ids, err)
		}
	})
}

func TestALongStepIsNoDeath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		js := newJobs(t, 100*time.Minute)
		startWorkers(t, js)
		tasks := js.routes()
		watcher := hubtest.Dial(t, tasks, "/ws/"+startJob(t, tasks, "long"))
		for p := next(t, watcher); p.Percent < 3; p = next(t, watcher) {
			if p.Tries > 0 {
				t.Fatalf("the job was sent again: %+v", p)
			}
			time.Sleep(57 * time.Second) // of a step's 60
		}
	})
}

func TestAWorkerThatEndsLeavesItsJobToTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		js := newJobs(t, 10*time.Second)
		tasks := js.routes()
		watcher := hubtest.Dial(t, tasks, "/ws/"+startJob(t, tasks, "moved"))
		ctx, stop := context.WithCancel(t.Context())
		var first sync.WaitGroup
		first.Go(func() { js.work(ctx) })
		for next(t, watcher).Percent < 50 {
		}
		stop()
		first.Wait()
		began := time.Now()
		startWorkers(t, js)
		if got, took := untilOver(t, watcher), time.Since(began); got.State != done || took > 6*time.Second {
			t.Errorf("the job ended as %+v after %v", got, took)
		}
	})
}

func TestOnRedisEachOverdueJobIsFoundByOne(t *testing.T) {
	store, err := newRedisStore(redistest.Start(t).URL())
	if err != nil {
		t.Fatal(err)
	}
	defer store.client.Close()
	for id, p := range map[string]progress{"waits": {State: waiting}, "runs": {State: running}, "done": {State: running}} {
		if err := store.set(t.Context(), id, p); err != nil {
			t.Fatal(err)
		}
	}
	if err := store.set(t.Context(), "done", progress{State: done}); err != nil {
		t.Fatal(err)
	}
	expect := func(want ...string) {
		t.Helper()
		ids, err := store.overdue(t.Context())
		if slices.Sort(ids); err != nil || !slices.Equal(ids, want) {
			t.Errorf("overdue are %q (error %v), want %q", ids, err, want)
		}
	}
	expect()
	for _, id := range []string{"waits", "runs"} { // as if time had passed
		passed := store.client.B().Zadd().Key(unfinished).Xx().ScoreMember().ScoreMember(score(-time.Second), id).Build()
		if err := store.client.Do(t.Context(), passed).Error(); err != nil {
			t.Fatal(err)
		}
	}
	expect("runs", "waits")
	expect()
}

func TestWithRedisAnotherProcessWorksOnTheJobs(t *testing.T) {
	redis := redistest.Start(t).URL()
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 2)
	out, in := io.Pipe()
	for _, c := range []configuration{
		{addr: "127.0.0.1:0", redis: redis, duration: time.Hour}, // a job that ran here would not end
		{addr: "127.0.0.1:0", redis: redis, duration: 100 * time.Millisecond, worker: true},
	} {
		go func() { ended <- run(ctx, c, in) }()
	}
	address := ""
	for lines := bufio.NewScanner(out); address == "" && lines.Scan(); {
		address = regexp.MustCompile(`[\d.]+:\d+`).FindString(lines.Text())
	}
	go io.Copy(io.Discard, out)
	response, err := http.PostForm("http://"+address+"/jobs", url.Values{"name": {"far away"}})
	if err != nil {
		t.Fatal(err)
	}
	var job struct{ ID string }
	if err := json.NewDecoder(response.Body).Decode(&job); err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	watcher, _, err := websocket.DefaultDialer.Dial("ws://"+address+"/ws/"+job.ID, nil)
	if err != nil {
		t.Fatal(err)
	}
	for p := (progress{}); p.Percent < 100; {
		e := struct{ Data *progress }{&p}
		if err := watcher.ReadJSON(&e); err != nil || p.Name != "far away" {
			t.Fatalf("who watches a job hears of %+v (error %v)", p, err)
		}
	}
	watcher.Close()
	http.DefaultClient.CloseIdleConnections()
	stop()
	for range 2 {
		if err := <-ended; err != nil {
			t.Errorf("run: %v", err)
		}
	}
	in.Close()
}

func TestWorkerWithoutRedisIsAnError(t *testing.T) {
	if err := run(t.Context(), configuration{worker: true}, io.Discard); err == nil || !strings.Contains(err.Error(), "-redis") {
		t.Errorf("run: %v", err)
	}
}

func TestServerWaitsForNobodyWhoSendsNothing(t *testing.T) {
	if server := newServer(nil); server.ReadTimeout == 0 || server.IdleTimeout == 0 {
		t.Errorf("reads for %v, idle for %v, want limits", server.ReadTimeout, server.IdleTimeout)
	}
}

func TestStartFromAnotherSiteIsRefused(t *testing.T) {
	w := post(newTasks(t, time.Hour), "evil", http.Header{"Sec-Fetch-Site": {"cross-site"}})
	if w.Code != http.StatusForbidden {
		t.Errorf("status %d, want %d", w.Code, http.StatusForbidden)
	}
}

func TestFirstLineSaysWhereAndTheEndIsClean(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	out, in := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, configuration{addr: "127.0.0.1:0", duration: time.Hour}, in)
		in.Close()
	}()
	first, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	address := regexp.MustCompile(`http://\S+`).FindString(first)
	response, err := http.Get(address)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(response.Body)
	response.Body.Close()
	if err != nil || string(body) != string(page) {
		t.Errorf("%q leads to %d bytes (error %v), not to the page", first, len(body), err)
	}
	// A job that runs does not hold up the end.
	response, err = http.PostForm(address+"jobs", url.Values{"name": {"endless"}})
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	http.DefaultClient.CloseIdleConnections()
	stop()
	if err := <-ended; err != nil {
		t.Errorf("run: %v", err)
	}
}

func TestBusyPortIsAnErrorThatNamesIt(t *testing.T) {
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	err = run(t.Context(), configuration{addr: busy.Addr().String()}, io.Discard)
	if err == nil || !strings.Contains(err.Error(), busy.Addr().String()) {
		t.Errorf("run on a busy port: %v", err)
	}
}
