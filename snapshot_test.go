package grouphub_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
)

func TestAPageCannotBeStale(t *testing.T) {
	for _, history := range []int{0, 100} {
		t.Run(fmt.Sprint("history ", history), func(t *testing.T) {
			s := &counted{value: 7}
			hub := countingHub(t, s, history, nil)
			c := hubtest.Dial(t, hub, "/")
			e := c.ExpectEvent("snapshot")
			if e.Group != "g" || string(e.Data) != "7" || (e.ID != "") != (history > 0) {
				t.Fatalf("got %+v", e)
			}
			s.change(t, hub)
			if e := c.ExpectEvent("n"); string(e.Data) != "8" {
				t.Fatalf("got %+v", e)
			}
			late := hubtest.Dial(t, hub, "/")
			if e := late.ExpectEvent("snapshot"); string(e.Data) != "8" {
				t.Fatalf("got %+v", e)
			}
			s.change(t, hub)
			for _, c := range []*hubtest.Client{c, late} {
				if e := c.ExpectEvent("n"); string(e.Data) != "9" {
					t.Fatalf("got %+v", e)
				}
			}
		})
	}
}

func TestWhatIsSentDuringALoadFollowsTheSnapshotAndWhatWasSentBeforeDoesNot(t *testing.T) {
	for _, history := range []int{0, 100} {
		t.Run(fmt.Sprint("history ", history), func(t *testing.T) {
			s := &counted{}
			hub := countingHub(t, s, history, nil)
			began, goOn := make(chan struct{}), make(chan struct{})
			s.first = func(context.Context, int) error { began <- struct{}{}; <-goOn; return nil }
			clients := make(chan *hubtest.Client, 2)
			dial := func() { clients <- hubtest.Dial(t, hub, "/") }
			go dial()
			<-began
			s.change(t, hub)
			s.change(t, hub)
			goOn <- struct{}{}
			c := <-clients
			// The load read after both: what was sent after it began is repeated.
			if e := c.ExpectEvent("snapshot"); string(e.Data) != "2" {
				t.Fatalf("got %+v", e)
			}
			for i := 1; i <= 2; i++ {
				if e := c.ExpectEvent("n"); string(e.Data) != fmt.Sprint(i) {
					t.Fatalf("got %+v", e)
				}
			}
			go dial()
			<-began
			s.change(t, hub)
			go dial() // too late for the load that runs
			eventually(t, func() bool { return hub.Stats().Conns == 3 }, "no third connection")
			goOn <- struct{}{}
			second := <-clients
			<-began
			s.change(t, hub)
			goOn <- struct{}{}
			third := <-clients
			for _, want := range []string{"3", "3", "4"} {
				if got := string(second.Next().Data); !containsData(got, want) {
					t.Errorf("the second client got %s, want %s", got, want)
				}
			}
			for _, want := range []string{"4", "4"} {
				if got := string(third.Next().Data); !containsData(got, want) {
					t.Errorf("the third client got %s, want %s", got, want)
				}
			}
			if s.loaded() != 3 {
				t.Errorf("%d loads", s.loaded())
			}
		})
	}
}

// containsData reports whether an event's JSON has these data.
func containsData(text, data string) bool {
	var e grouphub.Event
	return (grouphub.Message{Data: []byte(text)}).Decode(&e) == nil && string(e.Data) == data
}

func TestAfterItsRetriesALoadClosesThoseWhoWaitWith1013AndJoinIsErrUnavailable(t *testing.T) {
	t.Parallel() // with its pauses it takes a second
	s := &counted{}
	broken := errors.New("no database")
	s.first = func(context.Context, int) error { return broken }
	joined := make(chan error, 1)
	hub := newHub(t, &grouphub.Options{Policy: s.policy(0), Logger: quiet(), Consumer: grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error {
			err := c.Join("g")
			joined <- err
			return err
		},
		Events: both,
	}})
	c := hubtest.Dial(t, hub, "/")
	if err := <-joined; !errors.Is(err, grouphub.ErrUnavailable) || !errors.Is(err, broken) {
		t.Errorf("Join: %v", err)
	}
	c.ExpectClose(1013)
	if s.loaded() != 3 {
		t.Errorf("%d tries", s.loaded())
	}
}

func TestALoadThatBlocksConcernsItsGroupAloneAndEndsWhenNobodyWaits(t *testing.T) {
	s := &counted{}
	began, ended := make(chan struct{}, 1), make(chan error, 1)
	s.first = func(ctx context.Context, load int) error {
		if load > 1 {
			return nil
		}
		began <- struct{}{}
		<-ctx.Done()
		ended <- ctx.Err()
		return ctx.Err()
	}
	hub, conns := handOverCounted(t, s, 0)
	c := hubtest.Dial(t, hub, "/")
	stuck := <-conns
	joined := inBackground(func() error { return stuck.Join("blocks") })
	<-began
	other := hubtest.Dial(t, hub, "/")
	if err := (<-conns).Join("works"); err != nil {
		t.Fatal(err)
	}
	other.Expect(`{"type":"snapshot","group":"works","data":0}`)
	c.Close()
	if err := <-ended; err != context.Canceled {
		t.Errorf("the load's context ended with %v", err)
	}
	if err := <-joined; !errors.Is(err, grouphub.ErrClosed) {
		t.Errorf("Join: %v", err)
	}
}

func TestALeaveEndsTheWaitForASnapshot(t *testing.T) {
	for _, history := range []int{0, 100} {
		s := &counted{}
		began := make(chan struct{}, 1)
		s.first = func(ctx context.Context, load int) error {
			began <- struct{}{}
			<-ctx.Done()
			return ctx.Err()
		}
		hub, conns := handOverCounted(t, s, history)
		c := hubtest.Dial(t, hub, "/")
		conn := <-conns
		joined := inBackground(func() error { return conn.Join("g") })
		<-began
		if err := conn.Leave("g"); err != nil {
			t.Fatal(err)
		}
		if err := <-joined; err != nil {
			t.Errorf("Join: %v", err)
		}
		s.change(t, hub)
		c.ExpectNone(10 * time.Millisecond)
		if hub.Stats().Groups != 0 {
			t.Errorf("%+v", hub.Stats())
		}
	}
}

func TestShutdownEndsALoadAndWaitsForIt(t *testing.T) {
	s := &counted{}
	began := make(chan struct{}, 1)
	returned := false
	s.first = func(ctx context.Context, load int) error {
		began <- struct{}{}
		<-ctx.Done()
		time.Sleep(10 * time.Millisecond)
		returned = true
		return ctx.Err()
	}
	hub, conns := handOverCounted(t, s, 0)
	c := hubtest.Dial(t, hub, "/")
	conn := <-conns
	joined := inBackground(func() error { return conn.Join("g") })
	<-began
	down := inBackground(func() error { return hub.Shutdown(background) })
	c.ExpectClose(1001)
	if err := <-joined; !errors.Is(err, grouphub.ErrClosed) {
		t.Errorf("Join: %v", err)
	}
	if err := <-down; err != nil || !returned {
		t.Errorf("Shutdown: %v, the load has returned: %v", err, returned)
	}
}

func TestALoaderThatPanicsOrCallsTheHubDoesNoHarm(t *testing.T) {
	s := &counted{}
	var hub *grouphub.Hub
	s.first = func(ctx context.Context, load int) error {
		if load == 1 {
			panic("a bug")
		}
		return hub.GroupSend(ctx, "g", "n", load)
	}
	hub = countingHub(t, s, 0, nil)
	c := hubtest.Dial(t, hub, "/")
	c.Expect(`{"type":"snapshot","group":"g","data":0}`)
	c.Expect(`{"type":"n","group":"g","data":2}`)
}

func TestASnapshotThatIsTooLargeIsNone(t *testing.T) {
	t.Parallel() // with its pauses it takes a second
	hub, conns := func() (*grouphub.Hub, <-chan *grouphub.Conn) {
		conns := make(chan *grouphub.Conn, 1)
		return newHub(t, &grouphub.Options{MaxEventSize: 1000, Logger: quiet(), Policy: func(string) grouphub.GroupPolicy {
			return grouphub.GroupPolicy{Snapshot: func(context.Context, string) (any, error) { return make([]int, 1000), nil }}
		}, Consumer: grouphub.Consumer{Connect: func(c *grouphub.Conn) error { conns <- c; return nil }, Events: both}}), conns
	}()
	hubtest.Dial(t, hub, "/")
	if err := (<-conns).Join("g"); !errors.Is(err, grouphub.ErrTooLarge) || !errors.Is(err, grouphub.ErrUnavailable) {
		t.Errorf("Join: %v", err)
	}
	if groups := hub.Stats().Groups; groups != 0 {
		t.Errorf("%d groups", groups)
	}
}

func TestManyWhoWaitShareOneLoad(t *testing.T) {
	s := &counted{}
	began, goOn := make(chan struct{}, 10), make(chan struct{})
	s.first = func(ctx context.Context, load int) error { began <- struct{}{}; <-goOn; return nil }
	hub, conns := handOverCounted(t, s, 0)
	const many = 100
	var clients []*hubtest.Client
	for range many {
		clients = append(clients, hubtest.Dial(t, hub, "/"))
	}
	joined := make(chan error, many)
	join := func() {
		conn := <-conns
		go func() { joined <- conn.Join("g") }()
	}
	join()
	<-began
	for range many - 1 {
		join()
	}
	eventually(t, func() bool { return groupSize(hub, "g") == many }, "not all wait")
	close(goOn)
	for range many {
		if err := <-joined; err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range clients {
		c.Expect(`{"type":"snapshot","group":"g","data":0}`)
	}
	if s.loaded() != 2 {
		t.Errorf("%d loads for %d joins", s.loaded(), many)
	}
}

func TestWhereAResyncWouldBeDueANewSnapshotGoesOut(t *testing.T) {
	for _, history := range []int{0, 10} {
		t.Run(fmt.Sprint("history ", history), func(t *testing.T) {
			s, layer := &counted{}, newFaultyLayer()
			told, resync := resyncs()
			hub := newHub(t, &grouphub.Options{Layer: layer, Policy: s.policy(history), Logger: quiet(), Consumer: grouphub.Consumer{
				Connect: joinG,
				Resync:  resync,
				Events:  both,
			}})
			c := hubtest.Dial(t, hub, "/")
			c.ExpectEvent("snapshot")
			s.change(t, hub)
			c.ExpectEvent("n")
			layer.cut()
			for range 20 {
				s.change(t, hub)
			}
			layer.mendGroup("g")
			if e := c.ExpectEvent("snapshot"); string(e.Data) != "21" || (e.ID != "") != (history > 0) {
				t.Errorf("got %+v", e)
			}
			s.change(t, hub)
			if e := c.ExpectEvent("n"); string(e.Data) != "22" {
				t.Errorf("got %+v", e)
			}
			select {
			case groups := <-told:
				t.Errorf("Resync was called with %q", groups)
			default:
			}
		})
	}
}

func TestBetweenAGapAndItsSnapshotNoEventIsSent(t *testing.T) {
	s, layer := &counted{}, newFaultyLayer()
	began, goOn := make(chan struct{}, 1), make(chan struct{})
	s.first = func(_ context.Context, load int) error {
		if load > 1 {
			began <- struct{}{}
			<-goOn
		}
		return nil
	}
	hub := countingHub(t, s, 10, layer)
	c := hubtest.Dial(t, hub, "/")
	c.ExpectEvent("snapshot")
	s.change(t, hub)
	before := c.ExpectEvent("n")
	layer.cut()
	for range 20 {
		s.change(t, hub)
	}
	layer.mendGroup("g")
	<-began
	s.change(t, hub)
	c.ExpectNone(20 * time.Millisecond)
	// A resume from before the gap gets a snapshot.
	dialed := make(chan *hubtest.Client)
	go func() { dialed <- hubtest.Dial(t, hub, "/"+resumeQuery("g", before.ID)) }()
	eventually(t, func() bool { return groupSize(hub, "g") == 2 }, "the second client is no member")
	close(goOn)
	snapshot := c.ExpectEvent("snapshot")
	if string(snapshot.Data) != "22" {
		t.Errorf("got %+v", snapshot)
	}
	if e := c.ExpectEvent("n"); string(e.Data) != "22" {
		t.Errorf("got %+v", e)
	}
	second := <-dialed
	e := second.ExpectEvent("snapshot")
	if string(e.Data) != "22" {
		t.Errorf("got %+v", e)
	}
	if at := second.ExpectEvent("grouphub.position"); at.ID != e.ID {
		t.Errorf("a snapshot at %s, and the position is %s", e.ID, at.ID)
	}
	// One from the snapshot gets what follows it, and no other snapshot.
	third := hubtest.Dial(t, hub, "/"+resumeQuery("g", snapshot.ID))
	if e := third.ExpectEvent("n"); string(e.Data) != "22" {
		t.Errorf("got %+v", e)
	}
	third.ExpectEvent("grouphub.position")
	if s.loaded() != 3 {
		t.Errorf("%d loads", s.loaded())
	}
}

func TestPositionForARenderedPage(t *testing.T) {
	s := &counted{} // of which nothing is loaded
	options := grouphub.Options{Policy: s.policy(10), Consumer: grouphub.Consumer{Connect: joinG, Events: both}}
	onTwoHubs(t, options, func(t *testing.T, renders, hub *grouphub.Hub) { // the first has no member
		for n := 1; n < 4; n += 2 { // before the first event, and after some
			id, err := renders.Position(background, "g")
			if err != nil {
				t.Fatal(err)
			}
			send(t, renders, "g", "n", n)
			send(t, hub, "g", "n", n+1)
			c := hubtest.Dial(t, hub, "/"+resumeQuery("g", id))
			for want := n; want <= n+1; want++ {
				e := nextEvent(t, c)
				if e.Type == "grouphub.position" { // can come before them
					e = nextEvent(t, c)
				}
				if e.Type != "n" || string(e.Data) != fmt.Sprint(want) {
					t.Errorf("got %+v, want %d", e, want)
				}
			}
		}
		if s.loaded() != 0 {
			t.Errorf("%d loads", s.loaded())
		}
		if _, err := hub.Position(background, ""); !errors.Is(err, grouphub.ErrInvalidName) {
			t.Errorf("without a name: %v", err)
		}
	})
	hub := countingHub(t, s, 0, nil)
	if id, err := hub.Position(background, "g"); err == nil || id != "" {
		t.Errorf("without history: %q, %v", id, err)
	}
	hub.Shutdown(background)
	if _, err := hub.Position(background, "g"); !errors.Is(err, grouphub.ErrClosed) {
		t.Errorf("after Shutdown: %v", err)
	}
}

func TestASnapshotGoesThroughTheConsumersEvents(t *testing.T) {
	for _, history := range []int{0, 10} {
		t.Run(fmt.Sprint("history ", history), func(t *testing.T) {
			s := &counted{value: 1}
			hub := newHub(t, &grouphub.Options{Policy: s.policy(history), Logger: quiet()})
			endpoint := func(events grouphub.Events) *hubtest.Client {
				return hubtest.Dial(t, hub.Handler(grouphub.Consumer{Connect: joinG, Events: events}), "/")
			}
			slow := make(chan struct{})
			handle := grouphub.Handle(func(c *grouphub.Conn, e grouphub.Event) error {
				<-slow
				return c.Send([]byte("handled " + string(e.Data)))
			})
			render := grouphub.Render(func(e grouphub.Event) ([]byte, error) { return []byte("rendered " + string(e.Data)), nil })
			forward := grouphub.Forward()
			rendered := endpoint(grouphub.Events{"snapshot": render, "n": forward})
			rest := endpoint(grouphub.Events{"*": render})
			handled := endpoint(grouphub.Events{"snapshot": handle, "n": forward})
			both := endpoint(grouphub.Events{"snapshot": forward, "n": handle})
			none := endpoint(grouphub.Events{"n": forward})
			s.change(t, hub)
			close(slow)
			rendered.Expect("rendered 1")
			rendered.ExpectEvent("n")
			rest.Expect("rendered 1")
			rest.Expect("rendered 2")
			handled.Expect("handled 1") // in the group's order, though the event behind it is ready
			handled.ExpectEvent("n")
			both.ExpectEvent("snapshot")
			both.Expect("handled 2")
			none.ExpectEvent("n")
			if n := hub.Stats().Unhandled; n != 1 {
				t.Errorf("%d unhandled", n)
			}
		})
	}
}

func TestAStreamBeginsWithASnapshotAndResumesFromIt(t *testing.T) {
	s, layer := &counted{value: 1}, newFaultyLayer()
	hub := countingHub(t, s, 10, layer)
	source := &eventSource{t: t}
	url := serve(t, hub).URL
	come := func() {
		source.connect(url)
		source.expect("grouphub.open")
	}
	expect := func(event string, value int) {
		t.Helper()
		if e := source.event(); e.Type != event || string(e.Data) != fmt.Sprint(value) {
			t.Fatalf("got %+v, want %s %d", e, event, value)
		}
	}
	come()
	expect("snapshot", 1)
	source.expect("grouphub.position")
	source.cut()
	s.change(t, hub)
	come()
	expect("n", 2)
	source.expect("grouphub.position")
	layer.cut()
	for range 20 {
		s.change(t, hub)
	}
	layer.mendGroup("g")
	expect("snapshot", 22)
	source.cut() // with the snapshot's cursor
	s.change(t, hub)
	come()
	expect("n", 23)
	source.expect("grouphub.position")
	source.cut()
	for range 20 {
		s.change(t, hub)
	}
	come()
	expect("snapshot", 43)
	source.expect("grouphub.position")
}
