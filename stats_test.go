package grouphub_test

import (
	"testing"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
)

func TestStatsCount(t *testing.T) {
	hub := newHub(t, &grouphub.Options{Consumer: grouphub.Consumer{
		Connect: joinAll,
		Receive: func(c *grouphub.Conn, m grouphub.Message) error { return c.Send(m.Data) },
		Events:  grouphub.Events{"note": grouphub.Forward()},
	}})
	a, b := hubtest.Dial(t, hub, "/"), hubtest.Dial(t, hub, "/")
	a.Send("x")
	a.Expect("x")
	send(t, hub, "all", "note", 1)
	send(t, hub, "all", "unknown", 1)
	send(t, hub, "all", "note", 2)
	for _, c := range []*hubtest.Client{a, b} {
		c.ExpectEvent("note")
		c.ExpectEvent("note")
	}
	want := grouphub.Stats{Conns: 2, Groups: 1, Accepted: 2, Received: 1, Published: 3, Delivered: 5, Unhandled: 2, LayerUp: true}
	// A frame is counted just after it is pushed.
	eventually(t, func() bool { return hub.Stats() == want }, "Stats are %+v, want %+v", hub.Stats(), want)
}
