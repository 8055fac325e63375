package grouphub_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
)

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

func TestLeftMeansLeft(t *testing.T) {
	hub, conns := connections(t, noteConsumer)
	c := hubtest.Dial(t, hub, "/")
	conn := <-conns
	for i := range 500 {
		if err := conn.Leave("all"); err != nil {
			t.Fatal(err)
		}
		send(t, hub, "all", "note", "missed")
		if err := conn.Join("all"); err != nil {
			t.Fatal(err)
		}
		send(t, hub, "all", "note", i)
		c.Expect(fmt.Sprintf(`{"type":"note","group":"all","data":%d}`, i))
	}
	if err := conn.Leave("never joined"); err != nil {
		t.Error(err)
	}
}

func TestJoinedMeansJoined(t *testing.T) {
	layer := grouphub.NewMemoryLayer()
	other := newHub(t, &grouphub.Options{Layer: layer})
	conns := make(chan *grouphub.Conn, 1)
	hub := newHub(t, &grouphub.Options{Layer: layer, Consumer: grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error { conns <- c; return nil },
		Events:  grouphub.Events{"note": grouphub.Forward()},
	}})
	c := hubtest.Dial(t, hub, "/")
	conn := <-conns
	for i := range 200 {
		group := fmt.Sprint("g", i)
		var err error
		if i%2 == 0 {
			err = conn.Join(group)
		} else {
			err = hub.GroupAdd(background, group, conn.Channel())
		}
		if err != nil {
			t.Fatal(err)
		}
		send(t, other, group, "note", i)
		c.Expect(fmt.Sprintf(`{"type":"note","group":"%s","data":%d}`, group, i))
	}
	// Joining again changes nothing, and one Leave ends it.
	for range 3 {
		if err := conn.Join("g0"); err != nil {
			t.Fatal(err)
		}
	}
	send(t, other, "g0", "note", 1)
	c.ExpectEvent("note")
	if err := hub.GroupDiscard(background, "g0", conn.Channel()); err != nil {
		t.Fatal(err)
	}
	send(t, other, "g0", "note", "missed")
	send(t, other, "g1", "note", "seen")
	c.Expect(`{"type":"note","group":"g1","data":"seen"}`)
}

func TestGroupAddOfAnotherHubsChannel(t *testing.T) {
	layer := grouphub.NewMemoryLayer()
	conns := make(chan *grouphub.Conn, 1)
	one := newHub(t, &grouphub.Options{Layer: layer, Consumer: grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error { conns <- c; return nil },
		Events:  grouphub.Events{"*": grouphub.Forward()},
	}})
	two := newHub(t, &grouphub.Options{Layer: layer})
	c := hubtest.Dial(t, one, "/")
	conn := <-conns
	if err := two.GroupAdd(background, "g", conn.Channel()); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { return len(conn.Groups()) == 1 }, "not added")
	send(t, two, "g", "note", 1)
	c.ExpectEvent("note")
	if err := two.GroupDiscard(background, "g", conn.Channel()); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { return len(conn.Groups()) == 0 }, "not discarded")
	if err := two.Send(background, conn.Channel(), "direct", 2); err != nil {
		t.Fatal(err)
	}
	c.Expect(`{"type":"direct","data":2}`)
	c.Close()
	eventually(t, func() bool { return one.Stats().Conns == 0 }, "still there")
	if err := one.GroupAdd(background, "g", conn.Channel()); !errors.Is(err, grouphub.ErrClosed) {
		t.Errorf("GroupAdd of a closed connection: %v", err)
	}
	if err := one.GroupDiscard(background, "g", conn.Channel()); err != nil {
		t.Errorf("GroupDiscard of a closed connection: %v", err)
	}
	if err := one.Send(background, conn.Channel(), "direct", 2); !errors.Is(err, grouphub.ErrClosed) {
		t.Errorf("Send to a closed connection: %v", err)
	}
	if err := two.Send(background, conn.Channel(), "direct", 2); err != nil {
		t.Errorf("Send to a closed connection of another hub: %v", err)
	}
	eventually(t, func() bool { return one.Stats().Dropped == 1 }, "not counted")
}

func TestOrderIsTheSameForAllMembers(t *testing.T) {
	const senders, each, members = 4, 300, 9
	hub := hubOf(t, noteConsumer)
	var clients []*hubtest.Client
	for range members {
		clients = append(clients, hubtest.Dial(t, hub, "/"))
	}
	var wg sync.WaitGroup
	for s := range senders {
		wg.Go(func() {
			for i := range each {
				send(t, hub, "all", "note", [2]int{s, i})
			}
		})
	}
	wg.Wait()
	var first []string
	for m, c := range clients {
		last := make([]int, senders)
		for i := range senders * each {
			got := string(c.Next().Data)
			if m == 0 {
				first = append(first, got)
				var e struct{ Data [2]int }
				if err := json.Unmarshal([]byte(got), &e); err != nil {
					t.Fatal(err)
				}
				if s, n := e.Data[0], e.Data[1]; n != last[s] {
					t.Fatalf("sender %d: got %d, want %d", s, n, last[s])
				} else {
					last[s]++
				}
			} else if got != first[i] {
				t.Fatalf("member %d, event %d: got %s, member 0 got %s", m, i, got, first[i])
			}
		}
	}
}

func TestForwardAndRenderKeepTheOrderAmongThemselves(t *testing.T) {
	hub := hubOf(t, grouphub.Consumer{Connect: joinAll, Events: grouphub.Events{
		"forward": grouphub.Forward(),
		"render": grouphub.Render(func(e grouphub.Event) ([]byte, error) {
			time.Sleep(time.Duration(rand.IntN(100)) * time.Microsecond) // work of varying length
			return []byte(e.Data), nil
		}),
	}})
	a, b := hubtest.Dial(t, hub, "/"), hubtest.Dial(t, hub, "/")
	for i := range 300 {
		send(t, hub, "all", []string{"forward", "render"}[i%2], i)
	}
	for i := range 300 {
		for _, c := range []*hubtest.Client{a, b} {
			if i%2 == 0 {
				c.Expect(fmt.Sprintf(`{"type":"forward","group":"all","data":%d}`, i))
			} else {
				c.Expect(fmt.Sprint(i))
			}
		}
	}
}

func TestRenderRunsOncePerEventAndDelaysOnlyItsGroup(t *testing.T) {
	var mu sync.Mutex
	calls := 0
	proceed := make(chan struct{})
	hub := hubOf(t, grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error { return errors.Join(c.Join("slow"), c.Join("quick")) },
		Events: grouphub.Events{
			"render": grouphub.Render(func(e grouphub.Event) ([]byte, error) {
				mu.Lock()
				calls++
				mu.Unlock()
				<-proceed
				return []byte("rendered"), nil
			}),
			"note": grouphub.Forward(),
		},
	})
	var clients []*hubtest.Client
	for range 8 {
		clients = append(clients, hubtest.Dial(t, hub, "/"))
	}
	send(t, hub, "slow", "render", nil)
	send(t, hub, "slow", "note", 1)
	send(t, hub, "quick", "note", 2)
	for _, c := range clients {
		c.Expect(`{"type":"note","group":"quick","data":2}`)
	}
	close(proceed)
	for _, c := range clients {
		c.Expect("rendered")
		c.Expect(`{"type":"note","group":"slow","data":1}`)
	}
	if calls != 1 {
		t.Errorf("rendered %d times", calls)
	}
}

func TestRenderThatFailsIsCountedAndClosesNothing(t *testing.T) {
	hub := hubOf(t, grouphub.Consumer{Connect: joinAll, Events: grouphub.Events{
		"error": grouphub.Render(func(grouphub.Event) ([]byte, error) { return nil, errors.New("broken") }),
		"panic": grouphub.Render(func(grouphub.Event) ([]byte, error) { panic("broken") }),
		"bytes": grouphub.Render(func(grouphub.Event) ([]byte, error) { return []byte{0xff}, nil }),
		"empty": grouphub.Render(func(grouphub.Event) ([]byte, error) { return nil, nil }),
	}})
	a, b := hubtest.Dial(t, hub, "/"), hubtest.Dial(t, hub, "/")
	for _, event := range []string{"error", "panic", "bytes", "empty"} {
		send(t, hub, "all", event, nil)
	}
	a.Expect("")
	b.Expect("")
	eventually(t, func() bool { return hub.Stats().Dropped == 6 }, "%+v", hub.Stats())
}

func TestHandleAsDecodesAndABadEventClosesNobody(t *testing.T) {
	hub := hubOf(t, grouphub.Consumer{Connect: joinAll, Events: grouphub.Events{
		"typed": grouphub.HandleAs(func(c *grouphub.Conn, v struct{ N int }) error { return c.SendJSON(v.N) }),
		"event": grouphub.Handle(func(c *grouphub.Conn, e grouphub.Event) error { return c.SendJSON(e) }),
	}})
	c := hubtest.Dial(t, hub, "/")
	send(t, hub, "all", "typed", map[string]any{"N": "seven"})
	send(t, hub, "all", "typed", map[string]any{"N": 7})
	c.Expect("7")
	send(t, hub, "all", "typed", nil)
	c.Expect("0")
	send(t, hub, "all", "event", json.RawMessage(`{"a": "<&>"}`))
	c.Expect(`{"type":"event","group":"all","data":{"a":"\u003c\u0026\u003e"}}`)
	if n := hub.Stats().Dropped; n != 1 {
		t.Errorf("%d dropped", n)
	}
}

func TestEventTypesWithoutAHandlerReachNoClient(t *testing.T) {
	var logged safeBuffer
	hub := newHub(t, &grouphub.Options{Consumer: noteConsumer,
		Logger: slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	c := hubtest.Dial(t, hub, "/")
	other := hubtest.Dial(t, hub.Handler(noteConsumer), "/") // another consumer with the same events
	for range 3 {
		send(t, hub, "all", "mystery", nil)
		send(t, hub, "all", "riddle", nil)
	}
	send(t, hub, "all", "note", 1)
	c.ExpectEvent("note")
	other.ExpectEvent("note")
	eventually(t, func() bool { return hub.Stats().Unhandled == 12 }, "not all are counted") // just after the push
	star := hubtest.Dial(t, hub.Handler(grouphub.Consumer{Connect: joinAll, Events: grouphub.Events{"*": grouphub.Forward()}}), "/")
	send(t, hub, "all", "mystery", 1)
	star.ExpectEvent("mystery")
	if err := hub.Shutdown(background); err != nil { // now all is logged
		t.Fatal(err)
	}
	for _, event := range []string{"mystery", "riddle"} {
		line := regexp.MustCompile(`(?m)^.* level=DEBUG .*type=` + event + `$`)
		if n := len(line.FindAllString(logged.String(), -1)); n != 1 || strings.Count(logged.String(), event) != 1 {
			t.Errorf("%s is not logged once at debug level:\n%s", event, logged.String())
		}
	}
}

func TestExceptLeavesConnectionsOut(t *testing.T) {
	hub, conns := connections(t, noteConsumer)
	a := hubtest.Dial(t, hub, "/")
	channel := (<-conns).Channel()
	b := hubtest.Dial(t, hub, "/")
	for i := range 200 { // in runs, of which a gets parts
		var opts []grouphub.SendOption
		if i%3 != 0 {
			opts = append(opts, grouphub.Except(channel, "nobody!1"))
		}
		send(t, hub, "all", "note", i, opts...)
	}
	for i := range 200 {
		b.Expect(fmt.Sprintf(`{"type":"note","group":"all","data":%d}`, i))
		if i%3 == 0 {
			a.Expect(fmt.Sprintf(`{"type":"note","group":"all","data":%d}`, i))
		}
	}
	if err := hub.GroupClose(background, "all", 4000, "", grouphub.Except(channel)); err != nil {
		t.Fatal(err)
	}
	b.ExpectClose(4000)
	send(t, hub, "all", "note", "still here")
	a.ExpectEvent("note")
}

func TestGroupCloseComesAfterWhatWasSentBefore(t *testing.T) {
	hub := hubOf(t, noteConsumer)
	c := hubtest.Dial(t, hub, "/")
	for i := range 100 {
		send(t, hub, "all", "note", i)
	}
	if err := hub.GroupClose(background, "all", 4000, "bye"); err != nil {
		t.Fatal(err)
	}
	for range 100 {
		c.ExpectEvent("note")
	}
	c.ExpectClose(4000)
	if err := hub.GroupClose(background, "all", 1005, ""); err == nil {
		t.Error("GroupClose with 1005 was accepted")
	}
}

func TestNames(t *testing.T) {
	hub, conns := connections(t, grouphub.Consumer{})
	hubtest.Dial(t, hub, "/")
	conn := <-conns
	for _, name := range []string{"", "a\nb", "\xff", strings.Repeat("x", 256), "a\x7f", "\u0085"} {
		for operation, err := range map[string]error{
			"Join": conn.Join(name), "Leave": conn.Leave(name),
			"GroupAdd":         hub.GroupAdd(background, name, conn.Channel()),
			"GroupAdd channel": hub.GroupAdd(background, "g", name),
			"GroupDiscard":     hub.GroupDiscard(background, name, conn.Channel()),
			"GroupSend":        hub.GroupSend(background, name, "note", nil),
			"GroupSend event":  hub.GroupSend(background, "g", name, nil),
			"GroupClose":       hub.GroupClose(background, name, 1000, ""),
			"Send":             hub.Send(background, name, "note", nil),
			"Receive":          second(hub.Receive(background, name)),
		} {
			if !errors.Is(err, grouphub.ErrInvalidName) {
				t.Errorf("%s of %q: %v", operation, name, err)
			}
		}
	}
	if err := hub.GroupAdd(background, "g", "queue"); !errors.Is(err, grouphub.ErrInvalidName) {
		t.Errorf("GroupAdd of a queue: %v", err)
	}
	if _, err := hub.Receive(background, conn.Channel()); !errors.Is(err, grouphub.ErrInvalidName) {
		t.Errorf("Receive from a connection: %v", err)
	}
	if got := conn.Groups(); len(got) != 0 {
		t.Errorf("Groups are %q", got)
	}
	for _, name := range []string{"x", strings.Repeat("x", 255), "Füße 日本", "a!b", "a:b"} {
		if err := conn.Join(name); err != nil {
			t.Error(err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

func TestEventLargerThanMaxEventSizeIsErrTooLarge(t *testing.T) {
	hub := newHub(t, &grouphub.Options{MaxEventSize: 100, Consumer: noteConsumer})
	c := hubtest.Dial(t, hub, "/")
	err := hub.GroupSend(background, "all", "note", strings.Repeat("x", 100))
	if !errors.Is(err, grouphub.ErrTooLarge) || !strings.Contains(err.Error(), "100") {
		t.Error(err)
	}
	if err := hub.GroupSend(background, "all", "note", json.RawMessage(`{"broken`)); err == nil {
		t.Error("broken JSON was accepted")
	}
	send(t, hub, "all", "note", 1)
	c.Expect(`{"type":"note","group":"all","data":1}`)
	big := newHub(t, &grouphub.Options{Consumer: noteConsumer})
	s := serve(t, big)
	conn := s.dial("/")
	text := strings.Repeat("x", 1<<20-100) // as large as may be, and all that may wait
	send(t, big, "all", "note", text)
	wantNext(t, conn, `{"type":"note","group":"all","data":"`+text+`"}`)
}

func TestNamedChannelsAreQueues(t *testing.T) {
	layer := grouphub.NewMemoryLayer()
	one, two := newHub(t, &grouphub.Options{Layer: layer}), newHub(t, &grouphub.Options{Layer: layer})
	for i := range 100 {
		if err := one.Send(background, "jobs", "job", i); err != nil {
			t.Fatal(err)
		}
	}
	if err := one.Send(background, "jobs", "job", 100); !errors.Is(err, grouphub.ErrQueueFull) {
		t.Errorf("message 101: %v", err)
	}
	for i := range 100 {
		e, err := []*grouphub.Hub{one, two}[i%2].Receive(background, "jobs")
		var n int
		if err != nil || e.Type != "job" || e.Group != "" || e.Decode(&n) != nil || n != i {
			t.Fatalf("got %+v, %v, want %d", e, err, i)
		}
	}
	if _, err := one.Receive(canceled(), "jobs"); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	// What makes no sense is counted, and the next message is taken.
	if err := layer.Append(background, "jobs", []byte("garbage")); err != nil {
		t.Fatal(err)
	}
	if err := one.Send(background, "jobs", "job", 7); err != nil {
		t.Fatal(err)
	}
	if e, err := one.Receive(background, "jobs"); err != nil || string(e.Data) != "7" {
		t.Errorf("got %+v, %v", e, err)
	}
	if n := one.Stats().Dropped; n != 1 {
		t.Errorf("%d dropped", n)
	}
}

func TestReceiveEndsWithShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		layer := grouphub.NewMemoryLayer()
		defer layer.Close()
		hub := grouphub.New(&grouphub.Options{Layer: layer})
		result := make(chan error)
		go func() { result <- second(hub.Receive(background, "jobs")) }()
		synctest.Wait()
		hub.Shutdown(background)
		if err := <-result; !errors.Is(err, grouphub.ErrClosed) {
			t.Error(err)
		}
	})
}

func TestGarbageFromTheLayerIsCountedAndLoggedOnce(t *testing.T) {
	var logged safeBuffer
	layer := grouphub.NewMemoryLayer()
	hub := newHub(t, &grouphub.Options{Layer: layer, Consumer: noteConsumer, Logger: slog.New(slog.NewTextHandler(&logged, nil))})
	c := hubtest.Dial(t, hub, "/")
	const event = "\x01\x01\x04note\x00\x00\x0f\x1a" + `{"type":"note","data":"x"}`
	for range 3 {
		for _, payload := range []string{"", "\x01", "\x02\x01newer", "\x01\x63unknown kind", "\x01\x01\xff\xff\xff\xff\x7f",
			event[:len(event)-1], event + "}", strings.Replace(event, "x", "\xff", 1)} {
			if err := layer.Publish(background, grouphub.Publication{Topic: "g:all", Payload: []byte(payload)}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := layer.Publish(background, grouphub.Publication{Topic: "g:all", Payload: []byte(event)}); err != nil {
		t.Fatal(err)
	}
	c.Expect(`{"type":"note","data":"x"}`)
	if n := hub.Stats().Dropped; n != 24 {
		t.Errorf("%d dropped", n)
	}
	for _, fault := range []string{"truncated", "version 2", "unknown kind", "not UTF-8"} {
		eventually(t, func() bool { return strings.Count(logged.String(), fault) == 1 }, "%q is not logged once", fault)
	}
}

func TestSendersNeverWaitForReceivers(t *testing.T) {
	proceed := make(chan struct{})
	defer close(proceed)
	hub := newHub(t, &grouphub.Options{Consumer: noteConsumer, MaxPending: 256 << 10, CloseTimeout: time.Second})
	stuck := hub.Handler(grouphub.Consumer{Connect: joinAll, Events: grouphub.Events{
		"note": grouphub.Handle(func(*grouphub.Conn, grouphub.Event) error { <-proceed; return nil }),
	}})
	mux := http.NewServeMux()
	mux.Handle("/", hub)
	mux.Handle("/stuck", stuck)
	s := serve(t, mux)
	s.dial("/") // is never read from
	s.dial("/stuck")
	quick := s.dial("/")
	text := strings.Repeat("x", 32<<10)
	for sent := 0; hub.Stats().SlowClosed < 2; sent++ {
		if sent > 10_000 {
			t.Fatalf("never slow: %+v", hub.Stats())
		}
		send(t, hub, "all", "note", fmt.Sprint(sent, text)) // an error if it took five seconds
		if got, want := next(t, quick), fmt.Sprintf(`{"type":"note","group":"all","data":"%dx`, sent); !strings.HasPrefix(got, want) {
			t.Fatalf("got %.60s, want %s", got, want)
		}
	}
}

func TestSlowClientIsClosedAndOthersAreNot(t *testing.T) {
	for _, secure := range []bool{false, true} {
		t.Run(fmt.Sprint("TLS ", secure), func(t *testing.T) {
			testSlowClient(t, secure)
		})
	}
}

func testSlowClient(t *testing.T, secure bool) {
	hub := newHub(t, &grouphub.Options{Consumer: noteConsumer, MaxPending: 256 << 10, CloseTimeout: 200 * time.Millisecond})
	server := newServer(t, hub)
	if secure {
		server.StartTLS()
	} else {
		server.Start()
	}
	dialer := &websocket.Dialer{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	slow, quick := server.dialWith(dialer, "/"), server.dialWith(dialer, "/")
	text := strings.Repeat("x", 32<<10)
	sent := 0
	for ; hub.Stats().SlowClosed == 0; sent++ {
		if sent > 10_000 {
			t.Fatalf("never slow: %+v", hub.Stats())
		}
		send(t, hub, "all", "note", fmt.Sprint(sent, text))
		if got, want := next(t, quick), fmt.Sprintf(`{"type":"note","group":"all","data":"%dx`, sent); !strings.HasPrefix(got, want) {
			t.Fatalf("got %s, want %s", got, want)
		}
	}
	eventually(t, func() bool { return hub.Stats().Conns == 1 }, "the slow one is not cut off")
	// What the slow one finds in its socket is whole frames in order, then 1013 or
	// the end.
	received := 0
	for ; ; received++ {
		_, data, err := slow.ReadMessage()
		if err != nil {
			t.Logf("after %d of %d: %v", received, sent, err)
			break
		}
		if want := fmt.Sprintf(`{"type":"note","group":"all","data":"%dx`, received); !strings.HasPrefix(string(data), want) {
			t.Fatalf("got %.50s, want %s", data, want)
		}
	}
	send(t, hub, "all", "note", "still here")
	wantNext(t, quick, `{"type":"note","group":"all","data":"still here"}`)
	if s := hub.Stats(); s.Dropped == 0 || received+int(s.Dropped) < sent {
		t.Errorf("%d sent, %d received, %+v: something was lost in silence", sent, received, s)
	}
}

func TestSlowClientThatComesBackToReadingGets1013(t *testing.T) {
	hub := newHub(t, &grouphub.Options{Consumer: noteConsumer, MaxPending: 64 << 10, CloseTimeout: 20 * time.Second})
	c := serve(t, hub).dial("/")
	for hub.Stats().SlowClosed == 0 {
		send(t, hub, "all", "note", strings.Repeat("x", 60<<10))
	}
	for {
		c.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, _, err := c.ReadMessage(); err != nil {
			if !websocket.IsCloseError(err, 1013) {
				t.Error(err)
			}
			return
		}
	}
}

func TestManyJoinAndLeaveWhileEventsFlow(t *testing.T) {
	hub, conns := connections(t, grouphub.Consumer{Events: grouphub.Events{"note": grouphub.Forward()}})
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				send(t, hub, fmt.Sprint("g", i%5), "note", i)
			}
		}
	})
	var members sync.WaitGroup
	for n := range 8 {
		c := hubtest.Dial(t, hub, "/")
		conn := <-conns
		members.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(n)))
			for range 300 {
				group := fmt.Sprint("g", r.IntN(5))
				var err error
				switch r.IntN(3) {
				case 0:
					err = conn.Leave(group)
				default:
					err = conn.Join(group)
				}
				if err != nil {
					t.Error(err)
				}
			}
			c.Close()
		})
	}
	members.Wait()
	close(stop)
	wg.Wait()
	eventually(t, func() bool { return hub.Stats().Conns == 0 && hub.Stats().Groups == 0 }, "%+v", hub.Stats())
}

func ExampleHub_GroupSend() {
	hub := grouphub.New(nil)
	defer hub.Shutdown(context.Background())
	err := hub.GroupSend(context.Background(), "room:lobby", "chat.message", map[string]string{"text": "hello"})
	fmt.Println(err)
	// Output: <nil>
}
