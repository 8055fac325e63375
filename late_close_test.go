package grouphub_test

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
)

// A stallingLayer delivers nothing while it is stalled, and then everything, with the age of what
// is kept, as a connection does that stood still.
type stallingLayer struct {
	*grouphub.MemoryLayer

	mu       sync.Mutex
	receiver grouphub.Receiver
	stalled  bool
	held     []heldPublication
}

type heldPublication struct {
	grouphub.Publication
	at time.Time
}

func (l *stallingLayer) Attach(hub string, r grouphub.Receiver) (grouphub.Subscription, error) {
	l.receiver = r
	return l.MemoryLayer.Attach(hub, stallingReceiver{r, l})
}

func (l *stallingLayer) stall() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stalled = true
}

// goOn delivers what is held and was published to topics that wanted allows.
func (l *stallingLayer) goOn(wanted func(topic string) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stalled = false
	var rest []heldPublication
	for _, p := range l.held {
		if !wanted(p.Topic) {
			rest = append(rest, p)
			continue
		}
		if p.At.Number > 0 {
			p.Age = time.Since(p.at)
		}
		l.receiver.Deliver(p.Publication)
	}
	l.held = rest
}

type stallingReceiver struct {
	grouphub.Receiver
	layer *stallingLayer
}

func (r stallingReceiver) Deliver(p grouphub.Publication) {
	r.layer.mu.Lock()
	defer r.layer.mu.Unlock()
	if r.layer.stalled {
		r.layer.held = append(r.layer.held, heldPublication{p, time.Now()})
		return
	}
	r.Receiver.Deliver(p)
}

func TestACloseThatIsDeliveredLateDoesNotConcernWhoJoinedAfterIt(t *testing.T) {
	everything := func(string) bool { return true }
	for _, history := range []int{0, 10} {
		t.Run(fmt.Sprint("history of ", history), func(t *testing.T) {
			layer := &stallingLayer{MemoryLayer: grouphub.NewMemoryLayer()}
			hub := newHub(t, &grouphub.Options{Layer: layer, Consumer: noteConsumer, Policy: keeping(history)})
			closeGroup := func() {
				t.Helper()
				if err := hub.GroupClose(background, "all", 4401, "logged out"); err != nil {
					t.Fatal(err)
				}
			}
			early := hubtest.Dial(t, hub, "/")
			layer.stall()
			closeGroup()
			closed := time.Now()
			eventually(t, func() bool { return time.Since(closed) > 100*time.Millisecond }, "time stands still")
			late := hubtest.Dial(t, hub, "/")
			layer.goOn(everything)
			early.ExpectClose(4401)
			send(t, hub, "all", "note", "to who is there")
			late.ExpectEvent("note")
			closeGroup() // the next one is meant for it
			late.ExpectClose(4401)
		})
	}
}

// The group's events and the commands may come over different connections, of which one stands
// still.
func TestACloseWhoseMarkComesLateIsCarriedOutOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		layer := &stallingLayer{MemoryLayer: grouphub.NewMemoryLayer()}
		defer layer.Close()
		hub := grouphub.New(&grouphub.Options{Layer: layer, Consumer: noteConsumer})
		defer hub.Shutdown(background)
		early := hubtest.Dial(t, hub, "/")
		layer.stall()
		if err := hub.GroupClose(background, "all", 4401, "logged out"); err != nil {
			t.Fatal(err)
		}
		layer.goOn(func(topic string) bool { return topic != "g:all" })
		early.ExpectClose(4401) // without the mark, after a while
		time.Sleep(time.Second)
		late := hubtest.Dial(t, hub, "/")
		layer.goOn(func(string) bool { return true })
		send(t, hub, "all", "note", "to who is there")
		late.ExpectEvent("note")
	})
}
