package grouphub_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
	"github.com/seed-29c60982/grouphub/internal/frame"
)

// A path is a way by which an event comes to a client.
type path struct {
	name    string
	handler grouphub.EventHandler
	options grouphub.Options // Compression and Policy
	except  bool             // the member that joined first does not get it
	frame   func(data json.RawMessage, text []byte) []byte
}

func plainText(_ json.RawMessage, text []byte) []byte {
	return frame.New(frame.Text, text, false)
}
func plainData(data json.RawMessage, _ []byte) []byte {
	return frame.New(frame.Text, data, false)
}

// sharedPaths are those where the members share all that is built for an event.
var sharedPaths = []path{
	{name: "Forward", handler: grouphub.Forward(), frame: plainText},
	{name: "Render", frame: plainData,
		handler: grouphub.Render(func(e grouphub.Event) ([]byte, error) { return e.Data, nil })},
	{name: "Compression", handler: grouphub.Forward(), options: grouphub.Options{Compression: true},
		frame: func(_ json.RawMessage, text []byte) []byte { return frame.New(frame.Text, text, true) }},
	// Each frame differs from the others by its ID.
	{name: "history", handler: grouphub.Forward(), options: grouphub.Options{Policy: keeping(100)}},
	{name: "Except", handler: grouphub.Forward(), frame: plainText, except: true},
}

// otherPaths are those where something is done for each member.
var otherPaths = []path{
	{name: "Handle", frame: plainData,
		handler: grouphub.Handle(func(c *grouphub.Conn, e grouphub.Event) error { return c.Send(e.Data) })},
}

// A crowd is the members of the group "all". They are connected by TCP on loopback, and are
// read with as little effort as possible.
type crowd struct {
	hub     *grouphub.Hub
	members []net.Conn      // the clients' sides of the connections
	data    json.RawMessage // of the events
	opts    []grouphub.SendOption
	frame   []byte     // what each member gets for one; nil if it differs
	want    chan int   // takes, for each reader, how many frames to read
	got     chan error // has one result of each reader
	readers int
}

// newCrowd returns members of a hub with nobody else. An event's JSON is 128 bytes, and
// that of a path with history a little more.
func newCrowd(t testing.TB, members int, p path) *crowd {
	joined := make(chan string, members)
	c := &crowd{readers: 2, want: make(chan int), got: make(chan error, 2)}
	p.options.Logger = slog.New(slog.DiscardHandler)
	p.options.PingInterval = time.Hour // so that nothing comes but events
	p.options.Consumer = grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error {
			defer func() { joined <- c.Channel() }()
			return c.Join("all")
		},
		Events: grouphub.Events{"note": p.handler},
	}
	c.hub = newHub(t, &p.options)
	const event = `{"type":"note","group":"all","data":%s}`
	c.data = json.RawMessage(`"` + strings.Repeat("x", 128-len(event)) + `"`)
	if p.frame != nil {
		c.frame = p.frame(c.data, fmt.Appendf(nil, event, c.data))
	}

	server := httptest.NewServer(c.hub)
	t.Cleanup(server.Close)
	for i := range members {
		conn, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		if err := upgradeRaw(conn, "/", "Sec-WebSocket-Extensions: permessage-deflate"); err != nil {
			t.Fatal(err)
		}
		if channel := <-joined; i == 0 && p.except {
			c.opts = append(c.opts, grouphub.Except(channel))
			continue
		}
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

// read reads what a share of the members get.
func (c *crowd) read(share int) {
	var all, buf []byte
	r := bufio.NewReader(nil)
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
			if c.frame == nil {
				r.Reset(c.members[i])
				if err := skipFrames(r, frames); err != nil {
					result = err
				}
			} else if _, err := io.ReadFull(c.members[i], buf); err != nil {
				result = err
			} else if !bytes.Equal(buf, all) {
				result = fmt.Errorf("member %d got %.200q", i, buf)
			}
		}
		c.got <- result
	}
}

// skipFrames reads a number of text frames of less than 64 KiB, and nothing beyond them.
func skipFrames(r *bufio.Reader, frames int) error {
	for range frames {
		header, err := r.Peek(2)
		if err != nil {
			return err
		}
		size := 2 + int(header[1])
		if header[0]&0xf != frame.Text || size > 2+126 {
			return fmt.Errorf("a frame begins with %x", header)
		}
		if size == 2+126 {
			if header, err = r.Peek(4); err != nil {
				return err
			}
			size = 4 + int(binary.BigEndian.Uint16(header[2:]))
		}
		if _, err := r.Discard(size); err != nil {
			return err
		}
	}
	if n := r.Buffered(); n > 0 {
		return fmt.Errorf("%d bytes follow", n)
	}
	return nil
}

// round sends a number of events and returns when every member has all of them.
func (c *crowd) round(t testing.TB, events int) {
	for range events {
		if err := c.hub.GroupSend(background, "all", "note", c.data, c.opts...); err != nil {
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
	for _, p := range slices.Concat(sharedPaths, otherPaths) {
		b.Run(p.name, func(b *testing.B) {
			c := newCrowd(b, members, p)
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

// BenchmarkEcho is one message from a client and its answer.
func BenchmarkEcho(b *testing.B) {
	conn := dialRaw(b, hubOf(b, grouphub.Consumer{
		Receive: func(c *grouphub.Conn, m grouphub.Message) error { return c.Send(m.Data) },
	}))
	message := strings.Repeat("x", 100)
	frame := masked(0x81, message)
	answer := make([]byte, 2+len(message))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := conn.Write(frame); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(conn, answer); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkJoinWithReplay joins a group that others are in, until the client has read
// 100 events of its history.
func BenchmarkJoinWithReplay(b *testing.B) {
	const events = 100
	conns := make(chan *grouphub.Conn, 2)
	hub := newHub(b, &grouphub.Options{Policy: keeping(events), Consumer: grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error { conns <- c; return nil },
		Events:  grouphub.Events{"note": grouphub.Forward()},
	}})
	hubtest.Dial(b, hub, "/")
	if err := (<-conns).Join("all"); err != nil {
		b.Fatal(err)
	}
	r := bufio.NewReader(dialRaw(b, hub))
	conn := <-conns
	for range events {
		send(b, hub, "all", "note", strings.Repeat("x", 100))
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := conn.Join("all", grouphub.Last(events)); err != nil {
			b.Fatal(err)
		}
		if err := skipFrames(r, events); err != nil {
			b.Fatal(err)
		}
		if err := conn.Leave("all"); err != nil {
			b.Fatal(err)
		}
	}
}

// A send that allocates for each member costs a large group dearly, and no promise is
// broken by it that another test would see.
func TestGroupSendAllocatesNothingPerMember(t *testing.T) {
	const few, many = 10, 300
	for _, p := range sharedPaths {
		t.Run(p.name, func(t *testing.T) {
			small, large := newCrowd(t, few, p), newCrowd(t, many, p)
			for _, events := range []int{1, 16} {
				measure := func(c *crowd) float64 {
					return testing.AllocsPerRun(10, func() { c.round(t, events) })
				}
				forFew, forMany := measure(small), measure(large)
				perMember := (forMany - forFew) / (many - few)
				t.Logf("bursts of %d: %.1f allocations for %d members, %.1f for %d: %.4f per member",
					events, forFew, few, forMany, many, perMember)
				if perMember >= 0.2 { // the deflaters' pool loses some when the race detector runs
					t.Errorf("%.2f allocations per member in bursts of %d", perMember, events)
				}
			}
		})
	}
}
