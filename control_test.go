package grouphub_test

import (
	"context"
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
)

// A cutOffLayer is one hub's way to a layer that others use, too. While it is cut, what
// they send does not arrive.
type cutOffLayer struct {
	*grouphub.MemoryLayer
	cut      atomic.Bool
	receiver grouphub.Receiver
}

func (l *cutOffLayer) Attach(hub string, r grouphub.Receiver) (grouphub.Subscription, error) {
	l.receiver = r
	return l.MemoryLayer.Attach(hub, cutOffReceiver{r, l})
}

func (l *cutOffLayer) History(ctx context.Context, topic string, after uint64) (grouphub.History, error) {
	if l.cut.Load() {
		return grouphub.History{}, grouphub.ErrUnavailable
	}
	return l.MemoryLayer.History(ctx, topic, after)
}

type cutOffReceiver struct {
	grouphub.Receiver
	layer *cutOffLayer
}

func (r cutOffReceiver) Deliver(p grouphub.Publication) {
	if !r.layer.cut.Load() {
		r.Receiver.Deliver(p)
	}
}

// mend connects the hub again, and tells it of the interruption.
func (l *cutOffLayer) mend() {
	l.cut.Store(false)
	l.receiver.Lost(nil)
}

func TestCommandsThatAreGoneCloseWhoMayHaveBeenLoggedOut(t *testing.T) {
	layer := &cutOffLayer{MemoryLayer: grouphub.NewMemoryLayer()}
	echo := grouphub.Consumer{Receive: func(c *grouphub.Conn, m grouphub.Message) error { return c.Send(m.Data) }}
	hub := newHub(t, &grouphub.Options{Layer: layer, Consumer: echo})
	other := newHub(t, &grouphub.Options{Layer: layer.MemoryLayer})
	h := grouphub.Authenticate(func(r *http.Request) (grouphub.User, error) {
		return grouphub.User{ID: r.URL.Query().Get("user")}, nil
	})(hub)
	ann, bob, anonymous := hubtest.Dial(t, h, "/?user=ann"), hubtest.Dial(t, h, "/?user=bob"), hubtest.Dial(t, h, "/")
	logout := func(user string) {
		t.Helper()
		if err := other.GroupClose(background, grouphub.UserGroup(user), 4401, "logged out"); err != nil {
			t.Fatal(err)
		}
	}

	// What is kept is done afterwards, and nobody else is closed.
	layer.cut.Store(true)
	logout("ann")
	layer.mend()
	ann.ExpectClose(4401)
	bob.Send("still here")
	bob.Expect("still here")

	// More is said than is kept.
	layer.cut.Store(true)
	logout("bob")
	for range 10_000 {
		logout("somebody")
	}
	layer.mend()
	bob.ExpectClose(1012)
	anonymous.Send("still here")
	anonymous.Expect("still here")
}
