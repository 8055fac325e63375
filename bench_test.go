package grouphub_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
	"github.com/seed-29c60982/grouphub/internal/outbox"
)

// A crowd is members of the group "all" over TCP on loopback, which are read with as
// little effort as there can be.
type crowd struct {
	hub     *grouphub.Hub
	members []net.Conn
	data    json.RawMessage // of the events
	frame   []byte          // what each member gets for one
	want    chan int        // takes a number of frames for each reader
	got     chan error      // and one result of each
	readers int
}

// newCrowd returns members of a hub with nobody else. An event's JSON is 128 bytes.
func newCrowd(t testing.TB, members int) *crowd {
	joined := make(chan struct{}, members)
	c := &crowd{readers: 2, want: make(chan int), got: make(chan error)}
	c.hub = newHub(t, &grouphub.Options{
		Logger: slog.New(slog.DiscardHandler),
		Consumer: grouphub.Consumer{
			Connect: func(c *grouphub.Conn) error {
				defer func() { joined <- struct{}{} }()
				return c.Join("all")
			},
			Events: grouphub.Events{"note": grouphub.Forward()},
		},
	})
	const event = `{"type":"note","group":"all","data":%s}`
	c.data = json.RawMessage(`"` + strings.Repeat("x", 128-len(event)) + `"`)
	c.frame = outbox.NewFrame(outbox.Text, fmt.Appendf(nil, event, c.data), false)

	server := httptest.NewServer(c.hub)
	t.Cleanup(server.Close)
	for range members {
		conn, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		if err := upgradeRaw(conn, "/"); err != nil {
			t.Fatal(err)
		}
		<-joined
		c.members = append(c.members, conn)
	}
	stopped := make(chan struct{})
	for r := range c.readers {
		go func() {
			c.read(r)
			stopped <- struct{}{}
		}()
	}
	t.Cleanup(func() {
		close(c.want)
		for range c.readers {
			<-stopped
		}
	})
	return c
}

// read reads what the members with a share's numbers get.
func (c *crowd) read(share int) {
	var all, buf []byte
	for frames := range c.want {
		if len(all) != frames*len(c.frame) {
			all = bytes.Repeat(c.frame, frames)
			buf = make([]byte, len(all))
		}
		var result error
		// The last member that joined is the last to get its frames. When it has them
		// so do the others, and each costs one read(2) and no wake-up.
		for i := len(c.members) - 1; i >= 0; i-- {
			if i%c.readers != share {
				continue
			}
			if _, err := io.ReadFull(c.members[i], buf); err != nil {
				result = err
			} else if !bytes.Equal(buf, all) {
				result = fmt.Errorf("member %d got %.200q", i, buf)
			}
		}
		c.got <- result
	}
}

// round sends a number of events and returns when every member has all of them.
func (c *crowd) round(t testing.TB, events int) {
	for range events {
		if err := c.hub.GroupSend(background, "all", "note", c.data); err != nil {
			t.Fatal(err)
		}
	}
	for range c.readers {
		c.want <- events
	}
	for range c.readers {
		if err := <-c.got; err != nil {
			t.Fatal(err)
		}
	}
}

// BenchmarkGroupSend sends to 1,000 members over TCP on loopback and waits until all
// of them have read it: an operation is an event, or a burst of them. The time of a
// delivery has both ends in it, which share this machine's processors.
func BenchmarkGroupSend(b *testing.B) {
	const members = 1000
	c := newCrowd(b, members)
	for _, test := range []struct {
		name   string
		events int
	}{{"single", 1}, {"burst of 64", 64}} {
		b.Run(test.name, func(b *testing.B) {
			c.round(b, test.events) // the readers' buffers
			b.ReportAllocs()
			for b.Loop() {
				c.round(b, test.events)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*members*test.events), "ns/delivery")
		})
	}
}

func BenchmarkGroupSendWithoutMembers(b *testing.B) {
	hub := newHub(b, nil)
	message := struct {
		Name string `json:"name"`
		Text string `json:"text"`
	}{"Alice", "deploy in 5 minutes"}
	b.ReportAllocs()
	for b.Loop() {
		if err := hub.GroupSend(background, "room:lobby", "chat.message", message); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkJoinLeave joins and leaves a group that others are in, and one that nobody
// else is in, which the hub subscribes to and unsubscribes from each time.
func BenchmarkJoinLeave(b *testing.B) {
	hub, conns := connections(b, grouphub.Consumer{})
	hubtest.Dial(b, hub, "/")
	if err := (<-conns).Join("shared"); err != nil {
		b.Fatal(err)
	}
	hubtest.Dial(b, hub, "/")
	conn := <-conns
	for _, group := range []string{"shared", "own"} {
		b.Run(group, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := errors.Join(conn.Join(group), conn.Leave(group)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// A send that allocates for each member costs a large group dearly, and no promise is
// broken by it that another test would see.
func TestGroupSendAllocatesNothingPerMember(t *testing.T) {
	const few, many = 10, 1000
	for _, events := range []int{1, 16} {
		t.Run(fmt.Sprint("bursts of ", events), func(t *testing.T) {
			var allocs [2]float64
			for i, members := range []int{few, many} {
				c := newCrowd(t, members)
				allocs[i] = testing.AllocsPerRun(20, func() { c.round(t, events) })
			}
			perMember := (allocs[1] - allocs[0]) / (many - few)
			t.Logf("%.1f allocations for %d members, %.1f for %d: %.4f per member",
				allocs[0], few, allocs[1], many, perMember)
			if perMember >= 0.1 {
				t.Errorf("%.2f allocations per member", perMember)
			}
		})
	}
}
