package grouphub_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
	"github.com/seed-29c60982/grouphub/internal/leak"
)

// TestMain fails the suite if a goroutine outlives it.
func TestMain(m *testing.M) { leak.Check(m) }

var background = context.Background()

func canceled() context.Context {
	ctx, cancel := context.WithCancel(background)
	cancel()
	return ctx
}

func second[T any](_ T, err error) error { return err }

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// newHub returns a hub that is shut down, and must end well, when the test does.
func newHub(t testing.TB, opts *grouphub.Options) *grouphub.Hub {
	t.Helper()
	hub := grouphub.New(opts)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := hub.Shutdown(ctx); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
	})
	return hub
}

// hubOf returns a hub that serves a consumer.
func hubOf(t testing.TB, c grouphub.Consumer) *grouphub.Hub {
	t.Helper()
	return newHub(t, &grouphub.Options{Consumer: c, Logger: quiet()})
}

// connections returns a hub whose connections arrive on the channel.
func connections(t testing.TB, c grouphub.Consumer) (*grouphub.Hub, <-chan *grouphub.Conn) {
	t.Helper()
	conns := make(chan *grouphub.Conn, 100)
	connect := c.Connect
	c.Connect = func(c *grouphub.Conn) error {
		conns <- c
		if connect != nil {
			return connect(c)
		}
		return nil
	}
	return hubOf(t, c), conns
}

func joinAll(c *grouphub.Conn) error { return c.Join("all") }

// noteConsumer makes every connection a member of "all", which is sent "note" events.
var noteConsumer = grouphub.Consumer{Connect: joinAll, Events: grouphub.Events{"note": grouphub.Forward()}}

// authenticate takes the user's ID from the URL's query.
var authenticate = grouphub.Authenticate(func(r *http.Request) (grouphub.User, error) {
	return grouphub.User{ID: r.URL.Query().Get("user")}, nil
})

func send(t testing.TB, hub *grouphub.Hub, group, event string, data any, opts ...grouphub.SendOption) {
	t.Helper()
	if err := hub.GroupSend(background, group, event, data, opts...); err != nil {
		t.Fatal(err)
	}
}

// sendFromMany has so many senders send notes of [sender, number] at the same time, by the
// hubs in turn.
func sendFromMany(t *testing.T, senders, each int, hubs ...*grouphub.Hub) {
	t.Helper()
	var sending sync.WaitGroup
	for s := range senders {
		sending.Go(func() {
			for i := range each {
				send(t, hubs[s%len(hubs)], "all", "note", [2]int{s, i})
			}
		})
	}
	sending.Wait()
}

// expectOneOrder reads what sendFromMany has sent from all clients. The events of each sender
// are in order, and all clients see one order.
func expectOneOrder(t *testing.T, clients []*hubtest.Client, senders, each int) {
	t.Helper()
	var first []string
	for m, c := range clients {
		next := make([]int, senders)
		for i := range senders * each {
			got := string(c.Next().Data)
			if m > 0 {
				if got != first[i] {
					t.Fatalf("member %d, event %d: got %s, member 0 got %s", m, i, got, first[i])
				}
				continue
			}
			first = append(first, got)
			var e struct{ Data [2]int }
			if err := json.Unmarshal([]byte(got), &e); err != nil {
				t.Fatal(err)
			}
			if sender, n := e.Data[0], e.Data[1]; n != next[sender] {
				t.Fatalf("sender %d: got %d, want %d", sender, n, next[sender])
			}
			next[e.Data[0]]++
		}
	}
}

// A server is a hub behind a real HTTP server on loopback. What is tested over it goes
// through TCP sockets; hubtest's clients use pipes.
type server struct {
	*httptest.Server
	t      *testing.T
	served chan struct{} // one for each request that the handler has returned from
}

// dial connects, and returns when Connect has.
func (s *server) dial(path string) *websocket.Conn {
	s.t.Helper()
	return s.dialWith(&websocket.Dialer{}, path)
}

func (s *server) dialWith(dialer *websocket.Dialer, path string) *websocket.Conn {
	s.t.Helper()
	conn := s.dialEarly(dialer, path)
	<-s.served
	return conn
}

// dialEarly connects, and does not wait for Connect, which may need the client.
func (s *server) dialEarly(dialer *websocket.Dialer, path string) *websocket.Conn {
	s.t.Helper()
	conn, response, err := dialer.Dial(s.webSocket()+path, nil)
	if err != nil {
		s.t.Fatalf("dial %s: %v (%v)", path, err, response)
	}
	s.t.Cleanup(func() { conn.Close() })
	return conn
}

// webSocket returns the URL for a Dialer.
func (s *server) webSocket() string { return "ws" + strings.TrimPrefix(s.URL, "http") }

func serve(t *testing.T, h http.Handler) *server {
	t.Helper()
	s := newServer(t, h)
	s.Start()
	return s
}

// newServer returns a server that is still to be started.
func newServer(t *testing.T, h http.Handler) *server {
	served := make(chan struct{}, 10_000)
	s := &server{httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() { served <- struct{}{} }()
		h.ServeHTTP(w, r)
	})), t, served}
	t.Cleanup(s.Close)
	return s
}

func next(t *testing.T, conn *websocket.Conn) string {
	t.Helper()
	conn.SetReadDeadline(time.Now().Add(30 * time.Second))
	_, data, err := conn.ReadMessage()
	if err != nil {
		t.Fatalf("read: %v", err)
	}
	return string(data)
}

func wantNext(t *testing.T, conn *websocket.Conn, want string) {
	t.Helper()
	if got := next(t, conn); got != want {
		t.Fatalf("got %s, want %s", got, want)
	}
}

func wantClose(t *testing.T, conn *websocket.Conn, code int) {
	t.Helper()
	conn.SetReadDeadline(time.Now().Add(30 * time.Second))
	for {
		_, data, err := conn.ReadMessage()
		if err == nil {
			t.Logf("before the close: %.100q", data)
			continue
		}
		if !websocket.IsCloseError(err, code) {
			t.Fatalf("read: %v, want close %d", err, code)
		}
		return
	}
}

// eventually polls for a condition that gives no signal.
func eventually(t *testing.T, ok func() bool, format string, args ...any) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf(format, args...)
		}
	}
}

// get makes a plain HTTP request and returns the status and the body's text.
func get(t *testing.T, h http.Handler, header http.Header) (int, string, http.Header) {
	t.Helper()
	r := httptest.NewRequest("GET", "/", nil)
	for k, v := range header {
		r.Header[k] = v
	}
	w := hijackable{httptest.NewRecorder()}
	h.ServeHTTP(w, r)
	return w.Code, w.Body.String(), w.Header()
}

// A hijackable recorder passes for a server's writer until it is to be hijacked.
type hijackable struct{ *httptest.ResponseRecorder }

func (hijackable) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return nil, nil, errors.New("this is a recorder")
}

// untilRefusing waits until a hub refuses upgrades because its Shutdown has begun.
func untilRefusing(t *testing.T, hub *grouphub.Hub) {
	t.Helper()
	eventually(t, func() bool {
		status, body, _ := get(t, hub, upgradeHeader())
		return status == http.StatusServiceUnavailable && strings.Contains(body, "shutting down")
	}, "Shutdown does not refuse")
}

func upgradeHeader(more ...string) http.Header {
	h := http.Header{
		"Connection": {"Upgrade"}, "Upgrade": {"websocket"},
		"Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="},
	}
	for i := 0; i < len(more); i += 2 {
		h.Add(more[i], more[i+1])
	}
	return h
}

func wantOneLine(t *testing.T, body, part string) {
	t.Helper()
	if !strings.Contains(body, part) || strings.Count(body, "\n") != 1 || !strings.HasSuffix(body, "\n") {
		t.Errorf("body %q, want one line with %q", body, part)
	}
}

func readAll(t *testing.T, r io.Reader) string {
	t.Helper()
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// A safeBuffer is a log that may be read while it is written.
type safeBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// A handlerFunc is a log handler, which is a callback like others.
type handlerFunc func(slog.Record)

func (handlerFunc) Enabled(context.Context, slog.Level) bool { return true }

func (f handlerFunc) Handle(_ context.Context, r slog.Record) error {
	f(r)
	return nil
}

func (f handlerFunc) WithAttrs([]slog.Attr) slog.Handler { return f }

func (f handlerFunc) WithGroup(string) slog.Handler { return f }
