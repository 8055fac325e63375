package grouphub_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"
	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
	"github.com/seed-29c60982/grouphub/internal/leak"
)

// TestMain fails the suite if a goroutine outlives it.
func TestMain(m *testing.M) { leak.Check(m) }

// A server is a hub behind a real HTTP server on loopback. What is tested over it goes
// through TCP sockets; hubtest's clients use pipes.
type server struct {
	*httptest.Server
	t      *testing.T
	served chan struct{} // one for each request that the handler has returned from
}

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

func serve(t *testing.T, h http.Handler) *server {
	t.Helper()
	s := newServer(t, h)
	s.Start()
	return s
}

func newServer(t *testing.T, h http.Handler) *server {
	served := make(chan struct{}, 10_000)
	s := &server{httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() { served <- struct{}{} }()
		h.ServeHTTP(w, r)
	})), t, served}
	t.Cleanup(s.Close)
	return s
}

// dial connects, and returns when Connect has.
func (s *server) dial(path string) *websocket.Conn {
	s.t.Helper()
	return s.dialWith(&websocket.Dialer{}, path)
}

func (s *server) dialWith(dialer *websocket.Dialer, path string) *websocket.Conn {
	s.t.Helper()
	conn, response, err := dialer.Dial("ws"+strings.TrimPrefix(s.URL, "http")+path, nil)
	if err != nil {
		s.t.Fatalf("dial %s: %v (%v)", path, err, response)
	}
	s.t.Cleanup(func() { conn.Close() })
	<-s.served
	return conn
}

func next(t *testing.T, conn *websocket.Conn) string {
	t.Helper()
	conn.SetReadDeadline(time.Now().Add(10 * time.Second))
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
	conn.SetReadDeadline(time.Now().Add(10 * time.Second))
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

// eventually waits for what has no signal of its own.
func eventually(t *testing.T, ok func() bool, format string, args ...any) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf(format, args...)
		}
	}
}

var background = context.Background()

func joinAll(c *grouphub.Conn) error { return c.Join("all") }

// noteConsumer makes every connection a member of "all", which is sent "note" events.
var noteConsumer = grouphub.Consumer{Connect: joinAll, Events: grouphub.Events{"note": grouphub.Forward()}}

func send(t testing.TB, hub *grouphub.Hub, group, event string, data any, opts ...grouphub.SendOption) {
	t.Helper()
	if err := hub.GroupSend(background, group, event, data, opts...); err != nil {
		t.Fatal(err)
	}
}

// get makes a plain HTTP request and returns the status and the body's text.
func get(t *testing.T, h http.Handler, header http.Header) (int, string, http.Header) {
	t.Helper()
	r := httptest.NewRequest("GET", "/", nil)
	for k, v := range header {
		r.Header[k] = v
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Code, w.Body.String(), w.Header()
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

func TestMountingPlainRequestGets426(t *testing.T) {
	status, body, header := get(t, newHub(t, nil), nil)
	if status != http.StatusUpgradeRequired || header.Get("Upgrade") != "websocket" {
		t.Errorf("got %d, %v", status, header)
	}
	wantOneLine(t, body, "WebSocket")
}

func TestMountingRefusesAnotherOriginWith403(t *testing.T) {
	hub := newHub(t, nil)
	status, body, _ := get(t, hub, upgradeHeader("Origin", "https://evil.example"))
	if status != http.StatusForbidden {
		t.Errorf("got %d", status)
	}
	wantOneLine(t, body, "https://evil.example")
	if n := hub.Stats().Rejected; n != 1 {
		t.Errorf("%d rejected", n)
	}
	c := hubtest.Dial(t, grouphub.AllowOrigins("https://evil.example")(hub), "/",
		hubtest.WithHeader(http.Header{"Origin": {"https://evil.example"}}))
	c.Close()
}

func TestTwoOriginHeadersAreRefused(t *testing.T) {
	status, body, _ := get(t, grouphub.AllowOrigins("*")(newHub(t, nil)),
		upgradeHeader("Origin", "http://example.com", "Origin", "http://example.com"))
	if status != http.StatusForbidden {
		t.Errorf("got %d", status)
	}
	wantOneLine(t, body, "Origin")
}

func TestMountingFullHubGets503(t *testing.T) {
	hub := newHub(t, &grouphub.Options{MaxConns: 1})
	c := hubtest.Dial(t, hub, "/")
	response := hubtest.DialRefused(t, hub, "/")
	if response.StatusCode != http.StatusServiceUnavailable || response.Header.Get("Retry-After") == "" {
		t.Errorf("got %v", response)
	}
	wantOneLine(t, readAll(t, response.Body), "too many connections")
	c.Close()
	s := serve(t, hub)
	eventually(t, func() bool { // the seat is free once the socket is closed
		conn, _, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(s.URL, "http"), nil)
		if err == nil {
			conn.Close()
		}
		return err == nil
	}, "the seat is still taken")
}

func TestMountingHubThatShutsDownGets503(t *testing.T) {
	hub := grouphub.New(nil)
	if err := hub.Shutdown(background); err != nil {
		t.Fatal(err)
	}
	response := hubtest.DialRefused(t, hub, "/")
	if response.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("got %v", response)
	}
	wantOneLine(t, readAll(t, response.Body), "shutting down")
}

func readAll(t *testing.T, r io.Reader) string {
	t.Helper()
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestBadHandshakeGetsOneClearLine(t *testing.T) {
	h := upgradeHeader()
	h.Set("Sec-WebSocket-Version", "7")
	status, body, header := get(t, newHub(t, nil), h)
	if status != http.StatusBadRequest || header.Get("Sec-WebSocket-Version") != "13" {
		t.Errorf("got %d, %v", status, header)
	}
	wantOneLine(t, body, "version")
	// httptest's recorder cannot be hijacked.
	status, body, _ = get(t, newHub(t, nil), upgradeHeader())
	if status != http.StatusInternalServerError {
		t.Errorf("got %d", status)
	}
	wantOneLine(t, body, "hijack")
}

// unwrapper is a middleware's writer that supports http.ResponseController, and is no
// http.Hijacker itself.
type unwrapper struct{ w http.ResponseWriter }

func (u unwrapper) Header() http.Header         { return u.w.Header() }
func (u unwrapper) Write(p []byte) (int, error) { return u.w.Write(p) }
func (u unwrapper) WriteHeader(status int)      { u.w.WriteHeader(status) }
func (u unwrapper) Unwrap() http.ResponseWriter { return u.w }

func TestMountingBehindMiddlewareThatUnwraps(t *testing.T) {
	hub := newHub(t, &grouphub.Options{Consumer: noteConsumer})
	s := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Set-Cookie", "from=middleware")
		hub.ServeHTTP(unwrapper{w}, r)
	}))
	c := s.dial("/")
	send(t, hub, "all", "note", 1)
	wantNext(t, c, `{"type":"note","group":"all","data":1}`)
}

func TestHandlersShareOneHub(t *testing.T) {
	hub := newHub(t, nil)
	other := noteConsumer
	other.Events = grouphub.Events{"note": grouphub.Render(func(e grouphub.Event) ([]byte, error) {
		return fmt.Appendf(nil, "<b>%s</b>", e.Data), nil
	})}
	a := hubtest.Dial(t, hub.Handler(noteConsumer), "/")
	b := hubtest.Dial(t, hub.Handler(other), "/")
	send(t, hub, "all", "note", 1)
	a.Expect(`{"type":"note","group":"all","data":1}`)
	b.Expect(`<b>1</b>`)
}

func TestNewPanicsOnlyOnContradictoryOptions(t *testing.T) {
	for _, o := range []grouphub.Options{
		{MaxConns: -1}, {MaxMessageSize: -1}, {PongTimeout: time.Second, PingInterval: time.Second}, {CloseTimeout: -1},
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("New(%+v) did not panic", o)
				}
			}()
			grouphub.New(&o)
		}()
	}
	newHub(t, &grouphub.Options{PingInterval: time.Hour})
	newHub(t, &grouphub.Options{PongTimeout: time.Second})
}

func TestPingGoesThroughTheLayer(t *testing.T) {
	hub := newHub(t, nil)
	if err := hub.Ping(background); err != nil {
		t.Fatal(err)
	}
	down := newHub(t, &grouphub.Options{Layer: brokenLayer{grouphub.NewMemoryLayer(), grouphub.ErrUnavailable}})
	if err := down.Ping(background); !errors.Is(err, grouphub.ErrUnavailable) {
		t.Error(err)
	}
}

// brokenLayer is a layer whose Publish fails.
type brokenLayer struct {
	grouphub.Layer
	err error
}

func (l brokenLayer) Publish(context.Context, grouphub.Publication) error {
	return fmt.Errorf("%w: pulled the plug", l.err)
}

func TestErrorsAreTheSenders(t *testing.T) {
	for _, want := range []error{grouphub.ErrUnavailable, grouphub.ErrUncertain} {
		hub := newHub(t, &grouphub.Options{
			Layer: brokenLayer{grouphub.NewMemoryLayer(), want},
			Consumer: grouphub.Consumer{
				Connect: joinAll,
				Receive: func(c *grouphub.Conn, m grouphub.Message) error {
					if string(m.Data) == "ping" {
						return c.Send([]byte("pong"))
					}
					return c.Hub().GroupSend(c.Context(), "all", "note", 1)
				},
			},
		})
		a, b := hubtest.Dial(t, hub, "/"), hubtest.Dial(t, hub, "/")
		if err := hub.GroupSend(background, "all", "note", 1); !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
		if err := hub.GroupClose(background, "all", 4000, ""); !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
		// The sockets stay open, but for one whose callback returns the error.
		a.Send("send")
		a.ExpectClose(1013)
		b.Send("ping")
		b.Expect("pong")
		b.Close()
	}
}

func TestALayerBelongsToWhoeverMadeIt(t *testing.T) {
	layer := grouphub.NewMemoryLayer()
	one, two := grouphub.New(&grouphub.Options{Layer: layer, Consumer: noteConsumer}), newHub(t, &grouphub.Options{Layer: layer, Consumer: noteConsumer})
	a, b := hubtest.Dial(t, one, "/"), hubtest.Dial(t, two, "/")
	send(t, one, "all", "note", 1)
	a.ExpectEvent("note")
	b.ExpectEvent("note")
	if err := one.Shutdown(background); err != nil {
		t.Fatal(err)
	}
	a.ExpectClose(1001)
	send(t, two, "all", "note", 2)
	b.ExpectEvent("note")
	if err := layer.Publish(background, grouphub.Publication{Topic: "t"}); err != nil {
		t.Errorf("the layer is closed: %v", err)
	}
	// One that New has made is the hub's.
	own := grouphub.New(nil)
	if err := own.Shutdown(background); err != nil {
		t.Fatal(err)
	}
	if err := grouphub.LayerOf(own).Publish(background, grouphub.Publication{Topic: "t"}); !errors.Is(err, grouphub.ErrClosed) {
		t.Errorf("Publish on a hub's own layer after Shutdown: %v", err)
	}
}

func TestShutdownClosesAllWith1001AndWaitsForCallbacks(t *testing.T) {
	var disconnected atomic.Int32
	entered, proceed := make(chan struct{}), make(chan struct{})
	hub := grouphub.New(&grouphub.Options{Consumer: grouphub.Consumer{
		Connect: joinAll,
		Receive: func(c *grouphub.Conn, m grouphub.Message) error {
			close(entered)
			<-proceed
			return nil
		},
		Disconnect: func(ctx context.Context, c *grouphub.Conn, code int) {
			if code != 1001 {
				t.Errorf("disconnected with %d", code)
			}
			if err := c.Hub().GroupSend(ctx, "all", "left", nil); err != nil {
				t.Errorf("GroupSend in Disconnect during Shutdown: %v", err)
			}
			disconnected.Add(1)
		},
	}})
	a, b := hubtest.Dial(t, hub, "/"), hubtest.Dial(t, hub, "/")
	a.Send("x")
	<-entered
	done := make(chan error)
	go func() { done <- hub.Shutdown(background) }()
	a.ExpectClose(1001)
	b.ExpectClose(1001)
	select {
	case err := <-done:
		t.Fatalf("Shutdown returned %v before the callback", err)
	default:
	}
	close(proceed)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if n := disconnected.Load(); n != 2 {
		t.Errorf("%d of 2 disconnected", n)
	}
	if err := hub.GroupSend(background, "all", "note", nil); !errors.Is(err, grouphub.ErrClosed) {
		t.Errorf("GroupSend after Shutdown: %v", err)
	}
	if err := hub.Ping(background); !errors.Is(err, grouphub.ErrClosed) {
		t.Errorf("Ping after Shutdown: %v", err)
	}
	if err := hub.Shutdown(background); err != nil {
		t.Errorf("second Shutdown: %v", err)
	}
}

func TestShutdownDropsSocketsWhenItsContextEnds(t *testing.T) {
	entered, proceed := make(chan struct{}), make(chan struct{})
	hub := grouphub.New(&grouphub.Options{Consumer: grouphub.Consumer{
		Receive: func(c *grouphub.Conn, m grouphub.Message) error {
			close(entered)
			<-proceed
			return nil
		},
	}})
	s := serve(t, hub)
	c := s.dial("/")
	c.WriteMessage(websocket.TextMessage, []byte("x"))
	<-entered
	ctx, cancel := context.WithCancel(background)
	cancel()
	if err := hub.Shutdown(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	for {
		if _, _, err := c.ReadMessage(); err != nil {
			break
		}
	}
	close(proceed)
	// Now the callback returns, and another Shutdown can wait for it.
	if err := hub.Shutdown(background); err != nil {
		t.Errorf("second Shutdown: %v", err)
	}
}

func TestShutdownWhoseContextEndsLeavesOnlyCallbacks(t *testing.T) {
	entered, proceed := make(chan struct{}), make(chan struct{})
	hub := grouphub.New(&grouphub.Options{Compression: true, Consumer: grouphub.Consumer{
		Connect: joinAll,
		Receive: func(*grouphub.Conn, grouphub.Message) error {
			close(entered)
			<-proceed
			return nil
		},
		Events: grouphub.Events{"note": grouphub.Forward()},
	}})
	s := serve(t, hub)
	c := s.dial("/")
	for range 4 {
		s.dial("/")
	}
	send(t, hub, "all", "note", 1)
	c.WriteMessage(websocket.TextMessage, []byte("x"))
	<-entered
	if err := hub.Shutdown(canceled()); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	left := func() []string { // of the package's goroutines
		return slices.DeleteFunc(leak.Others(), func(stack string) bool {
			return strings.Contains(stack, "leak.Check") ||
				!strings.Contains(stack, "/grouphub.") && !strings.Contains(stack, "/grouphub/internal/")
		})
	}
	eventually(t, func() bool { return len(left()) == 1 }, "more than one goroutine is left, or none")
	if stack := left()[0]; !strings.Contains(stack, t.Name()) {
		t.Errorf("what is left is no callback:\n%s", stack)
	}
	close(proceed)
	if err := hub.Shutdown(background); err != nil {
		t.Errorf("second Shutdown: %v", err)
	}
}

func TestShutdownWaitsForAccept(t *testing.T) {
	entered, proceed := make(chan struct{}), make(chan struct{})
	hub := grouphub.New(&grouphub.Options{Consumer: grouphub.Consumer{
		Accept: func(r *http.Request) error {
			if r.URL.Path != "/first" {
				return errors.New("not the first")
			}
			close(entered)
			<-proceed
			return nil
		},
	}})
	s := newServer(t, hub)
	s.Start()
	closed := make(chan error)
	go func() {
		conn, _, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(s.URL, "http")+"/first", nil)
		if err == nil {
			_, _, err = conn.ReadMessage()
			conn.Close()
		}
		closed <- err
	}()
	<-entered
	down := make(chan error)
	go func() { down <- hub.Shutdown(background) }()
	eventually(t, func() bool { // it has begun
		status, _, _ := get(t, hub, upgradeHeader())
		return status == http.StatusServiceUnavailable
	}, "Shutdown does not refuse")
	select {
	case err := <-down:
		t.Fatalf("Shutdown returned %v while Accept runs", err)
	default:
	}
	close(proceed)
	if err := <-closed; !websocket.IsCloseError(err, 1001) {
		t.Errorf("the client got %v", err)
	}
	if err := <-down; err != nil {
		t.Error(err)
	}
}

func TestShutdownLeavesNoGoroutine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub := grouphub.New(&grouphub.Options{Consumer: noteConsumer, Compression: true})
		for range 5 {
			hubtest.Dial(t, hub, "/")
		}
		send(t, hub, "all", "note", 1)
		if err := hub.Shutdown(background); err != nil {
			t.Fatal(err)
		}
	}) // synctest fails if a goroutine of the bubble is left
}

func TestShutdownIsSpreadOverTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub := grouphub.New(nil)
		const n = 40
		var clients []*hubtest.Client
		for range n {
			clients = append(clients, hubtest.Dial(t, hub, "/"))
		}
		start := time.Now()
		if err := hub.Shutdown(background); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took < n*500*time.Microsecond/2 || took > time.Second {
			t.Errorf("closing %d took %v", n, took)
		}
		for _, c := range clients {
			c.ExpectClose(1001)
		}
	})
}

func TestStatsCount(t *testing.T) {
	hub := newHub(t, &grouphub.Options{Consumer: grouphub.Consumer{
		Connect: joinAll,
		Receive: func(c *grouphub.Conn, m grouphub.Message) error { return c.Send(m.Data) },
		Events:  grouphub.Events{"note": grouphub.Forward()},
	}})
	a, b := hubtest.Dial(t, hub, "/"), hubtest.Dial(t, hub, "/")
	a.Send("x")
	a.Expect("x")
	send(t, hub, "all", "note", 1)
	send(t, hub, "all", "unknown", 1)
	send(t, hub, "all", "note", 2)
	for _, c := range []*hubtest.Client{a, b} {
		c.ExpectEvent("note")
		c.ExpectEvent("note")
	}
	want := grouphub.Stats{Conns: 2, Groups: 1, Accepted: 2, Received: 1, Published: 3, Delivered: 5, Unhandled: 2, LayerUp: true}
	// A frame is counted just after it is pushed.
	eventually(t, func() bool { return hub.Stats() == want }, "Stats are %+v, want %+v", hub.Stats(), want)
}
