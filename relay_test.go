package grouphub_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/seed-29c60982/grouphub"
)

// overHTTP2 serves a hub over HTTP/2. The channel is told each time the hub's handler has
// returned.
func overHTTP2(t *testing.T, hub *grouphub.Hub) (s *httptest.Server, returned <-chan struct{}) {
	t.Helper()
	ended := make(chan struct{}, 10)
	s = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() { ended <- struct{}{} }()
		hub.ServeHTTP(w, r)
	}))
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	return s, ended
}

// connectTo is connect with the client of a server, which may speak HTTP/2.
func (s *eventSource) connectTo(server *httptest.Server) {
	s.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s.cut = cancel
	s.t.Cleanup(cancel)
	r, err := http.NewRequestWithContext(ctx, "GET", server.URL, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	r.Header.Set("Accept", "text/event-stream")
	answer, err := server.Client().Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	if answer.ProtoMajor != 2 {
		s.t.Fatalf("answered by %s", answer.Proto)
	}
	s.status, s.body = answer.StatusCode, newReader(answer.Body)
}

// within waits for a signal.
func within(t *testing.T, d time.Duration, c <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(d):
		t.Fatalf("%s: not within %v", what, d)
	}
}

func TestStreamOverHTTP2WhoseClientLeavesEndsAtOnce(t *testing.T) {
	gone := make(chan struct{})
	hub := hubOf(t, grouphub.Consumer{Disconnect: func(context.Context, *grouphub.Conn, int) { close(gone) }})
	s, returned := overHTTP2(t, hub)
	source := &eventSource{t: t}
	source.connectTo(s)
	source.expect("grouphub.open")
	source.cut()
	within(t, 10*time.Second, gone, "Disconnect") // and not with the next comment
	within(t, 20*time.Second, returned, "the handler's return")
}

func TestStreamOverHTTP2GetsTheCloseOfShutdown(t *testing.T) {
	hub := hubOf(t, grouphub.Consumer{})
	s, returned := overHTTP2(t, hub)
	source := &eventSource{t: t}
	source.connectTo(s)
	source.expect("grouphub.open")
	if err := hub.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if code := source.closed(); code != 1001 {
		t.Errorf("closed with %d, want 1001", code)
	}
	within(t, 20*time.Second, returned, "the handler's return")
}

func TestShutdownDoesNotWaitLongerForAConnectOverHTTP2(t *testing.T) {
	connecting, leave := make(chan struct{}), make(chan struct{})
	hub := grouphub.New(&grouphub.Options{Logger: quiet(), Consumer: grouphub.Consumer{Connect: func(*grouphub.Conn) error {
		close(connecting)
		<-leave
		return nil
	}}})
	s, _ := overHTTP2(t, hub)
	source := &eventSource{t: t}
	source.connectTo(s)
	<-connecting
	down := make(chan struct{})
	go func() {
		defer close(down)
		if err := hub.Shutdown(canceled()); err == nil {
			t.Error("Shutdown returned nil while Connect runs")
		}
	}()
	defer func() {
		close(leave)
		<-down
		if err := hub.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	within(t, 20*time.Second, down, "Shutdown's return")
}

func TestConnectOverHTTP2IsPartOfTheRequest(t *testing.T) {
	connecting, leave := make(chan struct{}), make(chan struct{})
	left := make(chan struct{})
	hub := hubOf(t, grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error {
			close(connecting)
			<-c.Context().Done() // the client has gone
			close(left)
			<-leave
			return nil
		},
	})
	s, returned := overHTTP2(t, hub)
	source := &eventSource{t: t}
	source.connectTo(s)
	<-connecting
	source.cut()
	within(t, 20*time.Second, left, "the end of the connection's context")
	select {
	case <-returned:
		t.Error("the handler has returned before Connect")
	case <-time.After(50 * time.Millisecond):
	}
	close(leave)
	within(t, 20*time.Second, returned, "the handler's return")
}

// A server, or a middleware, that can flush but not hijack has HTTP/1.1 streams relayed.
func TestStreamOfAServerThatCannotHijackIsRelayed(t *testing.T) {
	hub := hubOf(t, noteConsumer)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hub.ServeHTTP(struct {
			http.ResponseWriter
			http.Flusher
		}{w, w.(http.Flusher)}, r)
	}))
	defer s.Close()
	source := &eventSource{t: t}
	source.connect(s.URL)
	source.expect("grouphub.open")
	send(t, hub, "all", "note", 1)
	source.event()
	if err := hub.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if code := source.closed(); code != 1001 {
		t.Errorf("closed with %d, want 1001", code)
	}
}

func TestStreamThroughWhatCannotFlushIsRefusedBeforeAccept(t *testing.T) {
	hub := hubOf(t, grouphub.Consumer{Accept: func(*http.Request) error {
		t.Error("Accept was asked")
		return nil
	}})
	s := httptest.NewServer(http.TimeoutHandler(hub, time.Minute, "too late"))
	defer s.Close()
	r, _ := http.NewRequest("GET", s.URL, nil)
	r.Header.Set("Accept", "text/event-stream")
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, _ := io.ReadAll(answer.Body)
	if answer.StatusCode != 500 || string(text) != "this server cannot stream\n" || !strings.HasPrefix(answer.Header.Get("Content-Type"), "text/plain") {
		t.Errorf("%s, %v: %q", answer.Status, answer.Header, text)
	}
	if n := hub.Stats(); n.Rejected != 1 || n.Conns != 0 {
		t.Errorf("Stats: %+v", n)
	}
}
