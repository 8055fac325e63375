package grouphub_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"github.com/seed-29c60982/grouphub"
)

// A pacedClient reads from a WebSocket or an event stream, over a pipe, as many messages as it
// is allowed to, and nothing else.
type pacedClient struct {
	stream bool
	allow  chan struct{}
	ended  chan struct{}
	close  func()

	mu   sync.Mutex
	read []pacedEvent
	id   string // to come back with
	more int    // how many events it has read behind the one of that id
}

// A pacedEvent is what a client has read: an event's number, or a Resync.
type pacedEvent struct {
	number int
	resync bool
	direct bool // a Handle has sent it
}

// dialPaced connects. A client that comes back has an id.
func dialPaced(t *testing.T, h http.Handler, stream bool, id string) *pacedClient {
	c := &pacedClient{stream: stream, allow: make(chan struct{}, 1_000_000), ended: make(chan struct{}), id: id}
	var next func() (text, id string, err error)
	if stream {
		next, c.close = dialPipeStream(t, h, id)
	} else {
		query := "/?resume="
		if id != "" {
			query += url.QueryEscape("g@" + id)
		}
		conn := dialPipe(t, h, query)
		next = func() (string, string, error) {
			_, data, err := conn.ReadMessage()
			return string(data), "", err
		}
		c.close = func() { conn.NetConn().Close() }
	}
	go func() {
		defer close(c.ended)
		for range c.allow {
			text, id, err := next()
			if err != nil {
				if websocket.IsCloseError(err, 1013) {
					t.Error(err)
				}
				return
			}
			c.note(text, id)
		}
	}()
	return c
}

// mayRead allows the client to read so many messages more; none at all, if it is negative.
func (c *pacedClient) mayRead(n int) {
	for range n {
		c.allow <- struct{}{}
	}
	for n < 0 && len(c.allow) > 0 {
		<-c.allow
	}
}

// note notes a message, and the id of a stream's block.
func (c *pacedClient) note(text, id string) {
	var e struct {
		Type, ID string
		Data     struct{ N int }
		Direct   bool
	}
	json.Unmarshal([]byte(text), &e) // an empty text is no event
	c.mu.Lock()
	defer c.mu.Unlock()
	switch e.Type {
	case "resync":
		c.read = append(c.read, pacedEvent{resync: true})
		c.more++
	case "n", "r", "h":
		c.read = append(c.read, pacedEvent{number: e.Data.N, direct: e.Direct})
		c.more++
	}
	switch {
	case !c.stream && e.ID != "":
		c.id, c.more = e.ID, 0
	case id != "": // of what a Handle sends on a stream, a block of its own that follows tells the cursor
		c.id, c.more = id, 0
	}
}

func (c *pacedClient) has(number int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.read {
		if e.number == number {
			return true
		}
	}
	return false
}

// canComeBack reports whether the client knows where it is.
func (c *pacedClient) canComeBack() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.id != ""
}

// cut ends the connection, and returns what was read of it. A client that comes back with the
// id gets again what it has read behind that.
func (c *pacedClient) cut() (read []pacedEvent, id string) {
	c.close()
	close(c.allow)
	<-c.ended
	return c.read, c.id
}

// dialPipeStream asks for an event stream through a pipe.
func dialPipeStream(t *testing.T, h http.Handler, id string) (next func() (text, id string, err error), end func()) {
	near, far := net.Pipe()
	l := pipeListener{far, make(chan net.Conn, 1)}
	l.accept <- far
	close(l.accept)
	go http.Serve(l, h)
	request := "GET / HTTP/1.1\r\nHost: example.com\r\nAccept: text/event-stream\r\n"
	if id != "" {
		request += "Last-Event-ID: " + id + "\r\n"
	}
	if _, err := io.WriteString(near, request+"\r\n"); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(near)
	for line := ""; line != "\r\n"; {
		var err error
		if line, err = r.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	next = func() (text, id string, err error) {
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				return "", "", err
			}
			field, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
			switch {
			case line == "\n":
				return text, id, nil
			case field == "data":
				text += value
			case field == "id":
				id = value
			}
		}
	}
	return next, func() { near.Close() }
}

// A latestModel sends events at random to a group with one member that reads at random, and
// knows what that must have got in the end.
type latestModel struct {
	t      *testing.T
	r      *rand.Rand
	hub    *grouphub.Hub
	stream bool
	client *pacedClient
	read   []pacedEvent // by earlier connections
	conns  chan *grouphub.Conn
	conn   *grouphub.Conn
	sent   []modelEvent
	cuts   bool // and then nobody is excepted, since a client that comes back has another channel
}

type modelEvent struct {
	event    string
	key      string
	excepted bool
}

func (m *latestModel) send(event, key string, size int) {
	e := modelEvent{event, key, false}
	var opts []grouphub.SendOption
	if key != "" {
		opts = append(opts, grouphub.Latest(key))
	}
	if !m.cuts && m.r.IntN(10) == 0 {
		e.excepted = true
		opts = append(opts, grouphub.Except(m.conn.Channel()))
	}
	m.sent = append(m.sent, e)
	data := map[string]any{"n": len(m.sent), "pad": strings.Repeat("x", size)}
	send(m.t, m.hub, "g", event, data, opts...)
}

// cut breaks the connection, and comes back.
func (m *latestModel) cut(reconnect bool) {
	read, id := m.client.cut()
	if reconnect {
		read = read[:len(read)-m.client.more]
	}
	m.read = append(m.read, read...)
	synctest.Wait()
	if reconnect {
		m.client = dialPaced(m.t, m.hub, m.stream, id)
		m.conn = <-m.conns
	}
}

// check compares what was read with what was sent.
func (m *latestModel) check(oneOrder bool) {
	t := m.t
	last := make(map[string]int) // the last number of each key
	for i, e := range m.sent {
		if e.key != "" && !e.excepted {
			last[e.key] = i + 1
		}
	}
	at := make(map[int]int) // where a number was read
	highest := make(map[bool]int)
	for i, e := range m.read {
		if e.resync {
			continue
		}
		of := e.direct && !oneOrder
		if e.number <= highest[of] {
			t.Errorf("%d is read after %d", e.number, highest[of])
		}
		highest[of] = e.number
		at[e.number] = i + 1
		if m.sent[e.number-1].excepted {
			t.Errorf("%d is read, which this connection is excepted from", e.number)
		}
	}
	for i, e := range m.sent {
		n := i + 1
		if e.excepted || at[n] > 0 || e.key != "" && last[e.key] != n {
			continue
		}
		if !m.resyncFor(n, e.event == "h", oneOrder) {
			t.Errorf("%d (%+v) is missing, and no Resync tells of it", n, e)
		}
	}
}

// resyncFor reports whether a Resync comes before anything that was sent after a number, and
// that has an order with it.
func (m *latestModel) resyncFor(number int, direct, oneOrder bool) bool {
	found := false
	for _, e := range m.read {
		switch {
		case !e.resync && !oneOrder && e.direct != direct:
		case e.resync:
			found = true
		case e.number < number:
			found = false
		default:
			return found
		}
	}
	return found
}

func TestLatestWinsAsItsModelSays(t *testing.T) {
	for _, history := range []int{0, 10_000} {
		for _, stream := range []bool{false, true} {
			for _, pending := range []int{1 << 20, 20_000} {
				t.Run(fmt.Sprintf("history %d, stream %v, MaxPending %d", history, stream, pending), func(t *testing.T) {
					t.Parallel()
					var superseded, resyncs uint64
					for seed := range uint64(12) {
						synctest.Test(t, func(t *testing.T) {
							s := testLatestModel(t, seed, history, stream, pending)
							superseded, resyncs = superseded+s.Superseded, resyncs+s.Resyncs
						})
						if t.Failed() {
							t.Fatalf("seed %d", seed)
						}
					}
					if superseded == 0 || (resyncs == 0) != (pending == 1<<20) {
						t.Errorf("%d superseded, %d Resyncs: the model did not get where it should", superseded, resyncs)
					}
				})
			}
		}
	}
}

func testLatestModel(t *testing.T, seed uint64, history int, stream bool, pending int) grouphub.Stats {
	r := rand.New(rand.NewPCG(seed, uint64(history+pending)))
	m := &latestModel{t: t, r: r, stream: stream, conns: make(chan *grouphub.Conn, 1), cuts: history > 0 && seed%2 == 0}
	handles := r.IntN(2) == 0 // with them, more has an order in groups with history
	render := func(e grouphub.Event) ([]byte, error) { return json.Marshal(e) }
	events := grouphub.Events{"n": grouphub.Forward(), "r": grouphub.Render(render)}
	if handles {
		events["h"] = grouphub.Handle(func(c *grouphub.Conn, e grouphub.Event) error {
			return c.SendWait(c.Context(), fmt.Appendf(nil, `{"type":"h","id":%q,"data":%s,"direct":true}`, e.ID, e.Data))
		})
	}
	m.hub = newHub(t, &grouphub.Options{
		Policy: keeping(history), MaxPending: pending, Logger: quiet(), Compression: r.IntN(2) == 0, PingInterval: time.Hour, PongTimeout: 2 * time.Hour, WriteTimeout: time.Hour,
		Consumer: grouphub.Consumer{Events: events, Connect: func(c *grouphub.Conn) error {
			m.conns <- c
			return c.Join("g")
		}},
	})
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
		defer cancel()
		m.hub.Shutdown(ctx)
	}()
	m.client = dialPaced(t, m.hub, stream, "")
	m.conn = <-m.conns
	types := []string{"n", "r", "h"}[:2]
	if handles {
		types = append(types, "h")
	}
	keys, plain := 1+r.IntN(10), 0
	if pending < 100_000 {
		keys *= 20 // so that more keys wait than may
	}
	for range 300 {
		switch op := r.IntN(20); {
		case op < 12:
			m.send(types[r.IntN(len(types))], fmt.Sprint("key ", r.IntN(keys)), r.IntN(1000))
		case op < 15 && plain < pending/500:
			plain++
			m.send(types[r.IntN(len(types))], "", r.IntN(100))
		case op < 18:
			for range r.IntN(10) {
				m.client.allow <- struct{}{}
			}
		case op == 18:
			synctest.Wait()
		case m.cuts && r.IntN(5) == 0:
			synctest.Wait()
			if m.client.canComeBack() {
				m.cut(true)
			}
		}
	}
	if seed == 1 && pending < 100_000 { // or else it depends on who is faster whether more keys wait than may
		m.client.mayRead(-1)
		for key := range pending / 500 {
			m.send("n", fmt.Sprint("another key ", key), 1000)
		}
	}
	for len(m.client.allow) < 10_000 {
		m.client.allow <- struct{}{}
	}
	synctest.Wait()
	time.Sleep(time.Minute)
	m.cuts = true // so that nobody is excepted
	m.send("n", "", 0)
	time.Sleep(time.Minute)
	if !m.client.has(len(m.sent)) {
		t.Errorf("the last event has not come: %+v", m.hub.Stats())
	}
	m.cut(false)
	m.check(history > 0)
	s := m.hub.Stats()
	if s.SlowClosed != 0 {
		t.Errorf("%+v", s)
	}
	if pending == 1<<20 && (s.Resyncs > 0 || s.Dropped > 0 && history == 0) {
		t.Errorf("%+v", s)
	}
	return s
}
