package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
	"github.com/seed-29c60982/grouphub/internal/leak"
)

// TestMain fails the suite if a goroutine outlives it.
func TestMain(m *testing.M) { leak.Check(m) }

func newTasks(t *testing.T, duration time.Duration) http.Handler {
	ctx, stop := context.WithCancel(context.Background())
	js := newJobs(ctx, grouphub.New(nil), duration)
	t.Cleanup(func() {
		stop()
		if err := js.hub.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		js.running.Wait()
	})
	return js.routes()
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

func next(t *testing.T, c *hubtest.Client) progress {
	t.Helper()
	var p progress
	if err := c.ExpectEvent("job.progress").Decode(&p); err != nil {
		t.Fatal(err)
	}
	return p
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
			percent = max(percent, p.Percent)
		}
	}
}

func TestWhoComesLaterHearsThePresentState(t *testing.T) {
	tasks := newTasks(t, time.Hour)
	id := startJob(t, tasks, "slow")
	if got, want := next(t, hubtest.Dial(t, tasks, "/ws/"+id)), (progress{"slow", 0}); got != want {
		t.Errorf("during the job: %+v, want %+v", got, want)
	}

	tasks = newTasks(t, 100*time.Millisecond)
	id = startJob(t, tasks, "quick")
	watcher := hubtest.Dial(t, tasks, "/ws/"+id)
	for next(t, watcher).Percent < 100 {
	}
	if got, want := next(t, hubtest.Dial(t, tasks, "/ws/"+id)), (progress{"quick", 100}); got != want {
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
	for range maxJobs {
		startJob(t, tasks, "one of many")
	}
	if w := post(tasks, "one too many", nil); w.Code != http.StatusServiceUnavailable {
		t.Errorf("status %d, want %d", w.Code, http.StatusServiceUnavailable)
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
		for id, want := range map[string]progress{first: {"first", 100}, last: {"last", 100}} {
			if got := next(t, hubtest.Dial(t, tasks, "/ws/"+id)); got != want {
				t.Errorf("after the job: %+v, want %+v", got, want)
			}
		}
		time.Sleep(keepFor)
		hubtest.Dial(t, tasks, "/ws/"+last).ExpectClose(4404)
	})
}

func TestFinishedJobsAreLimited(t *testing.T) {
	js := newJobs(t.Context(), nil, 0)
	for i := range maxFinished + 10 {
		js.add(fmt.Sprint(i), progress{})
		js.finish(fmt.Sprint(i))
	}
	if _, ok := js.get("9"); ok || len(js.byID) != maxFinished {
		t.Errorf("%d finished jobs are kept, want the last %d", len(js.byID), maxFinished)
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
		ended <- run(ctx, "127.0.0.1:0", time.Hour, in)
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
	err = run(t.Context(), busy.Addr().String(), time.Hour, io.Discard)
	if err == nil || !strings.Contains(err.Error(), busy.Addr().String()) {
		t.Errorf("run on a busy port: %v", err)
	}
}
