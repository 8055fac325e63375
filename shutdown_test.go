package grouphub_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
	"github.com/seed-29c60982/grouphub/internal/leak"
)

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

func TestSecondShutdownCanForce(t *testing.T) {
	entered := make(chan struct{})
	hub := grouphub.New(&grouphub.Options{Consumer: grouphub.Consumer{
		Receive: func(c *grouphub.Conn, m grouphub.Message) error {
			close(entered)
			<-c.Context().Done()
			return nil
		},
	}, CloseTimeout: time.Minute})
	c := serve(t, hub).dial("/")
	c.WriteMessage(websocket.TextMessage, []byte("x"))
	<-entered
	var first sync.WaitGroup
	start := time.Now()
	first.Go(func() { hub.Shutdown(background) })
	untilRefusing(t, hub)
	ctx, cancel := context.WithTimeout(background, 50*time.Millisecond)
	defer cancel()
	hub.Shutdown(ctx)
	first.Wait()
	if d := time.Since(start); d > 30*time.Second {
		t.Errorf("took %v: the second call's end dropped no socket", d)
	}
}

// A socket lingers behind its close frame, for the client's answer.
func TestShutdownDropsSocketsThatLinger(t *testing.T) {
	gone := make(chan struct{})
	hub := grouphub.New(&grouphub.Options{CloseTimeout: time.Minute, Consumer: grouphub.Consumer{
		Disconnect: func(context.Context, *grouphub.Conn, int) { close(gone) },
	}})
	c := serve(t, hub).dial("/")
	c.NetConn().Write([]byte{0x83, 0x80, 0, 0, 0, 0}) // opcode 3: gorilla closes with 1002
	<-gone
	ctx, cancel := context.WithTimeout(background, 100*time.Millisecond)
	defer cancel()
	start := time.Now()
	err := hub.Shutdown(ctx)
	if took := time.Since(start); took > 30*time.Second {
		t.Errorf("Shutdown with 100 ms took %v: %v", took, err)
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
	s := serve(t, hub)
	closed := make(chan error)
	go func() {
		conn, _, err := websocket.DefaultDialer.Dial(s.webSocket()+"/first", nil)
		if err == nil {
			_, _, err = conn.ReadMessage()
			conn.Close()
		}
		closed <- err
	}()
	<-entered
	down := make(chan error)
	go func() { down <- hub.Shutdown(background) }()
	untilRefusing(t, hub)
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

func TestAnAcceptThatOutlivesShutdownGets503(t *testing.T) {
	entered, proceed := make(chan struct{}), make(chan struct{})
	hub := grouphub.New(&grouphub.Options{Consumer: grouphub.Consumer{
		Accept:  func(*http.Request) error { close(entered); <-proceed; return nil },
		Connect: func(*grouphub.Conn) error { t.Error("Connect was called after Shutdown"); return nil },
	}})
	answered := make(chan string)
	go func() {
		status, body, _ := get(t, hub, upgradeHeader())
		answered <- fmt.Sprint(status, " ", body)
	}()
	<-entered
	if err := hub.Shutdown(canceled()); !errors.Is(err, context.Canceled) {
		t.Errorf("Shutdown: %v", err)
	}
	close(proceed)
	if got := <-answered; got != "503 the server is shutting down\n" {
		t.Errorf("got %q", got)
	}
	if s := hub.Stats(); s.Accepted != 0 || s.Rejected != 1 {
		t.Errorf("%+v", s)
	}
	if err := hub.Shutdown(background); err != nil { // it has no seat any more
		t.Error(err)
	}
}

func TestGoexitInAcceptDoesNotWedgeShutdown(t *testing.T) {
	hub := grouphub.New(&grouphub.Options{Consumer: grouphub.Consumer{
		Accept: func(*http.Request) error { runtime.Goexit(); return nil },
	}})
	done := make(chan struct{})
	go func() {
		defer close(done)
		get(t, hub, upgradeHeader())
	}()
	<-done
	ctx, cancel := context.WithTimeout(background, 20*time.Second)
	defer cancel()
	if err := hub.Shutdown(ctx); err != nil {
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
