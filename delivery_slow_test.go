package grouphub_test

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
)

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
	t.Parallel()
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
	// In its socket the slow client finds whole frames in order, and then 1013 or the end.
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
		case <-time.After(20 * time.Second):
			t.Fatalf("event %d is not handled: %+v", i, hub.Stats())
		}
	}
}

func TestEventsForAClosingConnectionAreNotDropped(t *testing.T) {
	for name, handler := range map[string]grouphub.EventHandler{
		"Forward": grouphub.Forward(),
		"Handle":  grouphub.Handle(func(*grouphub.Conn, grouphub.Event) error { return nil }),
	} {
		t.Run(name, func(t *testing.T) {
			hub, conns := connections(t, grouphub.Consumer{Connect: joinAll, Events: grouphub.Events{"note": handler}})
			serve(t, hub).dial("/") // it does not answer the close frame
			(<-conns).Close(1000, "")
			for i := range 10 {
				send(t, hub, "all", "note", i)
			}
			// A shard's events are pushed in order, so the last is known to have been.
			witness := hubtest.Dial(t, hub.Handler(noteConsumer), "/")
			send(t, hub, "all", "note", "last")
			witness.ExpectEvent("note")
			if n := hub.Stats().Dropped; n != 0 {
				t.Errorf("%d dropped", n)
			}
		})
	}
}
