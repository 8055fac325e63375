package grouphub_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
)

func TestSendBinaryAndText(t *testing.T) {
	hub := hubOf(t, grouphub.Consumer{
		Receive: func(c *grouphub.Conn, m grouphub.Message) error {
			if m.Binary {
				return c.SendBinary(m.Data)
			}
			return c.Send(m.Data)
		},
	})
	c := hubtest.Dial(t, hub, "/")
	for _, size := range []int{0, 1, 125, 126, 65535, 65536} {
		data := strings.Repeat("x", size)
		c.Send(data)
		c.Expect(data)
		c.Send([]byte(data))
		if m := c.Next(); !m.Binary || string(m.Data) != data {
			t.Errorf("%d bytes: got %d, binary %v", size, len(m.Data), m.Binary)
		}
	}
}

func TestSendDoesNotKeepTheSlice(t *testing.T) {
	hub := hubOf(t, grouphub.Consumer{Connect: func(c *grouphub.Conn) error {
		data := []byte("one")
		defer copy(data, "XXX")
		return c.Send(data)
	}})
	hubtest.Dial(t, hub, "/").Expect("one")
}

func TestCloseRefusesCodesThatAFrameCannotCarry(t *testing.T) {
	errs := make(chan error, 10)
	hub := hubOf(t, grouphub.Consumer{Connect: func(c *grouphub.Conn) error {
		for _, code := range []int{0, 999, 1004, 1005, 1006, 1015, 2999, 5000} {
			errs <- c.Close(code, "")
		}
		errs <- c.Close(1000, strings.Repeat("x", 124))
		errs <- c.Close(1000, "\xff")
		return c.Send([]byte("still open"))
	}})
	c := hubtest.Dial(t, hub, "/")
	for range 10 {
		if err := <-errs; err == nil {
			t.Error("a bad close was accepted")
		}
	}
	c.Expect("still open")
}

func TestCloseSendsWhatWaitsFirst(t *testing.T) {
	hub := hubOf(t, grouphub.Consumer{Connect: func(c *grouphub.Conn) error {
		for i := range 100 {
			if err := c.Send(fmt.Append(nil, i, strings.Repeat("x", 10_000))); err != nil {
				return err
			}
		}
		if err := c.Close(4000, "done"); err != nil {
			return err
		}
		if err := c.Close(4001, "again"); !errors.Is(err, grouphub.ErrClosed) {
			t.Errorf("second Close: %v", err)
		}
		if err := c.Send([]byte("late")); !errors.Is(err, grouphub.ErrClosed) {
			t.Errorf("Send after Close: %v", err)
		}
		return nil
	}})
	c := serve(t, hub).dial("/")
	for i := range 100 {
		if got := next(t, c); !strings.HasPrefix(got, fmt.Sprint(i)+"x") {
			t.Fatalf("message %d is %.10q", i, got)
		}
	}
	wantClose(t, c, 4000)
}

func TestPathValueOfANameThatTheRouteDoesNotHaveIsLoggedOnce(t *testing.T) {
	logger, logged := logAll()
	values := make(chan string, 3)
	hub := newHub(t, &grouphub.Options{Logger: logger, Consumer: grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error {
			values <- c.PathValue("room")
			values <- c.PathValue("room")
			values <- c.PathValue("rest")
			return nil
		},
	}})
	mux := http.NewServeMux()
	mux.Handle("GET /all/{room}/{rest...}", hub)
	mux.Handle("GET /set/", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { // another router
		r.SetPathValue("room", "set")
		r.SetPathValue("rest", "too")
		hub.ServeHTTP(w, r)
	}))
	mux.Handle("GET /room/{room}", hub)
	for _, test := range []struct {
		path   string
		values [3]string
		errors int // in all
	}{
		{"/all/lobby/", [3]string{"lobby", "lobby", ""}, 0}, // where that is the value
		{"/set/", [3]string{"set", "set", "too"}, 0},
		{"/room/lobby", [3]string{"lobby", "lobby", ""}, 1},
		{"/room/lobby", [3]string{"lobby", "lobby", ""}, 1},
	} {
		hubtest.Dial(t, mux, test.path)
		if got := [3]string{<-values, <-values, <-values}; got != test.values {
			t.Errorf("%s: %q, want %q", test.path, got, test.values)
		}
		eventually(t, func() bool { return strings.Count(logged.String(), "level=ERROR") == test.errors }, "%s: logged %s", test.path, logged)
	}
	hubtest.Dial(t, hub, "/lobby") // a router that says nothing
	<-values
	eventually(t, func() bool { return strings.Count(logged.String(), "level=ERROR") == 2 }, "logged %s", logged)
	if text := logged.String(); !strings.Contains(text, "name=rest") || !strings.Contains(text, "name=room") || !strings.Contains(text, "SetPathValue") {
		t.Errorf("logged %s", text)
	}
}

func TestInSaysWhetherTheConnectionIsAMember(t *testing.T) {
	atEnd := make(chan bool, 1)
	hub, conns := connections(t, grouphub.Consumer{Disconnect: func(_ context.Context, c *grouphub.Conn, _ int) {
		atEnd <- c.In("all") && !c.In("other")
	}})
	client := hubtest.Dial(t, hub, "/", hubtest.WithUser(grouphub.User{ID: "ann"}))
	c := <-conns
	if c.In("all") || !c.In(grouphub.UserGroup("ann")) {
		t.Error("before the Join")
	}
	for _, group := range []string{"all", "other"} {
		if err := c.Join(group); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Leave("other"); err != nil || !c.In("all") || c.In("other") {
		t.Error("after the Leave", err)
	}
	client.Close()
	if !<-atEnd {
		t.Error("in Disconnect it is not what it was at the end")
	}
}

func TestConnsYieldsThisHubsConnections(t *testing.T) {
	layer := grouphub.NewMemoryLayer()
	hub, other := newHub(t, &grouphub.Options{Layer: layer}), newHub(t, &grouphub.Options{Layer: layer})
	hubtest.Dial(t, other, "/")
	clients := []*hubtest.Client{hubtest.Dial(t, hub, "/"), hubtest.Dial(t, hub, "/", hubtest.AsStream())}
	streams := 0
	for c := range hub.Conns() {
		c.Set("seen", true)
		if c.Stream() {
			streams++
		}
		if err := c.Send([]byte("hello")); err != nil {
			t.Error(err)
		}
	}
	for _, c := range clients {
		c.Expect("hello")
	}
	if streams != 1 {
		t.Errorf("%d streams", streams)
	}
	for range hub.Conns() {
		break
	}
	clients[0].Close()
	eventually(t, func() bool { return len(slices.Collect(hub.Conns())) == 1 }, "the connection that has ended is still there")
}
