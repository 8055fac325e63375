package grouphub_test

import (
	"net/http"
	"sync"
	"testing"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
)

// The header of a request that nobody has asked for is kept packed.
func TestRequestKeepsItsHeader(t *testing.T) {
	header := http.Header{"X-Test": {"one", "two"}, "Cookie": {"session=1"}}
	check := func(t *testing.T, r *http.Request) {
		if got := r.Header.Values("X-Test"); len(got) != 2 || got[1] != "two" || r.Header.Get("Cookie") != "session=1" ||
			r.Header.Get("Sec-WebSocket-Version") != "13" {
			t.Errorf("got %v", r.Header)
		}
	}
	conns := make(chan *grouphub.Conn, 1)
	t.Run("for who asks in Connect, and looks later", func(t *testing.T) {
		requests := make(chan *http.Request, 1)
		hub := newHub(t, &grouphub.Options{Consumer: grouphub.Consumer{Connect: func(c *grouphub.Conn) error {
			requests <- c.Request()
			conns <- c
			return nil
		}}})
		hubtest.Dial(t, hub, "/", hubtest.WithHeader(header))
		r := <-requests
		check(t, r)
		if c := <-conns; c.Request() != r {
			t.Error("another request")
		}
	})
	t.Run("for many who ask for the first time when Connect is over", func(t *testing.T) {
		hub := newHub(t, &grouphub.Options{Consumer: grouphub.Consumer{Connect: func(c *grouphub.Conn) error {
			conns <- c
			return nil
		}}})
		hubtest.Dial(t, hub, "/", hubtest.WithHeader(header))
		c := <-conns
		var asking sync.WaitGroup
		for range 10 {
			asking.Go(func() { check(t, c.Request()) })
		}
		asking.Wait()
	})
}
