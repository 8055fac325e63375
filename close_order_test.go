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

// A holdingLayer delivers some of what is published later than the rest, with the age of what is
// kept: as a Cluster does, in which groups and commands are on different nodes, or a connection that
// stood still.
type holdingLayer struct {
	*grouphub.MemoryLayer
	hub grouphub.Receiver

	mu    sync.Mutex
	holds func(topic string) bool         // whether a topic's publications are held
	drop  func(grouphub.Publication) bool // in place of holding it; nil: nothing is dropped
	held  []heldPublication
}

type heldPublication struct {
	grouphub.Publication
	at time.Time
}

func newHoldingLayer(holds func(topic string) bool) *holdingLayer {
	return &holdingLayer{MemoryLayer: grouphub.NewMemoryLayer(), holds: holds}
}

func isGroup(topic string) bool { return strings.HasPrefix(topic, "g:") }

func isAnything(string) bool { return true }

func isNothing(string) bool { return false }

func (l *holdingLayer) Attach(hub string, r grouphub.Receiver) (grouphub.Subscription, error) {
	l.hub = r
	return l.MemoryLayer.Attach(hub, holdingReceiver{r, l})
}

// hold says what is held from now on, and delivers what was held and no longer is.
func (l *holdingLayer) hold(holds func(topic string) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.holds = holds
	var rest []heldPublication
	for _, p := range l.held {
		if holds(p.Topic) {
			rest = append(rest, p)
			continue
		}
		if p.At.Number > 0 {
			p.Age = time.Since(p.at)
		}
		l.hub.Deliver(p.Publication)
	}
	l.held = rest
}

// release delivers what was held, and goes on holding.
func (l *holdingLayer) release() {
	holds := l.holds
	l.hold(isNothing)
	l.hold(holds)
}

type holdingReceiver struct {
	grouphub.Receiver
	layer *holdingLayer
}

func (r holdingReceiver) Deliver(p grouphub.Publication) {
	r.layer.mu.Lock()
	defer r.layer.mu.Unlock()
	switch {
	case !r.layer.holds(p.Topic):
		r.Receiver.Deliver(p)
	case r.layer.drop == nil || !r.layer.drop(p):
		r.layer.held = append(r.layer.held, heldPublication{p, time.Now()})
	}
}

func TestGroupCloseComesAfterWhatWasSentBeforeOnAnotherNode(t *testing.T) {
	layer := newHoldingLayer(isGroup)
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
		layer := newHoldingLayer(isGroup)
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
