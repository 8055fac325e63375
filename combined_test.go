package grouphub_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"github.com/seed-29c60982/grouphub"
)

// A combinedWorld has two hubs, of which each is shut down now and then, and a state that changes
// by one with each event of a group with history, snapshots and announcements.
type combinedWorld struct {
	t     *testing.T
	layer *grouphub.MemoryLayer
	hubs  [2]atomic.Pointer[grouphub.Hub]

	mu    sync.Mutex
	kinds []string // the type of the event of each value, from 1 on
}

func (w *combinedWorld) value() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.kinds) - 1
}

func (w *combinedWorld) kind(value int) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.kinds[value]
}

func (w *combinedWorld) newHub() *grouphub.Hub {
	return grouphub.New(&grouphub.Options{Layer: w.layer, Logger: quiet(), CloseTimeout: time.Second, MaxPending: 8 << 10,
		Policy: func(group string) grouphub.GroupPolicy {
			if group != "g" {
				return grouphub.GroupPolicy{}
			}
			return grouphub.GroupPolicy{History: 30, Announce: true, Snapshot: func(context.Context, string) (any, error) {
				time.Sleep(rand.N(300 * time.Millisecond))
				if rand.N(10) == 0 {
					return nil, fmt.Errorf("the database is away")
				}
				return w.value(), nil
			}}
		},
		Consumer: grouphub.Consumer{
			Connect: func(c *grouphub.Conn) error { return c.Join("g") },
			Receive: func(c *grouphub.Conn, m grouphub.Message) error {
				return c.SetUser(grouphub.User{ID: string(m.Data), Expires: time.Now().Add(20 * time.Second)})
			},
			Events: grouphub.Events{"snapshot": grouphub.Forward(), "presence": grouphub.Forward(), "plain": grouphub.Forward(), "latest": grouphub.Forward(),
				"call": grouphub.Handle(func(c *grouphub.Conn, e grouphub.Event) error {
					time.Sleep(rand.N(20 * time.Millisecond))
					e.ID = ""
					return c.SendJSON(e)
				})},
		}})
}

// change changes the state and sends it.
func (w *combinedWorld) change() {
	w.mu.Lock()
	defer w.mu.Unlock() // the events are sent in the order of the values
	kind, options := []string{"plain", "latest", "call"}[rand.N(3)], []grouphub.SendOption(nil)
	if kind == "latest" {
		options = append(options, grouphub.Latest("l"))
	}
	w.kinds = append(w.kinds, kind)
	hub := w.hubs[rand.N(2)].Load()
	for {
		err := hub.GroupSend(background, "g", kind, len(w.kinds)-1, options...)
		if err == nil {
			return
		}
		hub = w.hubs[rand.N(2)].Load() // that one is shutting down
	}
}

// A combinedClient comes back whenever its connection ends.
type combinedClient struct {
	w      *combinedWorld
	user   string
	late   bool // it logs in by a message
	stream bool

	mu      sync.Mutex
	value   int
	covered int // what a snapshot had
	id      string
	present map[string]bool // users who are there, as it was told
}

func (c *combinedClient) note(text string, fresh *bool) {
	var e grouphub.Event
	if err := json.Unmarshal([]byte(text), &e); err != nil {
		c.w.t.Errorf("%q: %v", text, err)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if e.ID != "" {
		c.id = e.ID
	}
	var value int
	switch e.Type {
	case "grouphub.position":
	case "presence":
		var n news
		if err := e.Decode(&n); err != nil {
			c.w.t.Error(err)
		}
		if len(n.Members) > 0 {
			c.present = make(map[string]bool)
		}
		for _, m := range slices.Concat(n.Members, n.Joined) {
			c.present[m.User] = true
		}
		for _, m := range n.Left {
			delete(c.present, m.User)
		}
	case "snapshot":
		if err := e.Decode(&value); err != nil || value < c.value {
			c.w.t.Errorf("%s: a snapshot of %d behind %d, %v", c.user, value, c.value, err)
		}
		c.value, c.covered = value, value
	case "plain", "latest", "call":
		if err := e.Decode(&value); err != nil {
			c.w.t.Error(err)
		}
		if value <= c.covered || value <= c.value && e.Type == "call" && *fresh {
			return // the snapshot has it, or its position was lost with the connection
		}
		if value <= c.value {
			c.w.t.Errorf("%s: %s %d behind %d", c.user, e.Type, value, c.value)
		}
		for missing := c.value + 1; missing < value; missing++ {
			if c.w.kind(missing) != "latest" {
				c.w.t.Errorf("%s (stream %v): %d is missing, a %s, before %d", c.user, c.stream, missing, c.w.kind(missing), value)
			}
		}
		c.value, *fresh = value, false
	default:
		c.w.t.Errorf("%s got %s", c.user, text)
	}
}

func (c *combinedClient) run(stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		case <-time.After(rand.N(2 * time.Second)):
		}
		query := url.Values{}
		if !c.late {
			query.Set("user", c.user)
		}
		h := grouphub.Authenticate(func(r *http.Request) (grouphub.User, error) {
			return grouphub.User{ID: r.URL.Query().Get("user"), Expires: time.Now().Add(20 * time.Second)}, nil
		})(c.w.hubs[rand.N(2)].Load())
		if c.stream {
			c.runStream(h, query, stop)
		} else {
			c.runWebSocket(h, query, stop)
		}
	}
}

func (c *combinedClient) runWebSocket(h http.Handler, query url.Values, stop <-chan struct{}) {
	query.Set("resume", "")
	if c.id != "" {
		query.Set("resume", "g@"+c.id)
	}
	near, far := net.Pipe()
	l := pipeListener{far, make(chan net.Conn, 1)}
	l.accept <- far
	close(l.accept)
	go http.Serve(l, h)
	dialer := websocket.Dialer{NetDialContext: func(context.Context, string, string) (net.Conn, error) { return near, nil }}
	conn, _, err := dialer.Dial("ws://example.com/?"+query.Encode(), nil)
	if err != nil {
		return // the hub is shutting down
	}
	done := make(chan struct{})
	defer func() { close(done) }()
	go func() {
		select {
		case <-stop:
		case <-time.After(time.Second + rand.N(40*time.Second)): // the network goes
		case <-done:
		}
		conn.NetConn().Close()
	}()
	if c.late {
		conn.WriteMessage(websocket.TextMessage, []byte(c.user))
	}
	for fresh := true; ; {
		_, text, err := conn.ReadMessage()
		if err != nil {
			return
		}
		if rand.N(50) == 0 {
			time.Sleep(rand.N(3 * time.Second))
		}
		c.note(string(text), &fresh)
	}
}

func (c *combinedClient) runStream(h http.Handler, query url.Values, stop <-chan struct{}) {
	way := throughPipes(h)
	s := &eventSource{t: c.w.t, way: way, lastID: c.id}
	if strings.HasPrefix(s.lastID, "!") {
		s.lastID = ""
	}
	s.connect("http://example.com/?" + query.Encode())
	done := make(chan struct{})
	defer func() { close(done); s.cut() }()
	go func() {
		select {
		case <-stop:
		case <-time.After(time.Second + rand.N(40*time.Second)):
		case <-done:
		}
		s.cut()
	}()
	for fresh := true; ; {
		b, ok := s.next()
		if !ok {
			return
		}
		if !strings.HasPrefix(s.lastID, "!") {
			c.id = s.lastID
		}
		if b.name == "" && b.data != "" {
			id := c.id
			c.note(b.data, &fresh)
			c.id = id
		} else if b.name == "grouphub.close" {
			return
		}
	}
}

// Snapshots, resumes, Latest keys, one order with Handle calls, announcements, sessions that expire and are
// prolonged, logins and Shutdown are all under way at the same time, and each keeps its promises.
func TestAllFeaturesTogetherKeepTheirPromises(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := &combinedWorld{t: t, layer: grouphub.NewMemoryLayer(), kinds: []string{""}}
		defer w.layer.Close()
		for i := range w.hubs {
			w.hubs[i].Store(w.newHub())
		}
		stop, calm := make(chan struct{}), make(chan struct{})
		var clients []*combinedClient
		var running sync.WaitGroup
		for i := range 12 {
			c := &combinedClient{w: w, user: fmt.Sprint("user", i/2), stream: i%3 == 0, late: i%3 == 1, present: make(map[string]bool)}
			clients = append(clients, c)
			running.Go(func() { c.run(stop) })
		}
		var changing sync.WaitGroup
		every := func(most time.Duration, f func()) {
			changing.Go(func() {
				for {
					select {
					case <-calm:
						return
					case <-time.After(rand.N(most)):
						f()
					}
				}
			})
		}
		every(100*time.Millisecond, w.change)
		every(2*time.Second, func() {
			_ = w.hubs[rand.N(2)].Load().Renew(background, fmt.Sprint("user", rand.N(6)), time.Now().Add(30*time.Second))
		})
		every(20*time.Second, func() {
			i := rand.N(2)
			old := w.hubs[i].Swap(w.newHub())
			if err := old.Shutdown(background); err != nil {
				t.Error(err)
			}
		})
		time.Sleep(90 * time.Second)
		close(calm)
		changing.Wait()
		// From here on nothing changes but that connections come and go.
		time.Sleep(time.Minute)
		want := make(map[string]bool)
		for i := range 6 {
			want[fmt.Sprint("user", i)] = true
		}
		for _, c := range clients {
			c.mu.Lock()
			if c.value != w.value() {
				t.Errorf("%s has %d, want %d", c.user, c.value, w.value())
			}
			delete(c.present, "")
			if !maps.Equal(c.present, want) {
				t.Errorf("%s was told of %v", c.user, c.present)
			}
			c.mu.Unlock()
		}
		close(stop)
		running.Wait()
		for i := range w.hubs {
			if err := w.hubs[i].Load().Shutdown(background); err != nil {
				t.Error(err)
			}
		}
		t.Logf("%d changes", w.value())
	})
}
