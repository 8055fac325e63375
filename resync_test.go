package grouphub_test

import (
	"context"
	"log/slog"
	"slices"
	"testing"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
)

// lossyLayer lets a test speak to its one hub as a layer does.
type lossyLayer struct {
	grouphub.Layer
	hub grouphub.Receiver
}

func (l *lossyLayer) Attach(hub string, r grouphub.Receiver) (grouphub.Subscription, error) {
	l.hub = r
	return l.Layer.Attach(hub, r)
}

// Publish delivers to the hub without asking whether there is room, as Redis does.
func (l *lossyLayer) Publish(_ context.Context, p grouphub.Publication) error {
	l.hub.Deliver(p)
	return nil
}

func newLossyLayer() *lossyLayer { return &lossyLayer{Layer: grouphub.NewMemoryLayer()} }

// resyncs returns a Resync that hands over what it is told.
func resyncs() (<-chan []string, func(*grouphub.Conn, []string)) {
	told := make(chan []string, 100)
	return told, func(_ *grouphub.Conn, groups []string) { told <- groups }
}

func TestResyncTellsExactlyTheConnectionsConcerned(t *testing.T) {
	layer := newLossyLayer()
	hub := newHub(t, &grouphub.Options{Layer: layer})
	told, resync := resyncs()
	member := func(resync func(*grouphub.Conn, []string), groups ...string) *hubtest.Client {
		return hubtest.Dial(t, hub.Handler(grouphub.Consumer{
			Connect: func(c *grouphub.Conn) error {
				for _, group := range groups {
					if err := c.Join(group); err != nil {
						return err
					}
				}
				return nil
			},
			Receive: func(c *grouphub.Conn, m grouphub.Message) error { return c.Send(m.Data) },
			Resync:  resync,
		}), "/")
	}
	both, one, other := member(resync, "b", "c", "a"), member(nil, "b"), member(nil, "c")
	stranger := member(resync)

	layer.hub.Lost([]string{"g:b", "g:nobody's", "g:a"})
	one.Expect(`{"type":"resync","group":"b"}`)
	if groups := <-told; !slices.Equal(groups, []string{"a", "b"}) {
		t.Errorf("Resync of %q, want a and b", groups)
	}
	for _, c := range []*hubtest.Client{both, one, other, stranger} {
		c.Send("nothing else")
		c.Expect("nothing else")
	}
	if n := hub.Stats().Resyncs; n != 2 || len(told) > 0 {
		t.Errorf("%d Resyncs, and %d more calls, want 2 and none", n, len(told))
	}
}

func TestEventsForWhichThereIsNoRoomAreToldOnce(t *testing.T) {
	layer := newLossyLayer()
	unblock := make(chan struct{})
	hub := newHub(t, &grouphub.Options{Layer: layer, MaxPending: 4 << 20, Logger: slog.New(slog.DiscardHandler),
		Consumer: grouphub.Consumer{
			Connect: joinAll,
			Events: grouphub.Events{"note": grouphub.Render(func(e grouphub.Event) ([]byte, error) {
				<-unblock
				return []byte("note"), nil
			})},
		}})
	c := hubtest.Dial(t, hub, "/")
	for range 30 { // eight of them, in base64, are a little more than 1 MiB
		send(t, hub, "all", "note", make([]byte, 100_000))
	}
	if n := hub.Stats(); n.Dropped != 22 || n.Resyncs != 0 {
		t.Errorf("%d dropped, %d Resyncs before there is room again, want 22 and none", n.Dropped, n.Resyncs)
	}
	if err := hub.GroupClose(background, "all", 4000, "bye"); err != nil { // a command, not an event
		t.Fatal(err)
	}
	close(unblock)
	var notes, resyncs int
	for range 9 {
		switch m := string(c.Next().Data); m {
		case "note":
			notes++
		case `{"type":"resync","group":"all"}`:
			resyncs++
		default:
			t.Errorf("got %s", m)
		}
	}
	if notes != 8 || resyncs != 1 {
		t.Errorf("%d events and %d Resyncs, want 8 and 1", notes, resyncs)
	}
	c.ExpectClose(4000)
}
