package grouphub_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
)

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
	// A message that makes no sense is counted, and the next one is taken.
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

// The name of a channel can be made up by a stranger.
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

func TestSendToAClosingConnectionIsErrClosed(t *testing.T) {
	for name, handler := range map[string]grouphub.EventHandler{
		"Forward": grouphub.Forward(),
		"Render":  grouphub.Render(func(grouphub.Event) ([]byte, error) { return nil, nil }),
		"Handle":  grouphub.Handle(func(*grouphub.Conn, grouphub.Event) error { return nil }),
	} {
		t.Run(name, func(t *testing.T) {
			layer := grouphub.NewMemoryLayer()
			conns := make(chan *grouphub.Conn, 1)
			hub := newHub(t, &grouphub.Options{Layer: layer, Consumer: grouphub.Consumer{
				Connect: func(c *grouphub.Conn) error { conns <- c; return nil },
				Events:  grouphub.Events{"note": handler},
			}})
			serve(t, hub).dial("/") // a client that does not answer the close frame
			c := <-conns
			c.Close(1000, "")
			if err := hub.Send(background, c.Channel(), "note", 1); !errors.Is(err, grouphub.ErrClosed) {
				t.Errorf("Send: %v", err)
			}
			if n := hub.Stats().Dropped; n != 0 {
				t.Errorf("%d dropped, and the sender knows", n)
			}
			// Another hub does not hear of it.
			if err := newHub(t, &grouphub.Options{Layer: layer}).Send(background, c.Channel(), "note", 2); err != nil {
				t.Error(err)
			}
			eventually(t, func() bool { return hub.Stats().Dropped == 1 }, "what another hub has sent is not counted")
		})
	}
}

func TestSendToASlowConnectionIsErrClosedAndCountedOnce(t *testing.T) {
	var proceed chan struct{}
	for name, handler := range map[string]grouphub.EventHandler{
		"Forward": grouphub.Forward(),
		"Handle":  grouphub.Handle(func(*grouphub.Conn, grouphub.Event) error { <-proceed; return nil }),
	} {
		t.Run(name, func(t *testing.T) {
			proceed = make(chan struct{})
			defer close(proceed)
			layer := grouphub.NewMemoryLayer()
			conns := make(chan *grouphub.Conn, 1)
			hub := newHub(t, &grouphub.Options{Layer: layer, CloseTimeout: time.Minute, Consumer: grouphub.Consumer{
				Connect: func(c *grouphub.Conn) error { conns <- c; return nil },
				Events:  grouphub.Events{"note": handler},
			}})
			client := serve(t, hub).dial("/")
			defer client.Close()
			c := <-conns
			var err error
			for err == nil {
				err = hub.Send(background, c.Channel(), "note", strings.Repeat("x", 60<<10))
			}
			if s := hub.Stats(); !errors.Is(err, grouphub.ErrClosed) || s.SlowClosed != 1 || s.Dropped == 0 {
				t.Errorf("%v, %+v", err, s)
			}
			before := hub.Stats().Dropped
			if err := hub.Send(background, c.Channel(), "note", 1); !errors.Is(err, grouphub.ErrClosed) {
				t.Errorf("another Send: %v", err)
			}
			if n := hub.Stats().Dropped - before; name == "Forward" && n != 1 {
				t.Errorf("one event is counted %d times", n)
			}
			before = hub.Stats().Dropped
			other := newHub(t, &grouphub.Options{Layer: layer})
			if err := other.Send(background, c.Channel(), "note", 1); err != nil {
				t.Error(err)
			}
			if err := other.Ping(background); err != nil {
				t.Error(err)
			}
			eventually(t, func() bool { return hub.Stats().Dropped > before }, "it is not counted")
			if n := hub.Stats().Dropped - before; n != 1 {
				t.Errorf("one event is counted %d times", n)
			}
		})
	}
}
