package model_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/e2e/eventsource"
)

// kinds are the consumers that clients are served by, and how.
var kinds = []string{"forward", "render", "handle", "mixed", "turned", "stream"}

// route serves each consumer under its name. A stream is served as forward is.
func route(hub *grouphub.Hub, consumers map[string]grouphub.Events) http.Handler {
	mux := http.NewServeMux()
	for name, events := range consumers {
		mux.Handle("/"+name, hub.Handler(grouphub.Consumer{Connect: joinAll, Events: events}))
	}
	return mux
}

func joinAll(c *grouphub.Conn) error {
	for _, group := range groups {
		if err := c.Join(group); err != nil {
			return err
		}
	}
	return nil
}

// A client is a page that comes back when its connection ends. At times it is loaded anew,
// and at times it reads slowly.
type client struct {
	w      *world
	name   string
	kind   string
	strict bool // events come in the order of their versions

	mu    sync.Mutex
	state map[string]map[string]int // of the groups of which it has a snapshot, or more
	ids   map[string]string         // by group; of a WebSocket

	source eventsource.Source
}

// run lives until stop is closed.
func (c *client) run(stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		default:
		}
		if !c.w.calm.Load() && c.w.dice.below(4) == 0 || c.state == nil {
			c.loadAnew()
		}
		if c.kind == "stream" {
			c.runStream(stop)
		} else {
			c.runWebSocket(stop)
		}
		c.w.dice.pause(30 * time.Millisecond)
	}
}

func (c *client) loadAnew() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.state, c.ids = make(map[string]map[string]int), make(map[string]string)
	c.source.LastID = ""
}

// cutAfter cuts the connection after a while, if there are still faults, and at the end.
func (c *client) cutAfter(stop <-chan struct{}, cut func()) (done func()) {
	over := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		life := time.NewTimer(c.w.dice.upTo(800 * time.Millisecond))
		defer life.Stop()
		for {
			select {
			case <-life.C:
				if !c.w.calm.Load() {
					cut()
					return
				}
				life.Reset(c.w.dice.upTo(800 * time.Millisecond))
			case <-stop:
				cut()
				return
			case <-over:
				return
			}
		}
	})
	return func() {
		close(over)
		watching.Wait()
	}
}

// dawdle is how a client reads slowly.
func (c *client) dawdle() {
	if !c.w.calm.Load() && c.w.dice.below(200) == 0 {
		c.w.dice.pause(500 * time.Millisecond)
	}
}

func (c *client) runWebSocket(stop <-chan struct{}) {
	query := url.Values{}
	c.mu.Lock()
	for group, id := range c.ids {
		query.Add("resume", group+"@"+id)
	}
	c.mu.Unlock()
	if len(query) == 0 {
		query.Set("resume", "")
	}
	target := "ws" + strings.TrimPrefix(c.w.anySite().server.URL, "http") + "/" + c.kind + "?" + query.Encode()
	dialer := websocket.Dialer{HandshakeTimeout: patience, ReadBufferSize: 4 << 10}
	conn, _, err := dialer.Dial(target, nil)
	if err != nil {
		return
	}
	defer conn.Close()
	defer c.cutAfter(stop, func() { conn.NetConn().Close() })()
	for {
		_, data, err := conn.ReadMessage()
		if err != nil {
			return
		}
		c.take(data)
		c.dawdle()
	}
}

func (c *client) runStream(stop <-chan struct{}) {
	if c.source.Connect(c.w.anySite().server.URL+"/forward") != nil {
		return
	}
	defer c.source.Cut()
	defer c.cutAfter(stop, c.source.Cut)()
	for {
		text, err := c.source.NextEvent()
		if err != nil {
			return
		}
		c.take([]byte(text))
		c.dawdle()
	}
}

// take applies a message to the state, as a page does.
func (c *client) take(data []byte) {
	var e grouphub.Event
	if err := json.Unmarshal(data, &e); err != nil {
		c.w.violation("%s: %v in %.200s", c.name, err, data)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if e.ID != "" {
		c.ids[e.Group] = e.ID
	}
	state := c.state[e.Group]
	switch e.Type {
	case "grouphub.position":
	case "snapshot":
		loaded := make(map[string]int)
		if err := e.Decode(&loaded); err != nil {
			c.w.violation("%s: %v", c.name, err)
		}
		for key, version := range state {
			if loaded[key] < version { // whatever the client has was in the database before
				c.w.violation("%s: a snapshot of %s has version %d of %s, and an event before it had %d", c.name, e.Group, loaded[key], key, version)
			}
		}
		c.state[e.Group] = loaded
	case "set":
		var change change
		if err := e.Decode(&change); err != nil {
			c.w.violation("%s: %v", c.name, err)
		}
		if state == nil {
			c.w.violation("%s: an event of %s before its snapshot", c.name, e.Group)
			return
		}
		if c.strict || change.Version > state[change.Key] {
			state[change.Key] = change.Version
		}
	default:
		c.w.violation("%s: got %.200s", c.name, data)
	}
}

// differs says in what the client's state is not the database's.
func (c *client) differs() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, group := range groups {
		if want := c.w.db.read(group); !maps.Equal(c.state[group], want) {
			return errors.New(fmt.Sprint(c.name, " has of ", group, " ", c.state[group], ", and the database ", want))
		}
	}
	return nil
}
