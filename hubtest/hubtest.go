// Package hubtest helps to test what is built on grouphub. [Dial] connects a client to
// any http.Handler that serves a hub, with the mux and the middleware around it, as
// Django Channels' WebsocketCommunicator does with an application:
//
//	func TestEcho(t *testing.T) {
//		alice := hubtest.Dial(t, newMux(), "/ws/chat/lobby")
//		alice.Send(chatMessage{Text: "hello"})
//		event := alice.ExpectEvent("chat.message")
//		…
//	}
//
// Handler and client talk HTTP and WebSocket over a net.Pipe. No port is opened, and
// all of it works inside a testing/synctest bubble, where timeouts cost no time, if
// the hub was made in that bubble too.
//
// A test that goes wrong ends with t.Fatal, which says what came instead. So these
// functions and methods belong in the test's own goroutine. Nothing waits for longer
// than five seconds, unless it is told to. When the test ends, what it left open is
// closed, before any cleanup that was registered earlier, such as the hub's Shutdown.
package hubtest

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/seed-29c60982/grouphub"
)

// timeout is how long any call waits for the server.
const timeout = 5 * time.Second

// A DialOption changes the request that [Dial] and [DialRefused] send.
type DialOption struct {
	header http.Header
	stream bool
	user   *grouphub.User
}

// WithHeader adds header to the request: cookies, an Origin, a Host, a
// Sec-WebSocket-Protocol.
func WithHeader(header http.Header) DialOption {
	return DialOption{header: header.Clone()}
}

// WithUser has the request, and those of what the client of an event stream sends, come from a
// user, as grouphub.Authenticate or grouphub.WithUser say it. An Authenticate in the handler
// still decides for itself.
func WithUser(u grouphub.User) DialOption { return DialOption{user: &u} }

// asUser returns the handler, with the user that the options name in the context of its requests.
func asUser(h http.Handler, opts []DialOption) http.Handler {
	var user *grouphub.User
	for _, o := range opts {
		user = cmp.Or(o.user, user)
	}
	if user == nil {
		return h
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(w, r.WithContext(grouphub.WithUser(r.Context(), *user)))
	})
}

// Dial connects to h at a path, which may have a query. It returns when h has returned: by
// then the consumer's Connect has run. The request's Host is example.com, as in
// httptest, and it has no Origin, because it does not come from a browser. The connection
// is closed when the test ends. If h does not upgrade the request, the test fails.
func Dial(t testing.TB, h http.Handler, path string, opts ...DialOption) *Client {
	t.Helper()
	conn, s := dial(t, h, path, opts)
	c := newClient(t, path, conn)
	t.Cleanup(c.Close)
	select {
	case <-s.returned:
	case <-time.After(timeout):
		t.Fatalf("hubtest: Dial %s: upgraded, but the handler has not returned for %v: does Connect block?", path, timeout)
	}
	return c
}

func dial(t testing.TB, h http.Handler, path string, opts []DialOption) (conn, *server) {
	t.Helper()
	h = asUser(h, opts)
	if slices.ContainsFunc(opts, func(o DialOption) bool { return o.stream }) {
		conn, answer, s := dialStream(t, h, path, merged(opts))
		if answer.StatusCode != http.StatusOK {
			body, _ := io.ReadAll(answer.Body)
			t.Fatalf("hubtest: Dial %s: refused with %s: %s", path, answer.Status, quote(bytes.TrimSpace(body)))
		}
		return conn, s
	}
	s := serve(t, h)
	dialer := websocket.Dialer{
		NetDialContext:   func(context.Context, string, string) (net.Conn, error) { return s.near, nil },
		HandshakeTimeout: timeout,
	}
	conn, answer, err := dialer.Dial("ws://"+target(t, path), merged(opts))
	if err != nil {
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			t.Fatalf("hubtest: Dial %s: no answer for %v: does Connect block?", path, timeout)
		case answer == nil:
			t.Fatalf("hubtest: Dial %s: %v", path, err)
		}
		body, _ := io.ReadAll(answer.Body)
		t.Fatalf("hubtest: Dial %s: refused with %s: %s", path, answer.Status, quote(bytes.TrimSpace(body)))
	}
	return conn, s
}

// DialRefused sends the same request as [Dial], to a handler that should refuse it, and
// returns the answer. The body has been read already and needs no Close. If the handler
// upgrades the connection, the test fails.
func DialRefused(t testing.TB, h http.Handler, path string, opts ...DialOption) *http.Response {
	t.Helper()
	s := serve(t, asUser(h, opts))
	r, err := http.NewRequest("GET", "http://"+target(t, path), nil)
	if err != nil {
		t.Fatalf("hubtest: DialRefused %s: %v", path, err)
	}
	r.Header = merged(opts)
	if host := r.Header.Get("Host"); host != "" {
		r.Host = host
	}
	r.Header.Set("Connection", "Upgrade")
	r.Header.Set("Upgrade", "websocket")
	r.Header.Set("Sec-WebSocket-Version", "13")
	r.Header.Set("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==") // RFC 6455's example; any will do
	// The request is written by hand, because gorilla's Dialer, which Dial uses, returns
	// only the start of a refusal's body.
	s.near.SetDeadline(time.Now().Add(timeout))
	if err := r.Write(s.near); err != nil {
		t.Fatalf("hubtest: DialRefused %s: %v", path, err)
	}
	answer, err := http.ReadResponse(bufio.NewReader(s.near), r)
	if err != nil {
		t.Fatalf("hubtest: DialRefused %s: %v", path, err)
	}
	if answer.StatusCode == http.StatusSwitchingProtocols {
		t.Fatalf("hubtest: DialRefused %s: the connection was upgraded, not refused", path)
	}
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatalf("hubtest: DialRefused %s: body of %s: %v", path, answer.Status, err)
	}
	answer.Body = io.NopCloser(bytes.NewReader(body))
	return answer
}

// target returns the URL of path without its scheme.
func target(t testing.TB, path string) string {
	t.Helper()
	if !strings.HasPrefix(path, "/") {
		t.Fatalf("hubtest: path %q does not begin with a slash", path)
	}
	return "example.com" + path
}

// merged returns the headers of all options together.
func merged(opts []DialOption) http.Header {
	all := http.Header{}
	for _, o := range opts {
		for name, values := range o.header {
			for _, value := range values {
				all.Add(name, value)
			}
		}
	}
	return all
}

// A server runs a handler for the one request of one connection.
type server struct {
	t        testing.TB
	http     *http.Server
	near     net.Conn      // the client's end
	returned chan struct{} // closed when the handler has returned, or will never be called
	served   chan struct{} // closed when Serve has returned
}

// serve starts an HTTP server with h that has one connection, and ends it with the test.
func serve(t testing.TB, h http.Handler) *server {
	near, far := net.Pipe()
	s := &server{t: t, near: near, returned: make(chan struct{}), served: make(chan struct{})}
	returned := sync.OnceFunc(func() { close(s.returned) })
	s.http = &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			defer returned()
			h.ServeHTTP(w, r)
		}),
		// A request that net/http itself refuses never reaches the handler.
		ConnState: func(_ net.Conn, state http.ConnState) {
			if state == http.StateClosed {
				returned()
			}
		},
		ErrorLog: log.New(t.Output(), "", 0),
	}
	l := &listener{conns: make(chan net.Conn, 1), closed: make(chan struct{})}
	l.conns <- far
	go func() {
		defer close(s.served)
		s.http.Serve(l)
		if len(l.conns) > 0 { // it was closed before it accepted the connection
			returned()
		}
	}()
	t.Cleanup(s.close)
	return s
}

// close ends the connection, if it is still open, and waits for the server's goroutines.
func (s *server) close() {
	s.t.Helper()
	s.near.Close()
	s.http.Close()
	<-s.served
	select {
	case <-s.returned:
	case <-time.After(timeout):
		s.t.Errorf("hubtest: the handler still runs %v after its connection was closed", timeout)
	}
}

// A listener accepts one connection, and then waits until it is closed.
type listener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	default:
	}
	<-l.closed
	return nil, net.ErrClosed
}

func (l *listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *listener) Addr() net.Addr { return l }

// Network and String make the listener its own address.
func (l *listener) Network() string { return "pipe" }
func (l *listener) String() string  { return "pipe" }
