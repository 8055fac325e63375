package grouphub_test

import (
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
)

func TestResyncTellsExactlyTheConnectionsConcerned(t *testing.T) {
	layer := newBluntLayer()
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

	layer.receiver.Lost([]string{"g:b", "g:nobody's", "g:a"})
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
	t.Parallel()
	layer := newBluntLayer()
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

func TestGarbageFromTheLayerIsCountedAndLoggedOnce(t *testing.T) {
	var logged safeBuffer
	layer := grouphub.NewMemoryLayer()
	hub := newHub(t, &grouphub.Options{Layer: layer, Consumer: noteConsumer, Logger: slog.New(slog.NewTextHandler(&logged, nil))})
	c := hubtest.Dial(t, hub, "/")
	const event = "\x01\x01\x04note\x00\x00\x0f\x1a" + `{"type":"note","data":"x"}`
	for range 3 {
		for _, payload := range []string{"", "\x01", "\x03\x01newer", "\x01\x63unknown kind", "\x01\x01\xff\xff\xff\xff\x7f",
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
	for _, fault := range []string{"truncated", "version 3", "unknown kind", "not UTF-8"} {
		eventually(t, func() bool { return strings.Count(logged.String(), fault) == 1 }, "%q is not logged once", fault)
	}
}

func TestBadCloseFromTheLayerIsRefused(t *testing.T) {
	layer := grouphub.NewMemoryLayer()
	defer layer.Close()
	hub := newHub(t, &grouphub.Options{Layer: layer, Consumer: noteConsumer, Logger: slog.New(slog.DiscardHandler)})
	c := serve(t, hub).dial("/")
	// version 1, kind close, no name, no channel, no exceptions, code 1005.
	layer.Publish(background, grouphub.Publication{Topic: "g:all", Payload: []byte{1, 2, 0, 0, 0, 0xed, 0x07}})
	send(t, hub, "all", "note", 1)
	wantNext(t, c, `{"type":"note","group":"all","data":1}`)
}
