package grouphub_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
)

// keeping is a policy by which every group keeps n events.
func keeping(n int) func(string) grouphub.GroupPolicy {
	return func(string) grouphub.GroupPolicy { return grouphub.GroupPolicy{History: n} }
}

// historyHub returns a hub whose groups keep 100 events. A connection joins the group that
// its path names, with the options that its query names.
func historyHub(t testing.TB, layer grouphub.Layer) *grouphub.Hub {
	t.Helper()
	return newHub(t, &grouphub.Options{Layer: layer, Policy: keeping(100), Logger: slog.New(slog.DiscardHandler),
		Consumer: grouphub.Consumer{
			Connect: func(c *grouphub.Conn) error {
				var opts []grouphub.JoinOption
				var n int
				if _, err := fmt.Sscan(c.Request().URL.Query().Get("last"), &n); err == nil {
					opts = append(opts, grouphub.Last(n))
				}
				if id := c.Request().URL.Query().Get("after"); id != "" {
					opts = append(opts, grouphub.After(id))
				}
				return c.Join(strings.Trim(c.Request().URL.Path, "/"), opts...)
			},
			Events: grouphub.Events{"n": grouphub.Forward()},
		}})
}

func expectNumbers(t *testing.T, c *hubtest.Client, from, to int) (last grouphub.Event) {
	t.Helper()
	for i := from; i <= to; i++ {
		last = c.ExpectEvent("n")
		if string(last.Data) != fmt.Sprint(i) || last.ID == "" {
			t.Fatalf("got %s with id %q, want %d", last.Data, last.ID, i)
		}
	}
	return last
}

func sendNumbers(t testing.TB, hub *grouphub.Hub, group string, from, to int) {
	t.Helper()
	for i := from; i <= to; i++ {
		send(t, hub, group, "n", i)
	}
}

func resumeQuery(group, id string) string {
	return "?resume=" + url.QueryEscape(group+"@"+id)
}

// followed are the options of a hub whose connections join g, which keeps 1000 events.
func followed(layer grouphub.Layer) *grouphub.Options {
	return &grouphub.Options{Layer: layer, Policy: keeping(1000), Logger: quiet(), Consumer: grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error { return c.Join("g") },
		Events:  grouphub.Events{"n": grouphub.Forward()},
	}}
}

// A follower is a client that comes back, to any of several servers, and resumes.
type follower struct {
	t        *testing.T
	servers  []*server
	conn     *websocket.Conn
	position string // of the last event, or before the first
	last     int

	mayBeSlow bool // comes back also when it was closed as too slow
}

func (f *follower) dial(query string) {
	f.t.Helper()
	f.conn = f.servers[rand.IntN(len(f.servers))].dial("/g" + query)
}

// cut breaks the connection and makes another.
func (f *follower) cut() {
	f.t.Helper()
	f.conn.NetConn().Close()
	f.dial("?resume=" + url.QueryEscape("g@"+f.position))
}

// read reads an event, and expects the next number.
func (f *follower) read() {
	f.t.Helper()
	var e grouphub.Event
	f.conn.SetReadDeadline(time.Now().Add(30 * time.Second))
	switch err := f.conn.ReadJSON(&e); {
	case websocket.IsCloseError(err, 1013) && f.mayBeSlow:
		f.cut()
	case err != nil:
		f.t.Fatal(err)
	case e.Type == "grouphub.position":
	case e.Group != "g" || string(e.Data) != fmt.Sprint(f.last+1):
		f.t.Fatalf("after %d at %s came %+v", f.last, f.position, e)
	default:
		f.last, f.position = f.last+1, e.ID
	}
}

func follow(t *testing.T, servers ...*server) *follower {
	f := &follower{t: t, servers: servers}
	f.dial("?resume=")
	var e grouphub.Event
	if json.Unmarshal([]byte(next(t, f.conn)), &e); e.Type != "grouphub.position" {
		t.Fatalf("got %+v", e)
	}
	f.position = e.ID
	return f
}

// expectExactlyOnce has a publisher that sends by both hubs in turn and pauses only when it
// is so many events ahead, which the history surely covers, and a client that is cut a
// hundred times and comes back to either hub. It calls settle when the last event was sent. The
// events are of these types in turn, or "n"; with several the client may be too slow.
func expectExactlyOnce(t *testing.T, hubs []*grouphub.Hub, most int, settle func(), events ...string) {
	t.Helper()
	if events == nil {
		events = []string{"n"}
	}
	var servers []*server
	for _, hub := range hubs {
		servers = append(servers, serve(t, hub))
	}
	f := follow(t, servers...)
	f.mayBeSlow = len(events) > 1
	ahead := make(chan struct{}, most)
	stop := make(chan struct{})
	sent := make(chan int, 1)
	go func() {
		for i := 1; ; i++ {
			select {
			case ahead <- struct{}{}:
				send(t, hubs[i%2], "g", events[i%len(events)], i)
			case <-stop:
				sent <- i - 1
				return
			}
		}
	}()
	for range 100 {
		for range rand.IntN(most / 10) {
			before := f.last
			if f.read(); f.last > before {
				<-ahead
			}
		}
		f.cut()
	}
	close(stop)
	total := <-sent
	settle()
	for f.last != total {
		f.read()
	}
	for _, hub := range hubs { // these events are new, and nothing comes before them
		total++
		send(t, hub, "g", "n", total)
		for f.last != total {
			f.read()
		}
		if s := hub.Stats(); s.Resyncs != 0 {
			t.Errorf("%+v", s)
		}
	}
}

func handOver(layer grouphub.Layer, conns chan<- *grouphub.Conn) *grouphub.Options {
	return &grouphub.Options{Layer: layer, Policy: keeping(100), Consumer: grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error { conns <- c; return nil },
		Events:  grouphub.Events{"n": grouphub.Forward()},
	}}
}

// slowToResume returns a connection that is in no group yet, and has missed ten events of
// 100 KiB in group g, of which it takes what is read.
func slowToResume(t *testing.T, hub *grouphub.Hub, conns <-chan *grouphub.Conn) (*websocket.Conn, *grouphub.Conn) {
	t.Helper()
	c := hubtest.Dial(t, hub, "/?resume=")
	if err := (<-conns).Join("g"); err != nil {
		t.Fatal(err)
	}
	id := c.ExpectEvent("grouphub.position").ID
	c.Close()
	for i := range 10 {
		send(t, hub, "g", "n", fmt.Sprint(i, strings.Repeat("x", 100<<10)))
	}
	return dialPipe(t, hub, "/"+resumeQuery("g", id)), <-conns
}

// readSlow reads what slowToResume has missed.
func readSlow(t *testing.T, c *websocket.Conn) {
	t.Helper()
	for i := range 10 {
		if got := next(t, c); !strings.Contains(got[:100], fmt.Sprintf(`"data":"%dx`, i)) {
			t.Errorf("event %d: got %.100s", i, got)
		}
	}
	if got := next(t, c); !strings.Contains(got, "grouphub.position") {
		t.Errorf("got %s", got)
	}
}

// A slowReplay is a connection that is being replayed more than its socket takes, of
// which nothing is read yet.
type slowReplay struct {
	hub    *grouphub.Hub
	conn   *grouphub.Conn
	client *websocket.Conn
	joined chan error // what Join has returned
}

// until reads events up to a message or an event that says so, and returns how often each one came.
func (s *slowReplay) until(t *testing.T, end string) map[string]int {
	t.Helper()
	seen := make(map[string]int)
	for {
		text := next(t, s.client)
		_, data, _ := strings.Cut(text, `"data":"`)
		number, _, _ := strings.Cut(strings.TrimSuffix(data, `"}`), " ")
		if text == end || number == end {
			return seen
		}
		seen[number]++
	}
}

const slowEvents = 150 // of 100 KiB each

func startSlowReplay(t *testing.T) *slowReplay {
	t.Helper()
	s := &slowReplay{joined: make(chan error, 1)}
	conns := make(chan *grouphub.Conn, 1)
	s.hub = newHub(t, &grouphub.Options{Policy: keeping(1000), Consumer: grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error {
			conns <- c
			err := c.Join("g", grouphub.Last(1000))
			s.joined <- err
			return err
		},
		Events: grouphub.Events{"n": grouphub.Forward()},
	}})
	for i := range slowEvents {
		send(t, s.hub, "g", "n", fmt.Sprintf("%d %s", i, strings.Repeat("x", 100<<10)))
	}
	s.client = serve(t, s.hub).dialEarly(websocket.DefaultDialer, "/")
	s.conn = <-conns
	eventually(t, func() bool { return s.hub.Stats().Delivered > 0 }, "the replay has not begun")
	return s
}
