package grouphub_test

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
	"github.com/seed-29c60982/grouphub/internal/redistest"
)

// overBoth runs a test with a WebSocket and with an event stream.
func overBoth(t *testing.T, f func(t *testing.T, opts ...hubtest.DialOption)) {
	t.Run("websocket", func(t *testing.T) { f(t) })
	t.Run("stream", func(t *testing.T) { f(t, hubtest.AsStream()) })
}

func TestOneConsumerServesAnyClient(t *testing.T) {
	overBoth(t, func(t *testing.T, opts ...hubtest.DialOption) {
		left := make(chan int, 1)
		hub := newHub(t, &grouphub.Options{Consumer: grouphub.Consumer{
			Connect: func(c *grouphub.Conn) error {
				c.Set("name", "alice")
				if err := c.Join("room"); err != nil {
					return err
				}
				return c.SendBinary([]byte{0, 1, 2})
			},
			Receive: func(c *grouphub.Conn, m grouphub.Message) error {
				if string(m.Data) == "bye" {
					return &grouphub.CloseError{Code: 4000, Reason: "bye"}
				}
				name, _ := c.Get("name")
				return c.Hub().GroupSend(c.Context(), "room", "note", map[string]any{"from": name, "binary": m.Binary, "text": string(m.Data)})
			},
			Disconnect: func(_ context.Context, c *grouphub.Conn, code int) { left <- code },
			Events:     grouphub.Events{"note": grouphub.Forward()},
		}})
		client := hubtest.Dial(t, hub, "/", opts...)
		client.Expect([]byte{0, 1, 2})
		client.Send("hello\nworld")
		client.Expect(map[string]any{"type": "note", "group": "room", "data": map[string]any{"from": "alice", "binary": false, "text": "hello\nworld"}})
		client.Send([]byte("bytes"))
		client.Expect(map[string]any{"type": "note", "group": "room", "data": map[string]any{"from": "alice", "binary": true, "text": "bytes"}})
		client.Send("bye")
		client.ExpectClose(4000)
		if code := <-left; code != 4000 {
			t.Errorf("Disconnect with %d", code)
		}
	})
}

func TestStreamIsWhatAnAcceptThatNamesItAsksFor(t *testing.T) {
	s := httptest.NewServer(hubOf(t, grouphub.Consumer{}))
	defer s.Close()
	for accept, want := range map[string]int{
		"text/event-stream":                          200,
		"TEXT/Event-Stream":                          200,
		"text/html, text/event-stream;q=0.5":         200,
		"text/event-stream; charset=utf-8":           200,
		"text/event-stream;q=0":                      426,
		"text/event-stream; Q=0.0, application/json": 426,
		"text/*":                          426,
		"*/*":                             426,
		"text/html,application/xml,*/*":   426,
		"text/event-stream-of-mine":       426,
		"application/x-text/event-stream": 426,
	} {
		for method, status := range map[string]int{"GET": want, "HEAD": 426} {
			r, err := http.NewRequest(method, s.URL, nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Accept", accept)
			answer, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			answer.Body.Close()
			if answer.StatusCode != status {
				t.Errorf("%s with Accept: %s is answered by %d, want %d", method, accept, answer.StatusCode, status)
			}
		}
	}
}

// Some proxies speak HTTP/1.0 to the servers behind them.
func TestStreamOverHTTP10(t *testing.T) {
	hub := hubOf(t, noteConsumer)
	s := httptest.NewServer(hub)
	defer s.Close()
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "GET / HTTP/1.0\r\nAccept: text/event-stream\r\n\r\n")
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != 200 || len(answer.TransferEncoding) > 0 || !answer.Close {
		t.Errorf("answered by %+v", answer)
	}
	source := &eventSource{t: t, body: newReader(answer.Body)}
	source.expect("grouphub.open")
	send(t, hub, "all", "note", 1)
	if e := source.event(); e.Type != "note" {
		t.Errorf("got %+v", e)
	}
}

func TestOptionsWithoutAnOriginIsNoPreflight(t *testing.T) {
	hub := hubOf(t, grouphub.Consumer{})
	for _, test := range []struct {
		header string
		status int
	}{{"", 426}, {"Access-Control-Request-Method", 426}} {
		r := httptest.NewRequest("OPTIONS", "/", nil)
		if test.header != "" {
			r.Header.Set(test.header, "POST")
		}
		w := httptest.NewRecorder()
		hub.ServeHTTP(w, r)
		if w.Code != test.status {
			t.Errorf("OPTIONS with %q: %d, want %d", test.header, w.Code, test.status)
		}
	}
}

// streamHub returns a hub whose connections join groups with history, and its URL.
func streamHub(t *testing.T, layer grouphub.Layer, groups ...string) (*grouphub.Hub, string) {
	hub := newHub(t, &grouphub.Options{Layer: layer, Policy: keeping(1000), Logger: quiet(), Consumer: grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error {
			for _, group := range groups {
				if err := c.Join(group); err != nil {
					return err
				}
			}
			return nil
		},
		Events: grouphub.Events{"number": grouphub.Forward()},
	}})
	s := httptest.NewServer(hub)
	t.Cleanup(s.Close)
	return hub, s.URL
}

func TestStreamResumesWithoutALibrary(t *testing.T) {
	hub, url := streamHub(t, nil, "room")
	source := &eventSource{t: t}
	source.connect(url)
	source.expect("grouphub.open")
	source.expect("grouphub.position")
	source.cut() // before its first event
	send(t, hub, "room", "number", 1)
	source.connect(url)
	source.expect("grouphub.open")
	if e := source.event(); string(e.Data) != "1" || e.ID == "" {
		t.Errorf("got %+v, want the event that was missed", e)
	}
	source.expect("grouphub.position")
	send(t, hub, "room", "number", 2)
	if e := source.event(); string(e.Data) != "2" {
		t.Errorf("got %+v, want the live event", e)
	}
}

func TestStreamWithAnInventedCursorGetsAResyncAndNoReplay(t *testing.T) {
	hub, url := streamHub(t, nil, "room", "other")
	send(t, hub, "room", "number", 1)
	send(t, hub, "room", "number", 2)
	for _, id := range []string{"x", "AQ", "AR8cWy8DjwazEz6F", strings.Repeat("A", 5000)} {
		source := &eventSource{t: t, lastID: id}
		source.connect(url)
		source.expect("grouphub.open")
		for _, group := range []string{"room", "other"} {
			if e := source.event(); e.Type != "resync" || e.Group != group {
				t.Errorf("with the cursor %.20q got %+v, want a resync of %s", id, e, group)
			}
			source.expect("grouphub.position")
		}
		source.cut()
	}
}

// An EventSource that is cut at random, also while it is replayed what it missed, and comes
// back to another hub each time, gets every event of fifty groups once and in order.
func TestStreamGetsEveryEventOfManyGroupsOnceAcrossHubs(t *testing.T) {
	t.Parallel()
	layers := map[string]func(t *testing.T) (a, b grouphub.Layer){
		"memory": func(*testing.T) (a, b grouphub.Layer) {
			l := grouphub.NewMemoryLayer()
			return l, l
		},
		"redis": func(t *testing.T) (a, b grouphub.Layer) {
			s := redistest.Start(t)
			return redisLayer(t, s.URL(), nil), redisLayer(t, s.URL(), nil)
		},
	}
	for name, newLayers := range layers {
		t.Run(name, func(t *testing.T) {
			a, b := newLayers(t)
			var groups []string
			for i := range 50 {
				groups = append(groups, fmt.Sprint("group", i))
			}
			hub, one := streamHub(t, a, groups...)
			_, two := streamHub(t, b, groups...)
			urls := []string{one, two}
			source := &eventSource{t: t}
			source.connect(one)
			source.expect("grouphub.open")
			for range groups {
				source.expect("grouphub.position")
			}
			sent, stop := make([]int, len(groups)), make(chan struct{})
			behind := make(chan struct{}, 300*len(groups)) // no more than the history covers
			var publishing sync.WaitGroup
			publishing.Go(func() {
				for i := 0; ; i++ {
					select {
					case <-stop:
						return
					case behind <- struct{}{}:
					}
					sent[i%len(groups)]++
					send(t, hub, groups[i%len(groups)], "number", sent[i%len(groups)])
				}
			})
			got := make(map[string]int)
			take := func() bool {
				b, ok := source.next()
				if !ok || b.name != "" {
					return ok
				}
				var e grouphub.Event
				var n int
				if err := cmp.Or(json.Unmarshal([]byte(b.data), &e), e.Decode(&n)); err != nil || e.Type != "number" || n != got[e.Group]+1 {
					t.Fatalf("got %+v after %d of its group", e, got[e.Group])
				}
				got[e.Group] = n
				<-behind
				return true
			}
			for cut := range 25 {
				for range rand.N(300) {
					if !take() {
						break
					}
				}
				source.cut()
				source.connect(urls[(cut+1)%2])
			}
			close(stop)
			publishing.Wait()
			for i, group := range groups {
				for got[group] < sent[i] {
					if !take() {
						t.Fatalf("the stream ended at %d of %d events", got[group], sent[i])
					}
				}
			}
		})
	}
}

func TestStreamThatLeavesAGroupAndJoinsItAgainIsNotRepeatedWhatItHad(t *testing.T) {
	conns := make(chan *grouphub.Conn, 2)
	hub := newHub(t, &grouphub.Options{Policy: keeping(100), Consumer: grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error {
			conns <- c
			return c.Join("room")
		},
		Events: grouphub.Events{"number": grouphub.Forward()},
	}})
	s := httptest.NewServer(hub)
	defer s.Close()
	source := &eventSource{t: t}
	source.connect(s.URL)
	source.expect("grouphub.open")
	source.expect("grouphub.position")
	<-conns
	source.cut()
	send(t, hub, "room", "number", 1)
	source.connect(s.URL)
	source.expect("grouphub.open")
	if e := source.event(); string(e.Data) != "1" {
		t.Errorf("got %+v", e)
	}
	source.expect("grouphub.position")
	c := <-conns
	if err := c.Leave("room"); err != nil {
		t.Fatal(err)
	}
	send(t, hub, "room", "number", 2) // while it is no member
	if err := c.Join("room"); err != nil {
		t.Fatal(err)
	}
	source.expect("grouphub.position")
	send(t, hub, "room", "number", 3)
	if e := source.event(); string(e.Data) != "3" {
		t.Errorf("got %+v, want what was sent after the second Join", e)
	}
	source.cut()
}
