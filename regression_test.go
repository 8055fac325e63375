package grouphub_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/gorilla/websocket"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
)

// one client sends a binary frame that is JSON but not UTF-8.
func TestRawMessageThatIsNotUTF8ReachesNobodyAsText(t *testing.T) {
	bad := json.RawMessage("\"\xff\"")
	hub, conns := connections(t, grouphub.Consumer{
		Connect: joinAll,
		Receive: func(c *grouphub.Conn, m grouphub.Message) error {
			return c.Hub().GroupSend(c.Context(), "all", "note", json.RawMessage(m.Data))
		},
		Events: grouphub.Events{"note": grouphub.Forward()},
	})
	c := hubtest.Dial(t, hub, "/")
	conn := <-conns
	if err := hub.GroupSend(background, "all", "note", bad); err == nil {
		t.Errorf("GroupSend took invalid UTF-8")
		if m := c.Next(); !utf8.Valid(m.Data) {
			t.Errorf("text frame of %q: every browser in the group closes with 1007", m.Data)
		}
	}
	if err := conn.SendJSON(bad); err == nil {
		t.Errorf("SendJSON took invalid UTF-8")
	}
}

// a channel name made up by a stranger.
func TestSendToAChannelCannotReachAGroup(t *testing.T) {
	hub := hubOf(t, noteConsumer)
	c := hubtest.Dial(t, hub, "/")
	hub.Send(background, "g:all!x", "note", "spoofed")
	send(t, hub, "all", "note", "marker")
	var got string
	c.ExpectEvent("note").Decode(&got)
	if got != "marker" {
		t.Errorf("the group got %q", got)
	}
	hub.GroupAdd(background, "x", "g:all!y")
	if n := hub.Stats().Dropped; n != 0 {
		t.Errorf("GroupAdd went to the group: %d payloads refused", n)
	}
}

// a compressed message that does not inflate.
func TestMessageThatDoesNotInflateClosesItsSender(t *testing.T) {
	for _, payload := range []string{"\xff\xff\xff\xff", "\x00\xff\x00\x00\xff"} {
		hub := newHub(t, &grouphub.Options{Compression: true, Logger: slog.New(slog.DiscardHandler), Consumer: grouphub.Consumer{
			Receive: func(c *grouphub.Conn, m grouphub.Message) error { return c.Send(m.Data) },
		}})
		c := serve(t, hub).dialWith(&websocket.Dialer{EnableCompression: true}, "/")
		frame := append([]byte{0x80 | 0x40 | 1, 0x80 | byte(len(payload)), 0, 0, 0, 0}, payload...)
		c.NetConn().Write(frame)
		c.WriteMessage(websocket.TextMessage, []byte("next"))
		c.SetReadDeadline(time.Now().Add(10 * time.Second))
		_, data, err := c.ReadMessage()
		if !websocket.IsCloseError(err, 1007) {
			t.Errorf("%q: got %q, %v: the message was swallowed", payload, data, err)
		}
	}
}

// a socket that lingers.
func TestShutdownDropsSocketsThatLinger(t *testing.T) {
	gone := make(chan struct{})
	hub := grouphub.New(&grouphub.Options{CloseTimeout: 8 * time.Second, Consumer: grouphub.Consumer{
		Disconnect: func(context.Context, *grouphub.Conn, int) { close(gone) },
	}})
	c := serve(t, hub).dial("/")
	c.NetConn().Write([]byte{0x83, 0x80, 0, 0, 0, 0}) // opcode 3: gorilla closes with 1002
	<-gone
	ctx, cancel := context.WithTimeout(background, 100*time.Millisecond)
	defer cancel()
	start := time.Now()
	err := hub.Shutdown(ctx)
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("Shutdown with 100 ms took %v: %v", took, err)
	}
}

// MaxPending of 1 MiB, an event of 1 MiB that is permitted.
func TestLargeEventBehindASmallOneIsHandled(t *testing.T) {
	proceed, got := make(chan struct{}), make(chan int, 10)
	hub := hubOf(t, grouphub.Consumer{Connect: joinAll,
		Events: grouphub.Events{"note": grouphub.Handle(func(c *grouphub.Conn, e grouphub.Event) error {
			<-proceed
			got <- len(e.Data)
			return nil
		})}})
	hubtest.Dial(t, hub, "/")
	for range 6 {
		send(t, hub, "all", "note", 1)
	}
	send(t, hub, "all", "note", strings.Repeat("x", 1<<20-len(`{"type":"note","group":"all","data":""}`)))
	close(proceed)
	for i := range 7 {
		select {
		case <-got:
		case <-time.After(5 * time.Second):
			t.Fatalf("event %d is not handled: %+v", i, hub.Stats())
		}
	}
}

// limits that mean "none".
func TestHugeMaxPendingDoesNotKillAtTheFirstPing(t *testing.T) {
	hub := newHub(t, &grouphub.Options{MaxPending: math.MaxInt, Consumer: grouphub.Consumer{
		Receive: func(c *grouphub.Conn, m grouphub.Message) error { return c.Send(m.Data) },
	}})
	c := serve(t, hub).dial("/")
	c.WriteControl(websocket.PingMessage, nil, time.Now().Add(time.Second))
	c.WriteMessage(websocket.TextMessage, []byte("x"))
	c.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, _, err := c.ReadMessage(); err != nil {
		t.Errorf("after a ping: %v", err)
	}
}

func TestHugeMaxMessageSizeWithCompression(t *testing.T) {
	hub := newHub(t, &grouphub.Options{MaxMessageSize: math.MaxInt64, Compression: true, Consumer: grouphub.Consumer{
		Receive: func(c *grouphub.Conn, m grouphub.Message) error { return c.Send(m.Data) },
	}})
	c := serve(t, hub).dialWith(&websocket.Dialer{EnableCompression: true}, "/")
	c.WriteMessage(websocket.TextMessage, []byte("hello"))
	wantNext(t, c, "hello")
}

// over HTTP/2, which TLS servers speak by default.
func TestPlainRequestOverHTTP2Gets426(t *testing.T) {
	hub := hubOf(t, grouphub.Consumer{})
	s := httptest.NewUnstartedServer(hub)
	s.EnableHTTP2 = true
	s.StartTLS()
	defer s.Close()
	response, err := s.Client().Get(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.ProtoMajor != 2 || response.StatusCode != 426 || response.Header.Get("Upgrade") != "" {
		t.Errorf("%s %d, Upgrade: %q, which RFC 9113 8.2.2 calls malformed", response.Proto, response.StatusCode, response.Header.Get("Upgrade"))
	}
	if out, err := exec.Command("curl", "-sSk", "--http2", "-m", "5", s.URL).CombinedOutput(); err != nil {
		t.Errorf("curl: %v: %s", err, out)
	}
}

// EOF is no close frame.
func TestContextEndsAtOnceWhenTheSocketEnds(t *testing.T) {
	entered, took := make(chan struct{}), make(chan time.Duration, 1)
	var closed time.Time
	hub := hubOf(t, grouphub.Consumer{Receive: func(c *grouphub.Conn, m grouphub.Message) error {
		close(entered)
		<-c.Context().Done()
		took <- time.Since(closed)
		return nil
	}})
	c := serve(t, hub).dial("/")
	closed = time.Now()
	c.WriteMessage(websocket.TextMessage, []byte("x"))
	<-entered
	c.Close()
	if d := <-took; d > 500*time.Millisecond {
		t.Errorf("cancelled after %v", d)
	}
}

func TestReceiveAfterShutdownIsErrClosed(t *testing.T) {
	layer := grouphub.NewMemoryLayer()
	defer layer.Close()
	hub := grouphub.New(&grouphub.Options{Layer: layer})
	if err := hub.Send(background, "queue", "job", 1); err != nil {
		t.Fatal(err)
	}
	hub.Shutdown(background)
	if e, err := hub.Receive(background, "queue"); !errors.Is(err, grouphub.ErrClosed) {
		t.Errorf("got %+v, %v: a hub that was shut down took a message", e, err)
	}
}

func TestDirectSendToASlowConnectionIsCountedOnce(t *testing.T) {
	hub, conns := connections(t, grouphub.Consumer{Events: grouphub.Events{"note": grouphub.Forward()}})
	s := serve(t, hub)
	s.dial("/")
	c := <-conns
	sent := 0
	for ; hub.Stats().SlowClosed == 0; sent++ {
		hub.Send(background, c.Channel(), "note", strings.Repeat("x", 60<<10))
	}
	before := hub.Stats().Dropped
	hub.Send(background, c.Channel(), "note", 1)
	if n := hub.Stats().Dropped - before; n != 1 {
		t.Errorf("one event counted %d times", n)
	}
}

func TestGoexitInAcceptDoesNotWedgeShutdown(t *testing.T) {
	hub := grouphub.New(&grouphub.Options{Consumer: grouphub.Consumer{
		Accept: func(*http.Request) error { runtime.Goexit(); return nil },
	}})
	done := make(chan struct{})
	go func() {
		defer close(done)
		hub.ServeHTTP(httptest.NewRecorder(), &http.Request{Method: "GET", Header: upgradeHeader(), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1})
	}()
	<-done
	ctx, cancel := context.WithTimeout(background, time.Second)
	defer cancel()
	if err := hub.Shutdown(ctx); err != nil {
		t.Error(err)
	}
}

// a log handler is a callback.
type handlerFunc func(slog.Record)

func (handlerFunc) Enabled(context.Context, slog.Level) bool { return true }
func (f handlerFunc) Handle(_ context.Context, r slog.Record) error {
	f(r)
	return nil
}
func (f handlerFunc) WithAttrs([]slog.Attr) slog.Handler { return f }
func (f handlerFunc) WithGroup(string) slog.Handler      { return f }

func TestLogHandlerMayUseTheHub(t *testing.T) {
	var conn *grouphub.Conn
	logged := make(chan error, 1)
	hub := grouphub.New(&grouphub.Options{
		Logger: slog.New(handlerFunc(func(r slog.Record) {
			if strings.Contains(r.Message, "without a handler") {
				logged <- conn.Leave("all")
			}
		})),
		Consumer: grouphub.Consumer{Connect: func(c *grouphub.Conn) error { conn = c; return c.Join("all") }},
	})
	hubtest.Dial(t, hub, "/")
	send(t, hub, "all", "unknown", 1)
	select {
	case <-logged:
		hub.Shutdown(background)
	case <-time.After(3 * time.Second):
		t.Fatal("deadlock: the log handler runs under the shard's lock")
	}
}

func TestAHeaderThatNamesCompressionDoesNotTurnItOn(t *testing.T) {
	hub := hubOf(t, grouphub.Consumer{Receive: func(c *grouphub.Conn, m grouphub.Message) error { return c.Send(m.Data) }})
	s := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Note", "permessage-deflate")
		hub.ServeHTTP(w, r)
	}))
	c := s.dial("/")
	c.WriteMessage(websocket.TextMessage, []byte(strings.Repeat("x", 1000)))
	wantNext(t, c, strings.Repeat("x", 1000))
}

func TestSecondShutdownCanForce(t *testing.T) {
	entered := make(chan struct{})
	hub := grouphub.New(&grouphub.Options{Consumer: grouphub.Consumer{
		Receive: func(c *grouphub.Conn, m grouphub.Message) error {
			close(entered)
			<-c.Context().Done()
			return nil
		},
	}, CloseTimeout: 8 * time.Second})
	c := serve(t, hub).dial("/")
	c.WriteMessage(websocket.TextMessage, []byte("x"))
	<-entered
	var first sync.WaitGroup
	start := time.Now()
	first.Go(func() { hub.Shutdown(background) })
	for {
		_, _, err := get3(t, hub)
		if err {
			break
		}
	}
	ctx, cancel := context.WithTimeout(background, 50*time.Millisecond)
	defer cancel()
	hub.Shutdown(ctx)
	first.Wait()
	if d := time.Since(start); d > 4*time.Second {
		t.Errorf("took %v: the second call's end dropped no socket", d)
	}
}

func get3(t *testing.T, h http.Handler) (int, string, bool) {
	code, body, _ := get(t, h, upgradeHeader())
	return code, body, code == 503 && strings.Contains(body, "shutting down")
}

func TestBadCloseFromTheLayerIsRefused(t *testing.T) {
	layer := grouphub.NewMemoryLayer()
	defer layer.Close()
	hub := newHub(t, &grouphub.Options{Layer: layer, Consumer: noteConsumer, Logger: slog.New(slog.DiscardHandler)})
	c := serve(t, hub).dial("/")
	// version 1, kind close, no name, no channel, no exceptions, code 1005.
	layer.Publish(background, grouphub.Publication{Topic: "g:all", Payload: []byte{1, 2, 0, 0, 0, 0xed, 0x07}})
	send(t, hub, "all", "note", 1)
	wantNext(t, c, `{"type":"note","group":"all","data":1}`)
}

// HTTP/1.0 must not be upgraded (RFC 9110, 7.8).
func TestHTTP10IsNotUpgraded(t *testing.T) {
	s := serve(t, hubOf(t, grouphub.Consumer{}))
	c := s.dial("/")
	c.Close()
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET / HTTP/1.0\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	b := make([]byte, 12)
	conn.Read(b)
	if !strings.Contains(string(b), "426") {
		t.Errorf("got %q", b)
	}
}
