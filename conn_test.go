package grouphub_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
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
)

// hubOf returns a hub that serves a consumer.
func hubOf(t testing.TB, c grouphub.Consumer) *grouphub.Hub {
	t.Helper()
	return newHub(t, &grouphub.Options{Consumer: c, Logger: slog.New(slog.DiscardHandler)})
}

func TestConnectIsPartOfTheRequest(t *testing.T) {
	type key struct{}
	var during atomic.Bool // the request is being served
	received := make(chan string, 1)
	hub := hubOf(t, grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error {
			if !during.Load() {
				t.Error("Connect runs after the handler has returned")
			}
			c.Set("seen", "in Connect")
			return nil
		},
		Receive: func(c *grouphub.Conn, m grouphub.Message) error {
			seen, _ := c.Get("seen")
			received <- fmt.Sprint(c.PathValue("room"), c.Request().URL.RawQuery, c.Request().Header.Get("X-Test"),
				c.Context().Value(key{}), c.Request().Context().Value(key{}), seen)
			return nil
		},
	})
	mux := http.NewServeMux()
	mux.Handle("GET /ws/{room}", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		during.Store(true)
		defer during.Store(false)
		hub.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), key{}, "value")))
	}))
	c := hubtest.Dial(t, mux, "/ws/x?a=b", hubtest.WithHeader(http.Header{"X-Test": {"header"}}))
	eventually(t, func() bool { return !during.Load() }, "the handler does not return")
	c.Send("after")
	if got, want := <-received, "xa=bheadervaluevaluein Connect"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestCallbacksRunOneAtATime(t *testing.T) {
	var running, calls atomic.Int32
	var over atomic.Bool
	callback := func() {
		if running.Add(1) != 1 {
			t.Error("two callbacks of one connection at the same time")
		}
		if over.Load() {
			t.Error("a callback runs after Disconnect")
		}
		runtime.Gosched()
		calls.Add(1)
		running.Add(-1)
	}
	entered, disconnected := make(chan struct{}), make(chan struct{})
	layer := &faultyLayer{MemoryLayer: grouphub.NewMemoryLayer()}
	hub := newHub(t, &grouphub.Options{Layer: layer, Consumer: grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error { callback(); return c.Join("all") },
		Receive: func(c *grouphub.Conn, m grouphub.Message) error {
			if string(m.Data) == "block" {
				running.Add(1)
				close(entered)
				<-c.Context().Done() // and soon afterwards Disconnect is queued
				runtime.Gosched()
				running.Add(-1)
			}
			callback()
			return nil
		},
		Resync: func(*grouphub.Conn, []string) { callback() },
		Events: grouphub.Events{"note": grouphub.Handle(func(c *grouphub.Conn, e grouphub.Event) error {
			callback()
			return nil
		})},
		Disconnect: func(context.Context, *grouphub.Conn, int) { callback(); over.Store(true); close(disconnected) },
	}})
	c := serve(t, hub).dial("/")
	var senders sync.WaitGroup
	flood := func() {
		for range 3 {
			senders.Go(func() {
				for range 100 {
					send(t, hub, "all", "note", 1)
				}
			})
		}
		senders.Go(func() {
			for range 100 {
				layer.receiver.Lost([]string{"g:all"})
			}
		})
	}
	flood()
	for range 100 {
		c.WriteMessage(websocket.TextMessage, []byte("x"))
	}
	senders.Wait()
	eventually(t, func() bool { return calls.Load() == 501 }, "not all callbacks ran")
	// The end comes while others wait for their turn.
	c.WriteMessage(websocket.TextMessage, []byte("block"))
	<-entered
	flood()
	senders.Wait()
	c.NetConn().Close()
	<-disconnected
}

// meeting returns a function that waits until two are in it at the same time.
func meeting(t *testing.T, what string) func() {
	met := make(chan struct{})
	return func() {
		select {
		case met <- struct{}{}:
		case <-met:
		case <-time.After(10 * time.Second):
			t.Errorf("two calls of %s do not run at the same time", what)
		}
	}
}

func TestAcceptRunsConcurrently(t *testing.T) {
	meet := meeting(t, "Accept")
	s := serve(t, hubOf(t, grouphub.Consumer{Accept: func(*http.Request) error { meet(); return nil }}))
	var dials sync.WaitGroup
	for range 2 {
		dials.Go(func() {
			conn, _, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(s.URL, "http"), nil)
			if err != nil {
				t.Error(err)
				return
			}
			conn.Close()
		})
	}
	dials.Wait()
}

func TestRenderRunsConcurrentlyForDifferentEvents(t *testing.T) {
	meet := meeting(t, "Render")
	hub := hubOf(t, grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error { return errors.Join(c.Join("a"), c.Join("b")) },
		Events:  grouphub.Events{"note": grouphub.Render(func(grouphub.Event) ([]byte, error) { meet(); return []byte("met"), nil })},
	})
	c := hubtest.Dial(t, hub, "/")
	send(t, hub, "a", "note", 1)
	send(t, hub, "b", "note", 1)
	c.Expect("met")
	c.Expect("met")
}

func TestForwardDoesNotWaitForHandle(t *testing.T) {
	entered, proceed := make(chan struct{}, 1), make(chan struct{})
	hub := hubOf(t, grouphub.Consumer{Connect: joinAll, Events: grouphub.Events{
		"note": grouphub.Forward(),
		"work": grouphub.Handle(func(c *grouphub.Conn, e grouphub.Event) error {
			entered <- struct{}{}
			<-proceed
			return c.Send([]byte("worked"))
		}),
	}})
	c := hubtest.Dial(t, hub, "/")
	send(t, hub, "all", "work", nil)
	<-entered
	for i := range 100 {
		send(t, hub, "all", "note", i)
	}
	for i := range 100 {
		c.Expect(fmt.Sprintf(`{"type":"note","group":"all","data":%d}`, i))
	}
	close(proceed)
	c.Expect("worked")
}

func TestHandleDoesNotWaitForForward(t *testing.T) {
	// More than the kernel takes, so that frames wait until the client reads.
	const events, size = 12, 768 << 10
	handled := make(chan struct{})
	hub := newHub(t, &grouphub.Options{MaxPending: 2 * events * size, Consumer: grouphub.Consumer{Connect: joinAll, Events: grouphub.Events{
		"note": grouphub.Forward(),
		"work": grouphub.Handle(func(*grouphub.Conn, grouphub.Event) error { close(handled); return nil }),
	}}})
	c := serve(t, hub).dial("/")
	text := strings.Repeat("x", size)
	for range events {
		send(t, hub, "all", "note", text)
	}
	send(t, hub, "all", "work", nil)
	<-handled
	for range events {
		if got := next(t, c); len(got) < size {
			t.Fatalf("got %.100q", got)
		}
	}
}

func TestBlockingCallbackHoldsUpOnlyItsConnection(t *testing.T) {
	entered, proceed := make(chan struct{}), make(chan struct{})
	hub := hubOf(t, grouphub.Consumer{
		Connect: joinAll,
		Receive: func(c *grouphub.Conn, m grouphub.Message) error {
			close(entered)
			<-proceed
			return nil
		},
		Events: grouphub.Events{"note": grouphub.Forward()},
	})
	a, b := hubtest.Dial(t, hub, "/"), hubtest.Dial(t, hub, "/")
	a.Send("block")
	<-entered
	send(t, hub, "all", "note", 1)
	b.ExpectEvent("note")
	a.ExpectEvent("note") // Forward does not wait for callbacks either
	close(proceed)
}

func TestContextIsCancelledWhileACallbackBlocks(t *testing.T) {
	entered, cancelled := make(chan struct{}), make(chan struct{})
	hub := hubOf(t, grouphub.Consumer{
		Receive: func(c *grouphub.Conn, m grouphub.Message) error {
			close(entered)
			<-c.Context().Done()
			close(cancelled)
			return nil
		},
	})
	s := serve(t, hub)
	c := s.dial("/")
	c.WriteMessage(websocket.TextMessage, []byte("x"))
	<-entered
	start := time.Now()
	c.Close() // the socket, without a close frame
	<-cancelled
	if took := time.Since(start); took > time.Second { // which is for those who close properly
		t.Errorf("after %v", took)
	}
}

func TestMessagesBeforeTheClientsCloseAreHandled(t *testing.T) {
	hub := hubOf(t, grouphub.Consumer{
		Connect: joinAll,
		Receive: func(c *grouphub.Conn, m grouphub.Message) error {
			return c.Hub().GroupSend(c.Context(), "all", "note", string(m.Data))
		},
		Events: grouphub.Events{"note": grouphub.Forward()},
	})
	witness := hubtest.Dial(t, hub, "/")
	for range 50 {
		c := hubtest.Dial(t, hub, "/")
		for i := range 3 {
			c.Send(fmt.Sprint(i))
		}
		c.Close()
		for i := range 3 {
			witness.Expect(fmt.Sprintf(`{"type":"note","group":"all","data":"%d"}`, i))
		}
	}
}

func TestCallbackMayCallAnythingOnHubAndConn(t *testing.T) {
	for _, where := range []string{"connect", "receive", "handle", "resync", "render", "disconnect"} {
		t.Run(where, func(t *testing.T) { testCallbackMayCallAnything(t, where) })
	}
}

func testCallbackMayCallAnything(t *testing.T, where string) {
	var hub *grouphub.Hub
	var conn *grouphub.Conn
	down := make(chan error, 1)
	check := func(calls map[string]error, want error) {
		for name, err := range calls {
			if !errors.Is(err, want) {
				t.Errorf("%s: %v, want %v", name, err, want)
			}
		}
	}
	calls := func(at string, ctx context.Context) {
		if at != where {
			return
		}
		if s := hub.Stats(); s.Accepted != 1 {
			t.Errorf("%+v", s)
		}
		// What only a connection that lives can do.
		var want error
		if at == "disconnect" {
			want = grouphub.ErrClosed
		}
		check(map[string]error{
			"GroupAdd": hub.GroupAdd(ctx, "added", conn.Channel()),
			"Send":     hub.Send(ctx, conn.Channel(), "note", 1),
		}, want)
		check(map[string]error{
			"GroupDiscard":    hub.GroupDiscard(ctx, "added", conn.Channel()),
			"GroupSend":       hub.GroupSend(ctx, "all", "note", 1),
			"Members":         second(hub.Members(ctx, "all")),
			"Ping":            hub.Ping(ctx),
			"Send to a queue": hub.Send(ctx, "queue", "job", 1),
			"Receive":         second(hub.Receive(ctx, "queue")),
		}, nil)
		if at != "render" { // that is called for no connection
			conn.Set("key", "value")
			if value, ok := conn.Get("key"); !ok || value != "value" || conn.Hub() != hub || conn.Subprotocol() != "" ||
				conn.PathValue("none") != "" || conn.User().ID != "" || !slices.Contains(conn.Groups(), "all") ||
				conn.Request().Context() != conn.Context() {
				t.Errorf("value %v, groups %q", value, conn.Groups())
			}
			check(map[string]error{
				"Join":       conn.Join("more"),
				"Conn.Send":  conn.Send([]byte("x")),
				"SendBinary": conn.SendBinary([]byte("x")),
				"SendJSON":   conn.SendJSON("x"),
			}, want)
			check(map[string]error{"Leave": conn.Leave("more")}, nil)
			check(map[string]error{"Close": conn.Close(4000, "enough")}, want)
		}
		check(map[string]error{"GroupClose": hub.GroupClose(ctx, "all", 4000, "enough")}, nil)
		go func() { down <- hub.Shutdown(background) }()
	}
	layer := &faultyLayer{MemoryLayer: grouphub.NewMemoryLayer()}
	hub = newHub(t, &grouphub.Options{
		Layer:  layer,
		Policy: func(string) grouphub.GroupPolicy { return grouphub.GroupPolicy{Presence: true} },
		Consumer: grouphub.Consumer{
			Connect: func(c *grouphub.Conn) error {
				conn = c
				err := c.Join("all")
				calls("connect", background)
				return err
			},
			Receive:    func(*grouphub.Conn, grouphub.Message) error { calls("receive", background); return nil },
			Resync:     func(*grouphub.Conn, []string) { calls("resync", background) },
			Disconnect: func(ctx context.Context, _ *grouphub.Conn, _ int) { calls("disconnect", ctx) },
			Events: grouphub.Events{
				"note":   grouphub.Forward(),
				"handle": grouphub.Handle(func(*grouphub.Conn, grouphub.Event) error { calls("handle", background); return nil }),
				"render": grouphub.Render(func(grouphub.Event) ([]byte, error) { calls("render", background); return nil, nil }),
			},
		}})
	client := serve(t, hub).dial("/")
	switch where {
	case "receive":
		client.WriteMessage(websocket.TextMessage, []byte("x"))
	case "handle", "render":
		send(t, hub, "all", where, nil)
	case "resync":
		layer.receiver.Lost([]string{"g:all"})
	case "disconnect":
		client.Close()
	}
	if where != "disconnect" {
		client.SetReadDeadline(time.Now().Add(10 * time.Second))
		for {
			if _, _, err := client.ReadMessage(); err != nil {
				// In Render Shutdown may be faster than GroupClose, which waits for it.
				if !websocket.IsCloseError(err, 4000) && (where != "render" || !websocket.IsCloseError(err, 1001)) {
					t.Errorf("read: %v", err)
				}
				break
			}
		}
	}
	if err := <-down; err != nil {
		t.Error(err)
	}
}

func canceled() context.Context {
	ctx, cancel := context.WithCancel(background)
	cancel()
	return ctx
}

func TestDisconnectCanStillAct(t *testing.T) {
	type key struct{}
	checked := make(chan struct{})
	hub := hubOf(t, grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error { return errors.Join(c.Join("all"), c.Join("a")) },
		Disconnect: func(ctx context.Context, c *grouphub.Conn, code int) {
			defer close(checked)
			if got := c.Groups(); !slices.Equal(got, []string{"a", "all"}) {
				t.Errorf("Groups are %q", got)
			}
			if c.Context().Err() == nil || ctx.Err() != nil || ctx.Value(key{}) != "value" {
				t.Errorf("contexts: %v, %v, %v", c.Context().Err(), ctx.Err(), ctx.Value(key{}))
			}
			if deadline, ok := ctx.Deadline(); !ok || time.Until(deadline) > 5*time.Second {
				t.Errorf("ends at %v", deadline)
			}
			if err := c.Join("b"); !errors.Is(err, grouphub.ErrClosed) {
				t.Errorf("Join: %v", err)
			}
			if err := c.Hub().GroupSend(ctx, "all", "left", nil); err != nil {
				t.Errorf("GroupSend: %v", err)
			}
			if n := c.Hub().Stats().Groups; n != 1 { // "all", of the witness
				t.Errorf("%d groups", n)
			}
		},
	})
	witness := hubtest.Dial(t, hub.Handler(grouphub.Consumer{
		Connect: joinAll, Events: grouphub.Events{"left": grouphub.Forward()}}), "/")
	c := hubtest.Dial(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hub.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), key{}, "value")))
	}), "/")
	c.Close()
	<-checked
	witness.Expect(`{"type":"left","group":"all"}`)
}

func TestDisconnectComesAfterPresenceIsLeft(t *testing.T) {
	listed := make(chan []grouphub.Member, 2)
	hub := newHub(t, &grouphub.Options{
		Policy: func(string) grouphub.GroupPolicy { return grouphub.GroupPolicy{Presence: true} },
		Consumer: grouphub.Consumer{
			Connect: joinAll,
			Disconnect: func(ctx context.Context, c *grouphub.Conn, _ int) {
				members, err := c.Hub().Members(ctx, "all")
				if err != nil {
					t.Error(err)
				}
				listed <- members
			},
		}})
	first, second := hubtest.Dial(t, hub, "/"), hubtest.Dial(t, hub, "/")
	for left, c := range []*hubtest.Client{first, second} {
		c.Close()
		if members := <-listed; len(members) != 1-left {
			t.Errorf("%d has left, members are %+v", left+1, members)
		}
	}
}

func TestDisconnectsContextEndsAfterFiveSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		took := make(chan time.Duration, 1)
		hub := grouphub.New(&grouphub.Options{Consumer: grouphub.Consumer{
			Disconnect: func(ctx context.Context, _ *grouphub.Conn, _ int) {
				start := time.Now()
				<-ctx.Done()
				took <- time.Since(start)
				if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
					t.Error(ctx.Err())
				}
			},
		}})
		hubtest.Dial(t, hub, "/").Close()
		if d := <-took; d != 5*time.Second {
			t.Errorf("it ended after %v", d)
		}
		hub.Shutdown(background)
	})
}

func TestDisconnectRunsExactlyOnceIfConnectWasCalled(t *testing.T) {
	for name, test := range map[string]struct {
		connect error
		end     func(*websocket.Conn, *grouphub.Conn)
		code    int
	}{
		"client closes": {nil, func(c *websocket.Conn, _ *grouphub.Conn) {
			c.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(4001, ""))
		}, 4001},
		"client closes without a code": {nil, func(c *websocket.Conn, _ *grouphub.Conn) {
			c.WriteMessage(websocket.CloseMessage, nil)
		}, 1005},
		"socket is cut":     {nil, func(c *websocket.Conn, _ *grouphub.Conn) { c.NetConn().Close() }, 1006},
		"server closes":     {nil, func(_ *websocket.Conn, c *grouphub.Conn) { c.Close(4002, "") }, 4002},
		"Connect refuses":   {&grouphub.CloseError{Code: 4003, Reason: "no"}, nil, 4003},
		"Connect fails":     {errors.New("broken"), nil, 1011},
		"layer unavailable": {fmt.Errorf("x: %w", grouphub.ErrUnavailable), nil, 1013},
		"protocol error": {nil, func(c *websocket.Conn, _ *grouphub.Conn) {
			c.NetConn().Write([]byte{0xff, 0xff, 0xff})
		}, 1002},
		"oversize": {nil, func(c *websocket.Conn, _ *grouphub.Conn) {
			c.WriteMessage(websocket.TextMessage, make([]byte, 64<<10+1))
		}, 1009},
	} {
		t.Run(name, func(t *testing.T) {
			codes, conns := make(chan int, 2), make(chan *grouphub.Conn, 1)
			hub := hubOf(t, grouphub.Consumer{
				Connect:    func(c *grouphub.Conn) error { conns <- c; return test.connect },
				Disconnect: func(_ context.Context, _ *grouphub.Conn, code int) { codes <- code },
			})
			client := serve(t, hub).dial("/")
			conn := <-conns
			if test.end != nil {
				test.end(client, conn)
			}
			go func() { // answer a close, like any client
				for {
					if _, _, err := client.ReadMessage(); err != nil {
						client.Close()
						return
					}
				}
			}()
			if code := <-codes; code != test.code {
				t.Errorf("code %d, want %d", code, test.code)
			}
			if err := hub.Shutdown(background); err != nil {
				t.Fatal(err)
			}
			select {
			case code := <-codes:
				t.Errorf("Disconnect was called twice, then with %d", code)
			default:
			}
		})
	}
}

func TestCallbackErrorsCloseWithTheirCode(t *testing.T) {
	for want, err := range map[int]error{
		4321: &grouphub.CloseError{Code: 4321, Reason: "so there"},
		1011: errors.New("broken"),
		1013: fmt.Errorf("x: %w", grouphub.ErrUncertain),
	} {
		hub := hubOf(t, grouphub.Consumer{
			Connect: joinAll,
			Receive: func(*grouphub.Conn, grouphub.Message) error { return err },
			Events:  grouphub.Events{"note": grouphub.Handle(func(*grouphub.Conn, grouphub.Event) error { return err })},
		})
		a, b := hubtest.Dial(t, hub, "/"), hubtest.Dial(t, hub, "/")
		a.Send("x")
		a.ExpectClose(want)
		send(t, hub, "all", "note", 1)
		b.ExpectClose(want)
	}
	bad := hubOf(t, grouphub.Consumer{
		Connect: func(*grouphub.Conn) error { return &grouphub.CloseError{Code: 1006} }})
	hubtest.Dial(t, bad, "/").ExpectClose(1011)
}

func TestPanicInACallbackClosesThatConnectionWith1011(t *testing.T) {
	var logged safeBuffer
	consumer := func(where string) grouphub.Consumer {
		boom := func(at string) {
			if at == where {
				panic("boom in " + at)
			}
		}
		return grouphub.Consumer{
			Connect: func(c *grouphub.Conn) error { boom("connect"); return c.Join("all") },
			Receive: func(c *grouphub.Conn, m grouphub.Message) error { boom("receive"); return nil },
			Events: grouphub.Events{"note": grouphub.Handle(func(c *grouphub.Conn, e grouphub.Event) error {
				boom("handle")
				return nil
			})},
			Resync:     func(*grouphub.Conn, []string) { boom("resync") },
			Disconnect: func(context.Context, *grouphub.Conn, int) { boom("disconnect") },
		}
	}
	layer := &faultyLayer{MemoryLayer: grouphub.NewMemoryLayer()}
	hub := newHub(t, &grouphub.Options{Layer: layer, Consumer: noteConsumer, Logger: slog.New(slog.NewTextHandler(&logged, nil))})
	witness := hubtest.Dial(t, hub, "/")
	for _, where := range []string{"connect", "receive", "handle"} {
		c := hubtest.Dial(t, hub.Handler(consumer(where)), "/")
		if where == "receive" {
			c.Send("x")
		}
		send(t, hub, "all", "note", where)
		c.ExpectClose(1011)
		witness.ExpectEvent("note")
	}
	c := hubtest.Dial(t, hub.Handler(consumer("resync")), "/")
	layer.receiver.Lost([]string{"g:all"})
	c.ExpectClose(1011)
	witness.Expect(`{"type":"resync","group":"all"}`)
	send(t, hub, "all", "note", "resync")
	witness.ExpectEvent("note")
	hubtest.Dial(t, hub.Handler(consumer("disconnect")), "/").Close()
	for _, where := range []string{"connect", "receive", "handle", "resync", "disconnect"} {
		eventually(t, func() bool { return strings.Contains(logged.String(), "boom in "+where) }, "%s is not logged", where)
	}
	if !strings.Contains(logged.String(), "conn_test.go") {
		t.Error("no stack is logged")
	}
	// Accept runs before there is a connection.
	refused := hubtest.DialRefused(t, hub.Handler(grouphub.Consumer{Accept: func(*http.Request) error { panic("boom") }}), "/")
	if refused.StatusCode != http.StatusInternalServerError {
		t.Errorf("got %v", refused)
	}
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

func TestGoexitInACallbackDoesNotWedgeItsConnection(t *testing.T) {
	disconnected := make(chan struct{})
	hub := hubOf(t, grouphub.Consumer{
		Receive:    func(*grouphub.Conn, grouphub.Message) error { runtime.Goexit(); return nil },
		Disconnect: func(context.Context, *grouphub.Conn, int) { close(disconnected) },
	})
	c := hubtest.Dial(t, hub, "/")
	c.Send("x")
	c.ExpectClose(1011)
	<-disconnected
}

func TestAcceptChoosesTheRefusal(t *testing.T) {
	for want, err := range map[int]error{
		http.StatusTeapot:    &grouphub.Reject{Status: http.StatusTeapot, Reason: "short and stout"},
		http.StatusForbidden: errors.New("secret reason"),
	} {
		hub := hubOf(t, grouphub.Consumer{Accept: func(*http.Request) error { return err }})
		if got := hubtest.DialRefused(t, hub, "/"); got.StatusCode != want {
			t.Errorf("got %v, want %d", got, want)
		}
	}
}

func TestTextIsText(t *testing.T) {
	hub := hubOf(t, grouphub.Consumer{
		Receive: grouphub.ReceiveAs(func(c *grouphub.Conn, v struct{ N int }) error { return c.SendJSON(v.N) }),
	})
	c := hubtest.Dial(t, hub, "/")
	c.Send(`{"N":7}`)
	c.Expect("7")
	c.Send("\xff")
	c.ExpectClose(1007)
	c = hubtest.Dial(t, hub, "/")
	c.Send(`{"N":"seven"}`)
	c.ExpectClose(1007)
	c = hubtest.Dial(t, hubOf(t, grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error { return c.Send([]byte("\xff")) }}), "/")
	c.ExpectClose(1011) // the error is the sender's
}

func TestSendBinaryAndText(t *testing.T) {
	hub := hubOf(t, grouphub.Consumer{
		Receive: func(c *grouphub.Conn, m grouphub.Message) error {
			if m.Binary {
				return c.SendBinary(m.Data)
			}
			return c.Send(m.Data)
		},
	})
	c := hubtest.Dial(t, hub, "/")
	for _, size := range []int{0, 1, 125, 126, 65535, 65536} {
		data := strings.Repeat("x", size)
		c.Send(data)
		c.Expect(data)
		c.Send([]byte(data))
		if m := c.Next(); !m.Binary || string(m.Data) != data {
			t.Errorf("%d bytes: got %d, binary %v", size, len(m.Data), m.Binary)
		}
	}
}

func TestSendDoesNotKeepTheSlice(t *testing.T) {
	hub := hubOf(t, grouphub.Consumer{Connect: func(c *grouphub.Conn) error {
		data := []byte("one")
		defer copy(data, "XXX")
		return c.Send(data)
	}})
	hubtest.Dial(t, hub, "/").Expect("one")
}

func TestCloseRefusesCodesThatAFrameCannotCarry(t *testing.T) {
	errs := make(chan error, 10)
	hub := hubOf(t, grouphub.Consumer{Connect: func(c *grouphub.Conn) error {
		for _, code := range []int{0, 999, 1004, 1005, 1006, 1015, 2999, 5000} {
			errs <- c.Close(code, "")
		}
		errs <- c.Close(1000, strings.Repeat("x", 124))
		errs <- c.Close(1000, "\xff")
		return c.Send([]byte("still open"))
	}})
	c := hubtest.Dial(t, hub, "/")
	for range 10 {
		if err := <-errs; err == nil {
			t.Error("a bad close was accepted")
		}
	}
	c.Expect("still open")
}

func TestCloseSendsWhatWaitsFirst(t *testing.T) {
	hub := hubOf(t, grouphub.Consumer{Connect: func(c *grouphub.Conn) error {
		for i := range 100 {
			if err := c.Send(fmt.Append(nil, i, strings.Repeat("x", 10_000))); err != nil {
				return err
			}
		}
		if err := c.Close(4000, "done"); err != nil {
			return err
		}
		if err := c.Close(4001, "again"); !errors.Is(err, grouphub.ErrClosed) {
			t.Errorf("second Close: %v", err)
		}
		if err := c.Send([]byte("late")); !errors.Is(err, grouphub.ErrClosed) {
			t.Errorf("Send after Close: %v", err)
		}
		return nil
	}})
	c := serve(t, hub).dial("/")
	for i := range 100 {
		if got := next(t, c); !strings.HasPrefix(got, fmt.Sprint(i)+"x") {
			t.Fatalf("message %d is %.10q", i, got)
		}
	}
	wantClose(t, c, 4000)
}

func TestReceiveRateClosesWith1008(t *testing.T) {
	var received atomic.Int32
	hub := newHub(t, &grouphub.Options{ReceiveRate: 0.001, ReceiveBurst: 3, Consumer: grouphub.Consumer{
		Receive: func(c *grouphub.Conn, m grouphub.Message) error { received.Add(1); return c.Send(m.Data) },
	}})
	c := hubtest.Dial(t, hub, "/")
	for range 3 {
		c.Send("x")
		c.Expect("x")
	}
	c.Send("x")
	c.ExpectClose(1008)
	if n := received.Load(); n != 3 {
		t.Errorf("%d received", n)
	}
}

func TestMaxMessageSizeHoldsForTheInflatedSize(t *testing.T) {
	for _, compression := range []bool{false, true} {
		hub := newHub(t, &grouphub.Options{MaxMessageSize: 1000, Compression: compression, Consumer: grouphub.Consumer{
			Receive: func(c *grouphub.Conn, m grouphub.Message) error { return c.Send(fmt.Append(nil, len(m.Data))) },
		}})
		s := serve(t, hub)
		c := s.dialWith(&websocket.Dialer{EnableCompression: true}, "/")
		c.WriteMessage(websocket.TextMessage, make([]byte, 1000))
		wantNext(t, c, "1000")
		c.WriteMessage(websocket.TextMessage, make([]byte, 1001))
		c.WriteMessage(websocket.TextMessage, make([]byte, 10<<20)) // 10 KiB on the wire
		wantClose(t, c, 1009)
	}
}

func TestCompressionReachesClientsOfBothKinds(t *testing.T) {
	hub := newHub(t, &grouphub.Options{Compression: true, Consumer: grouphub.Consumer{
		Connect: joinAll,
		Receive: func(c *grouphub.Conn, m grouphub.Message) error { return c.Send(m.Data) },
		Events:  grouphub.Events{"note": grouphub.Forward()},
	}})
	s := serve(t, hub)
	plain := s.dial("/")
	packed := s.dialWith(&websocket.Dialer{EnableCompression: true}, "/")
	for i := range 20 {
		text := strings.Repeat(fmt.Sprint(i), 1+i*100)
		send(t, hub, "all", "note", text)
		for _, c := range []*websocket.Conn{plain, packed} {
			wantNext(t, c, `{"type":"note","group":"all","data":"`+text+`"}`)
		}
		packed.WriteMessage(websocket.TextMessage, []byte(text))
		wantNext(t, packed, text)
	}
}

func TestPingsKeepAConnectionAndSilenceEndsIt(t *testing.T) {
	for _, compression := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			codes := make(chan int, 1)
			hub := grouphub.New(&grouphub.Options{Compression: compression, Consumer: grouphub.Consumer{
				Disconnect: func(_ context.Context, _ *grouphub.Conn, code int) { codes <- code },
			}})
			alive := hubtest.Dial(t, hub, "/")
			alive.ExpectNone(10 * time.Minute) // hubtest's client answers pings
			hub.Shutdown(background)
			if code := <-codes; code != 1001 {
				t.Errorf("closed with %d", code)
			}
		})
	}
	silent := make(chan int, 1)
	hub := newHub(t, &grouphub.Options{PongTimeout: 50 * time.Millisecond, Consumer: grouphub.Consumer{
		Disconnect: func(_ context.Context, _ *grouphub.Conn, code int) { silent <- code },
	}})
	serve(t, hub).dial("/") // gorilla's client answers only while it is read
	if code := <-silent; code != 1006 {
		t.Errorf("disconnected with %d", code)
	}
}

func TestSubprotocolIsNegotiated(t *testing.T) {
	got := make(chan string, 1)
	hub := hubOf(t, grouphub.Consumer{
		Subprotocols: []string{"v2", "v1"},
		Connect:      func(c *grouphub.Conn) error { got <- c.Subprotocol(); return nil },
	})
	hubtest.Dial(t, hub, "/", hubtest.WithHeader(http.Header{"Sec-Websocket-Protocol": {"v1"}}))
	if p := <-got; p != "v1" {
		t.Errorf("got %q", p)
	}
}

func TestLogoutWorks(t *testing.T) {
	layer := grouphub.NewMemoryLayer()
	authenticate := grouphub.Authenticate(func(r *http.Request) (grouphub.User, error) {
		return grouphub.User{ID: r.Header.Get("X-User")}, nil
	})
	channels := make(chan string, 1)
	dial := func(hub *grouphub.Hub, user string) *hubtest.Client {
		return hubtest.Dial(t, authenticate(hub), "/", hubtest.WithHeader(http.Header{"X-User": {user}}))
	}
	options := &grouphub.Options{Layer: layer, Consumer: grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error {
			channels <- c.Channel()
			if len(c.Groups()) != 0 {
				t.Errorf("groups %q", c.Groups())
			}
			return nil
		},
		Receive: func(c *grouphub.Conn, m grouphub.Message) error { return c.Send([]byte(c.User().ID)) },
		Events:  grouphub.Events{"note": grouphub.Forward()},
	}}
	one, two := newHub(t, options), newHub(t, options)
	ann1 := dial(one, "ann")
	<-channels
	ann2 := dial(two, "ann")
	kept := <-channels
	bob := dial(one, "bob")
	<-channels
	dial(one, "") // anonymous, in no group
	<-channels
	send(t, two, grouphub.UserGroup("ann"), "note", 1)
	ann1.ExpectEvent("note")
	ann2.ExpectEvent("note")
	if err := one.GroupClose(background, grouphub.UserGroup("ann"), 4401, "logged out", grouphub.Except(kept)); err != nil {
		t.Fatal(err)
	}
	ann1.ExpectClose(4401)
	ann2.Send("x")
	ann2.Expect("ann")
	bob.Send("x")
	bob.Expect("bob")
}

func TestUserExpiresClosesWith4401(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub := grouphub.New(nil)
		start := time.Now()
		h := grouphub.Authenticate(func(*http.Request) (grouphub.User, error) {
			return grouphub.User{ID: "ann", Expires: start.Add(time.Hour)}, nil
		})(hub)
		c := hubtest.Dial(t, h, "/")
		c.ExpectNone(time.Hour - time.Second)
		c.ExpectClose(4401)
		if took := time.Since(start); took < time.Hour || took > time.Hour+time.Second {
			t.Errorf("after %v", took)
		}
		hub.Shutdown(background)
	})
}

func TestUsersGroupIsJoinedBeforeConnect(t *testing.T) {
	hub := hubOf(t, grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error {
			return c.Hub().GroupSend(c.Context(), grouphub.UserGroup("ann"), "note", "welcome")
		},
		Events: grouphub.Events{"note": grouphub.Forward()},
	})
	h := grouphub.Authenticate(func(*http.Request) (grouphub.User, error) { return grouphub.User{ID: "ann"}, nil })(hub)
	hubtest.Dial(t, h, "/").Expect(`{"type":"note","group":"!user/ann","data":"welcome"}`)
}

func TestUsersGroupIsNobodyElses(t *testing.T) {
	group := grouphub.UserGroup("ann")
	hub := hubOf(t, grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error {
			for name, err := range map[string]error{
				"Join": c.Join(group), "Leave": c.Leave(group),
				"GroupAdd":     c.Hub().GroupAdd(background, group, c.Channel()),
				"GroupDiscard": c.Hub().GroupDiscard(background, group, c.Channel()),
			} {
				if !errors.Is(err, grouphub.ErrInvalidName) {
					t.Errorf("%s: %v", name, err)
				}
			}
			return c.Send([]byte("ok"))
		},
	})
	hubtest.Dial(t, hub, "/").Expect("ok")
}

func TestSlowHandlerIsClosedWith1013(t *testing.T) {
	proceed := make(chan struct{})
	hub := newHub(t, &grouphub.Options{MaxPending: 1000, Consumer: grouphub.Consumer{
		Connect: joinAll,
		Events: grouphub.Events{"note": grouphub.Handle(func(*grouphub.Conn, grouphub.Event) error {
			<-proceed
			return nil
		})},
	}})
	c := hubtest.Dial(t, hub, "/")
	for range 20 {
		send(t, hub, "all", "note", strings.Repeat("x", 100))
	}
	c.ExpectClose(1013)
	close(proceed)
	if s := hub.Stats(); s.SlowClosed != 1 || s.Dropped == 0 {
		t.Errorf("%+v", s)
	}
}
