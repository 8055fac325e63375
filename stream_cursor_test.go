package grouphub_test

import (
	"encoding/base64"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-29c60982/grouphub"
)

// joining returns a hub whose connections arrive on the channel and join groups with history.
func joining(t *testing.T, join func(c *grouphub.Conn) error) (*grouphub.Hub, <-chan *grouphub.Conn) {
	conns := make(chan *grouphub.Conn, 10)
	hub := newHub(t, &grouphub.Options{Policy: keeping(100), Logger: quiet(), Consumer: grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error {
			conns <- c
			return join(c)
		},
		Events: grouphub.Events{"number": grouphub.Forward()},
	}})
	return hub, conns
}

func TestGroupThatIsNewToAStreamThatResumesIsJoinedAsItsOptionsSay(t *testing.T) {
	hub, conns := joining(t, func(c *grouphub.Conn) error { return c.Join("room") })
	s := httptest.NewServer(hub)
	defer s.Close()
	for n := range 3 {
		send(t, hub, "new", "number", n+1)
		send(t, hub, "empty", "number", n+1)
	}
	source := &eventSource{t: t}
	source.connect(s.URL)
	source.expect("grouphub.open")
	source.expect("grouphub.position")
	<-conns
	source.cut()
	source.connect(s.URL)
	source.expect("grouphub.open")
	source.expect("grouphub.position")
	c := <-conns
	if err := c.Join("new", grouphub.Last(2)); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"2", "3"} {
		if e := source.event(); e.Type != "number" || string(e.Data) != want {
			t.Errorf("got %+v, want the number %s of the last two", e, want)
		}
	}
	source.expect("grouphub.position")
	if err := c.Join("empty"); err != nil {
		t.Fatal(err)
	}
	source.expect("grouphub.position")
	source.cut()
	send(t, hub, "new", "number", 4)
	source.connect(s.URL)
	source.expect("grouphub.open")
	source.expect("grouphub.position")
	c = <-conns
	if err := c.Join("new", grouphub.Last(2)); err != nil { // not new any more
		t.Fatal(err)
	}
	if e := source.event(); string(e.Data) != "4" {
		t.Errorf("got %+v, want what was missed", e)
	}
	source.expect("grouphub.position")
	source.cut()
}

// A cursor has room for some 300 groups.
func TestGroupsThatHadNoRoomInTheCursorAreResyncedAndTheOthersResume(t *testing.T) {
	const groups = 400
	hub, conns := joining(t, func(c *grouphub.Conn) error {
		for i := range groups {
			if err := c.Join(fmt.Sprint("group", i)); err != nil {
				return err
			}
		}
		return nil
	})
	s := httptest.NewServer(hub)
	defer s.Close()
	source := &eventSource{t: t}
	source.connect(s.URL)
	for range 1 + groups {
		source.next()
	}
	<-conns
	for cut := range 2 { // the second time during the first of the Joins
		source.cut()
		source.connect(s.URL)
		source.expect("grouphub.open")
		if cut == 0 {
			source.next()
		}
		<-conns
	}
	resyncs := 0
	for positions := 0; positions < groups; {
		b, ok := source.next()
		switch {
		case ok && b.name == "grouphub.position":
			positions++
		case ok && strings.Contains(b.data, "resync"):
			resyncs++
		default:
			t.Fatalf("got %+v, %v", b, ok)
		}
	}
	if room := groups - resyncs; room < 250 || resyncs == 0 || len(source.lastID) > 4000 {
		t.Errorf("%d of %d groups resumed, with %d characters", room, groups, len(source.lastID))
	}
	source.cut()
}

// A client that asks for its groups by messages is given some time.
func TestStreamsCursorForgetsAGroupThatIsNotJoinedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first := true
		hub, conns := joining(t, func(c *grouphub.Conn) error {
			if first {
				first = false
				if err := c.Join("old"); err != nil {
					return err
				}
			}
			return c.Join("room")
		})
		source := &eventSource{t: t, way: throughPipes(hub)}
		source.connect("http://example.com")
		source.expect("grouphub.open")
		source.expect("grouphub.position")
		source.expect("grouphub.position")
		both := len(source.lastID)
		<-conns
		source.cut()
		source.connect("http://example.com")
		source.expect("grouphub.open")
		source.expect("grouphub.position")
		c := <-conns
		number := 0
		next := func() {
			number++
			send(t, hub, "room", "number", number)
			if e := source.event(); e.Type != "number" {
				t.Errorf("got %+v", e)
			}
		}
		next()
		if len(source.lastID) != both {
			t.Errorf("at once the cursor is %q, which has not %d characters", source.lastID, both)
		}
		for range 85 { // a pipe takes nothing by itself, so it is read
			time.Sleep(7 * time.Second)
			next()
		}
		if n := len(source.lastID); n >= both {
			t.Errorf("later the cursor is %q, which has no fewer than %d characters", source.lastID, both)
		}
		// While it lasts, the stream knows what it came with.
		send(t, hub, "old", "number", 1)
		if err := c.Join("old"); err != nil {
			t.Fatal(err)
		}
		if e := source.event(); e.Group != "old" || string(e.Data) != "1" {
			t.Errorf("got %+v, want what was missed in the old group", e)
		}
		source.expect("grouphub.position")
		source.cut()
	})
}

func TestForgedCursorIsAResync(t *testing.T) {
	hub, _ := joining(t, func(c *grouphub.Conn) error { return c.Join("room") })
	s := httptest.NewServer(hub)
	defer s.Close()
	source := &eventSource{t: t}
	source.connect(s.URL)
	source.expect("grouphub.open")
	source.expect("grouphub.position")
	for n := range 3 {
		send(t, hub, "room", "number", n)
		source.event()
	}
	source.cut()
	real, err := base64.RawURLEncoding.DecodeString(source.lastID)
	if err != nil || len(real) < 10 {
		t.Fatalf("the cursor is %q, %v", source.lastID, err)
	}
	const numberAt = 4 // behind the group's hash
	for name, forge := range map[string]func(cursor []byte){
		"an earlier number":      func(c []byte) { c[numberAt]-- },
		"the beginning":          func(c []byte) { c[numberAt] = 0 },
		"a later number":         func(c []byte) { c[numberAt]++ },
		"another fingerprint":    func(c []byte) { c[len(c)-1]++ },
		"a fingerprint of zeros": func(c []byte) { clear(c[numberAt+1:]) },
	} {
		forged := append([]byte(nil), real...)
		forge(forged)
		source := &eventSource{t: t, lastID: base64.RawURLEncoding.EncodeToString(forged)}
		source.connect(s.URL)
		source.expect("grouphub.open")
		if e := source.event(); e.Type != "resync" || e.Group != "room" {
			t.Errorf("a cursor with %s gets %+v, want a resync", name, e)
		}
		source.expect("grouphub.position")
		source.cut()
	}
	// The real one is no forgery.
	source.connect(s.URL)
	source.expect("grouphub.open")
	source.expect("grouphub.position")
	source.cut()
}
