package grouphub_test

import (
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
)

// A slowNodeLayer delivers what is published to groups later than what hubs tell each other,
// as a Cluster does in which they are on different nodes.
type slowNodeLayer struct {
	*grouphub.MemoryLayer
	hub grouphub.Receiver

	mu   sync.Mutex
	held []grouphub.Publication
	drop func(grouphub.Publication) bool // in place of holding it
}

func (l *slowNodeLayer) Attach(hub string, r grouphub.Receiver) (grouphub.Subscription, error) {
	l.hub = r
	return l.MemoryLayer.Attach(hub, slowNodeReceiver{r, l})
}

// release delivers what was held.
func (l *slowNodeLayer) release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range l.held {
		l.hub.Deliver(p)
	}
	l.held = nil
}

type slowNodeReceiver struct {
	grouphub.Receiver
	layer *slowNodeLayer
}

func (r slowNodeReceiver) Deliver(p grouphub.Publication) {
	r.layer.mu.Lock()
	defer r.layer.mu.Unlock()
	switch {
	case !strings.HasPrefix(p.Topic, "g:"):
		r.Receiver.Deliver(p)
	case r.layer.drop == nil || !r.layer.drop(p):
		r.layer.held = append(r.layer.held, p)
	}
}

func TestGroupCloseComesAfterWhatWasSentBeforeOnAnotherNode(t *testing.T) {
	layer := &slowNodeLayer{MemoryLayer: grouphub.NewMemoryLayer()}
	hub := newHub(t, &grouphub.Options{Layer: layer, Consumer: noteConsumer})
	excepted := make(chan *grouphub.Conn, 1)
	c := hubtest.Dial(t, hub, "/")
	stays := hubtest.Dial(t, hub.Handler(grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error { excepted <- c; return c.Join("all") }, Events: noteConsumer.Events}), "/")
	for i := range 3 {
		send(t, hub, "all", "note", i)
	}
	if err := hub.GroupClose(background, "all", 4000, "bye", grouphub.Except((<-excepted).Channel())); err != nil {
		t.Fatal(err)
	}
	send(t, hub, "all", "note", "after")
	layer.release()
	for _, want := range []string{"0", "1", "2"} {
		if got := string(c.ExpectEvent("note").Data); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		stays.ExpectEvent("note")
	}
	c.ExpectClose(4000)
	stays.Expect(`{"type":"note","group":"all","data":"after"}`)
	// Whoever joins now is not meant.
	late := hubtest.Dial(t, hub, "/")
	send(t, hub, "all", "note", "late")
	layer.release()
	late.ExpectEvent("note")
}

func TestGroupCloseWhoseMarkIsLostClosesAllTheSame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		layer := &slowNodeLayer{MemoryLayer: grouphub.NewMemoryLayer()}
		layer.drop = func(grouphub.Publication) bool { return true }
		hub := grouphub.New(&grouphub.Options{Layer: layer, Consumer: noteConsumer})
		c := hubtest.Dial(t, hub, "/")
		begun := time.Now()
		if err := hub.GroupClose(background, "all", 4000, "bye"); err != nil {
			t.Fatal(err)
		}
		c.ExpectClose(4000)
		if took := time.Since(begun); took > 3*time.Second {
			t.Errorf("closed after %v", took)
		}
		hub.Shutdown(background)
		layer.Close()
	})
}
