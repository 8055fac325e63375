package grouphub_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
)

// A gatedLayer is a faulty one whose histories are read when the test says so.
type gatedLayer struct {
	faultyLayer
	reading func(topic string) // called before a history is returned
}

func newGatedLayer(reading func(topic string)) *gatedLayer {
	return &gatedLayer{faultyLayer{MemoryLayer: grouphub.NewMemoryLayer()}, reading}
}

func (l *gatedLayer) History(ctx context.Context, topic string, after uint64) (grouphub.History, error) {
	history, err := l.faultyLayer.History(ctx, topic, after)
	l.reading(topic)
	return history, err
}

func TestGroupCloseComesAfterTheEventsThatWaitForTheHistory(t *testing.T) {
	gate := make(chan struct{})
	close(gate)
	layer := newGatedLayer(func(topic string) {
		if topic == "g:g" {
			<-gate
		}
	})
	hub := historyHub(t, layer)
	c := hubtest.Dial(t, hub, "/g?resume=")
	c.ExpectEvent("grouphub.position")
	gate = make(chan struct{})
	layer.setFault(func(grouphub.Publication) []grouphub.Publication { return nil })
	sendNumbers(t, hub, "g", 1, 1)
	layer.setFault(nil)
	sendNumbers(t, hub, "g", 2, 2) // and 1 is missing
	if err := hub.GroupClose(background, "g", 4000, "bye"); err != nil {
		t.Fatal(err)
	}
	close(gate)
	expectNumbers(t, c, 1, 2)
	c.ExpectClose(4000)
}

func TestAHubDoesNotObeyWhatWasSaidBeforeItsTime(t *testing.T) {
	layer := newGatedLayer(func(string) {})
	one := newHub(t, &grouphub.Options{Layer: layer.MemoryLayer})
	if err := one.GroupClose(background, "all", 4000, "old"); err != nil {
		t.Fatal(err)
	}
	begun, gate := make(chan struct{}, 1), make(chan struct{})
	layer.reading = func(topic string) {
		if topic == "c:all" {
			begun <- struct{}{}
			<-gate
		}
	}
	two := newHub(t, &grouphub.Options{Layer: layer, Consumer: noteConsumer})
	<-begun
	old := hubtest.Dial(t, two, "/")
	close(gate)
	send(t, two, "all", "note", 1)
	old.ExpectEvent("note")
	// By the time that a new one is obeyed, an old one would have been.
	if err := one.GroupClose(background, "all", 4001, "new"); err != nil {
		t.Fatal(err)
	}
	old.ExpectClose(4001)
}

// A pipeListener has one connection.
type pipeListener struct {
	net.Conn
	accept chan net.Conn
}

func (l pipeListener) Close() error   { return nil }
func (l pipeListener) Addr() net.Addr { return l.LocalAddr() }

func (l pipeListener) Accept() (net.Conn, error) {
	if c := <-l.accept; c != nil {
		return c, nil
	}
	return nil, net.ErrClosed
}

// dialPipe connects through a pipe, for use in a bubble, a client that takes nothing but
// what the test reads.
func dialPipe(t *testing.T, h http.Handler, path string) *websocket.Conn {
	t.Helper()
	near, far := net.Pipe()
	l := pipeListener{far, make(chan net.Conn, 1)}
	l.accept <- far
	close(l.accept)
	go http.Serve(l, h)
	dialer := websocket.Dialer{NetDialContext: func(context.Context, string, string) (net.Conn, error) { return near, nil }}
	c, _, err := dialer.Dial("ws://example.com"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// slowToResume returns a connection that is in no group yet, and has missed ten events of
// 100 KiB in group g, of which it takes what is read.
func slowToResume(t *testing.T, hub *grouphub.Hub, conns <-chan *grouphub.Conn) (*websocket.Conn, *grouphub.Conn) {
	t.Helper()
	c := hubtest.Dial(t, hub, "/?resume=")
	if err := (<-conns).Join("g"); err != nil {
		t.Fatal(err)
	}
	id := c.ExpectEvent("grouphub.position").ID
	c.Close()
	for i := range 10 {
		send(t, hub, "g", "n", fmt.Sprint(i, strings.Repeat("x", 100<<10)))
	}
	return dialPipe(t, hub, "/"+resumeQuery("g", id)), <-conns
}

// readSlow reads what slowToResume has missed.
func readSlow(t *testing.T, c *websocket.Conn) {
	t.Helper()
	for i := range 10 {
		if got := next(t, c); !strings.Contains(got[:100], fmt.Sprintf(`"data":"%dx`, i)) {
			t.Errorf("event %d: got %.100s", i, got)
		}
	}
	if got := next(t, c); !strings.Contains(got, "grouphub.position") {
		t.Errorf("got %s", got)
	}
}

func handOver(layer grouphub.Layer, conns chan<- *grouphub.Conn) *grouphub.Options {
	return &grouphub.Options{Layer: layer, Policy: keeping(100), Consumer: grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error { conns <- c; return nil },
		Events:  grouphub.Events{"n": grouphub.Forward()},
	}}
}

func TestGroupAddLastsFiveSecondsAndTheNextOneGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conns := make(chan *grouphub.Conn, 1)
		hub := grouphub.New(handOver(nil, conns))
		c, conn := slowToResume(t, hub, conns)
		begun := time.Now()
		err := hub.GroupAdd(background, "g", conn.Channel())
		if took := time.Since(begun); took != 5*time.Second || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v after %v", err, took)
		}
		added := make(chan error)
		go func() { added <- hub.GroupAdd(background, "g", conn.Channel()) }()
		readSlow(t, c)
		if err := <-added; err != nil {
			t.Error(err)
		}
		c.Close()
		hub.Shutdown(background)
	})
}

func TestASlowReplayHoldsUpNoOtherConnectionsGroupAdd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		layer := grouphub.NewMemoryLayer()
		conns := make(chan *grouphub.Conn, 1)
		hub, remote := grouphub.New(handOver(layer, conns)), grouphub.New(&grouphub.Options{Layer: layer})
		c, slow := slowToResume(t, hub, conns)
		d := hubtest.Dial(t, hub, "/")
		other := <-conns
		for _, add := range []struct {
			group string
			conn  *grouphub.Conn
		}{{"g", slow}, {"h", slow}, {"h", other}} {
			if err := remote.GroupAdd(background, add.group, add.conn.Channel()); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if groups := other.Groups(); !slices.Equal(groups, []string{"h"}) {
			t.Errorf("the other one is in %q", groups)
		}
		if groups := slow.Groups(); len(groups) != 0 { // one after the other
			t.Errorf("the slow one is in %q", groups)
		}
		readSlow(t, c)
		synctest.Wait()
		if groups := slow.Groups(); !slices.Equal(groups, []string{"g", "h"}) {
			t.Errorf("the slow one is in %q", groups)
		}
		c.Close()
		d.Close()
		hub.Shutdown(background)
		remote.Shutdown(background)
		layer.Close()
	})
}

func TestAFullGroupNamedLikeATopicOfHubsHoldsNoCommandUp(t *testing.T) {
	unblock := make(chan struct{})
	hub := newHub(t, &grouphub.Options{MaxPending: 4 << 20, Consumer: grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error { return c.Join("c:all") },
		Events: grouphub.Events{"note": grouphub.Render(func(grouphub.Event) ([]byte, error) {
			<-unblock
			return nil, nil
		})},
	}})
	defer close(unblock)
	hubtest.Dial(t, hub, "/")
	for range 8 { // more than may wait for a group
		send(t, hub, "c:all", "note", make([]byte, 100_000))
	}
	if err := hub.GroupClose(background, "unrelated", 4000, ""); err != nil {
		t.Error(err)
	}
}

// Of two at the same time one replays. The other has its word only when that is over.
func TestAJoinWaitsForTheOneThatIsUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conns := make(chan *grouphub.Conn, 1)
		hub := grouphub.New(handOver(nil, conns))
		c, conn := slowToResume(t, hub, conns)
		ctx, giveUp := context.WithCancel(background)
		added, joined := make(chan error, 1), make(chan error, 1)
		go func() { added <- hub.GroupAdd(ctx, "g", conn.Channel()) }()
		synctest.Wait()
		go func() { joined <- conn.Join("g") }()
		synctest.Wait()
		giveUp()
		if err := <-added; !errors.Is(err, context.Canceled) {
			t.Errorf("GroupAdd: %v", err)
		}
		synctest.Wait()
		select {
		case err := <-joined:
			t.Errorf("Join returned %v before the client had what it missed", err)
		default:
		}
		readSlow(t, c)
		if err := <-joined; err != nil || !slices.Equal(conn.Groups(), []string{"g"}) {
			t.Errorf("Join: %v, and the connection is in %q", err, conn.Groups())
		}
		c.Close()
		hub.Shutdown(background)
	})
}

func TestAPolicyThatPanicsForAnotherHubClosesThatConnection(t *testing.T) {
	layer := grouphub.NewMemoryLayer()
	conns := make(chan *grouphub.Conn, 1)
	options := handOver(layer, conns)
	options.Logger = slog.New(slog.DiscardHandler)
	options.Policy = func(string) grouphub.GroupPolicy { panic("not a name that this policy knows") }
	c := hubtest.Dial(t, newHub(t, options), "/")
	remote := newHub(t, &grouphub.Options{Layer: layer})
	if err := remote.GroupAdd(background, "g", (<-conns).Channel()); err != nil {
		t.Fatal(err)
	}
	c.ExpectClose(1011)
}

func TestLogHandlerMaySendToTheGroupThatItHearsOf(t *testing.T) {
	layer := grouphub.NewMemoryLayer()
	conns := make(chan *grouphub.Conn, 1)
	sent := make(chan error, 1)
	var hub *grouphub.Hub
	options := handOver(layer, conns)
	options.Logger = slog.New(handlerFunc(func(r slog.Record) {
		if strings.Contains(r.Message, "without a number") {
			sent <- hub.GroupSend(background, "g", "alert", r.Message)
		}
	}))
	hub = newHub(t, options)
	hubtest.Dial(t, hub, "/")
	if err := (<-conns).Join("g"); err != nil {
		t.Fatal(err)
	}
	send(t, newHub(t, &grouphub.Options{Layer: layer}), "g", "n", 1) // another policy
	if err := <-sent; err != nil {
		t.Errorf("the handler's send: %v", err)
	}
}
