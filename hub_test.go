package grouphub_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/seed-29c60982/grouphub"
)

// TestMain fails the suite if a goroutine outlives it.
func TestMain(m *testing.M) {
	code := m.Run()
	http.DefaultClient.CloseIdleConnections()
	for deadline := time.Now().Add(10 * time.Second); code == 0; runtime.Gosched() {
		// The test runner itself leaves this one and the signal handler of -timeout.
		left := strings.Split(goroutineDump(), "\n\n")[1:]
		if len(left) == 0 {
			break
		}
		if time.Now().After(deadline) {
			fmt.Fprintf(os.Stderr, "%d goroutines outlive the tests:\n\n%s\n", len(left), strings.Join(left, "\n\n"))
			code = 1
		}
	}
	os.Exit(code)
}

func goroutineDump() string {
	buf := make([]byte, 4<<20)
	return string(buf[:runtime.Stack(buf, true)])
}

// A server is a hub behind a real HTTP server on loopback. What is tested over it goes
// through TCP sockets; hubtest's clients use pipes.
type server struct {
	*httptest.Server
	t *testing.T
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
	s := &server{httptest.NewServer(h), t}
	t.Cleanup(s.Close)
	return s
}

// dial connects, and returns when Connect has.
func (s *server) dial(path string) *websocket.Conn {
	s.t.Helper()
	conn, response, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(s.URL, "http")+path, nil)
	if err != nil {
		s.t.Fatalf("dial %s: %v (%v)", path, err, response)
	}
	s.t.Cleanup(func() { conn.Close() })
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

var background = context.Background()

func TestSmoke(t *testing.T) {
	joined := make(chan struct{}, 10)
	hub := newHub(t, nil)
	mux := http.NewServeMux()
	mux.Handle("GET /ws/{room}", hub.Handler(grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error {
			defer func() { joined <- struct{}{} }()
			return c.Join("room:" + c.PathValue("room"))
		},
		Receive: func(c *grouphub.Conn, m grouphub.Message) error {
			return c.Hub().GroupSend(c.Context(), "room:"+c.PathValue("room"), "chat", string(m.Data))
		},
		Events: grouphub.Events{"chat": grouphub.Forward()},
	}))
	s := serve(t, mux)
	a, b := s.dial("/ws/x"), s.dial("/ws/x")
	<-joined
	<-joined
	if err := hub.Ping(background); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		a.WriteMessage(websocket.TextMessage, []byte(fmt.Sprint("hi", i)))
		want := fmt.Sprintf(`{"type":"chat","group":"room:x","data":"hi%d"}`, i)
		wantNext(t, a, want)
		wantNext(t, b, want)
	}
	if err := hub.GroupClose(background, "room:x", 4000, "bye"); err != nil {
		t.Fatal(err)
	}
	wantClose(t, a, 4000)
	wantClose(t, b, 4000)
	if err := hub.GroupSend(background, "a\nb", "x", nil); !errors.Is(err, grouphub.ErrInvalidName) {
		t.Fatal(err)
	}
	t.Logf("%+v", hub.Stats())
}
