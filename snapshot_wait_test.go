package grouphub_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
)

func TestAMemberThatWaitsForASnapshotWhenLoadsFailIsClosedWith1013(t *testing.T) {
	t.Parallel() // with the pauses of a load it takes a second
	s, layer := &counted{}, newFaultyLayer()
	s.first = func(_ context.Context, load int) error {
		if load > 1 {
			return errors.New("no database")
		}
		return nil
	}
	hub := countingHub(t, s, 0, layer)
	c := hubtest.Dial(t, hub, "/")
	c.ExpectEvent("snapshot")
	layer.receiver.Lost([]string{"g:g"})
	c.ExpectClose(1013)
}

func TestAUsersGroupBeginsWithASnapshotBeforeConnect(t *testing.T) {
	s := &counted{value: 3}
	hub := newHub(t, &grouphub.Options{Policy: s.policy(10), Consumer: grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error { return c.Send([]byte("connected")) },
		Events:  both,
	}})
	c := hubtest.Dial(t, authenticate(hub), "/?user=ann")
	if e := c.ExpectEvent("snapshot"); string(e.Data) != "3" || e.Group != grouphub.UserGroup("ann") {
		t.Errorf("got %+v", e)
	}
	c.Expect("connected")
}

func TestGroupAddWaitsForTheSnapshot(t *testing.T) {
	s, layer := &counted{}, grouphub.NewMemoryLayer()
	defer layer.Close()
	conns := make(chan *grouphub.Conn, 2)
	options := &grouphub.Options{Layer: layer, Policy: s.policy(0), Logger: quiet(), Consumer: grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error { conns <- c; return nil }, Events: both}}
	hub, other := newHub(t, options), newHub(t, options)
	c := hubtest.Dial(t, hub, "/")
	conn := <-conns
	if err := hub.GroupAdd(background, "g", conn.Channel()); err != nil {
		t.Fatal(err)
	}
	c.ExpectEvent("snapshot")
	if err := hub.GroupAdd(background, "g", conn.Channel()); err != nil || s.loaded() != 1 {
		t.Errorf("adding a member again: %v, %d loads", err, s.loaded())
	}
	if err := other.GroupAdd(background, "far", conn.Channel()); err != nil {
		t.Fatal(err)
	}
	if e := c.ExpectEvent("snapshot"); e.Group != "far" {
		t.Errorf("got %+v", e)
	}
	began := make(chan struct{}, 1)
	s.first = func(ctx context.Context, _ int) error { began <- struct{}{}; <-ctx.Done(); return ctx.Err() }
	ctx, cancel := context.WithCancel(background)
	added := inBackground(func() error { return hub.GroupAdd(ctx, "slow", conn.Channel()) })
	<-began
	cancel()
	if err := <-added; !errors.Is(err, grouphub.ErrUnavailable) || !errors.Is(err, context.Canceled) {
		t.Errorf("GroupAdd: %v", err)
	}
	if conn.In("slow") || !conn.In("far") {
		t.Errorf("the connection is in %q", conn.Groups())
	}
}

func TestOfTwoJoinsAtATimeNoneReturnsBeforeTheSnapshot(t *testing.T) {
	for _, history := range []int{0, 10} {
		s := &counted{}
		began, goOn := make(chan struct{}), make(chan struct{})
		s.first = func(context.Context, int) error { began <- struct{}{}; <-goOn; return nil }
		hub, conns := handOverCounted(t, s, history)
		c := hubtest.Dial(t, hub, "/")
		conn := <-conns
		first := inBackground(func() error { return conn.Join("g") })
		<-began
		second := inBackground(func() error { return conn.Join("g") })
		select {
		case err := <-second:
			t.Errorf("the second Join has returned %v", err)
		default:
		}
		close(goOn)
		if err := errors.Join(<-first, <-second); err != nil {
			t.Error(err)
		}
		c.ExpectEvent("snapshot")
		s.change(t, hub)
		c.ExpectEvent("n")
	}
}

func TestAGroupCloseDoesNotWaitForASnapshot(t *testing.T) {
	s := &counted{}
	began := make(chan struct{}, 1)
	s.first = func(ctx context.Context, _ int) error { began <- struct{}{}; <-ctx.Done(); return ctx.Err() }
	hub, conns := handOverCounted(t, s, 10)
	c := hubtest.Dial(t, hub, "/")
	conn := <-conns
	joined := inBackground(func() error { return conn.Join("g") })
	<-began
	if err := hub.GroupClose(background, "g", 4401, "logged out"); err != nil {
		t.Fatal(err)
	}
	c.ExpectClose(4401)
	if err := <-joined; !errors.Is(err, grouphub.ErrClosed) {
		t.Errorf("Join: %v", err)
	}
}

func TestWhatOverflowsWhileASnapshotIsLoadedIsCoveredByTheNext(t *testing.T) {
	s := &counted{}
	began, goOn := make(chan struct{}), make(chan struct{})
	s.first = func(context.Context, int) error { began <- struct{}{}; <-goOn; return nil }
	conns := make(chan *grouphub.Conn, 1)
	hub := newHub(t, &grouphub.Options{Policy: s.policy(0), MaxPending: 64 << 10, Consumer: grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error { conns <- c; return nil },
		Events:  grouphub.Events{"snapshot": grouphub.Forward(), "n": grouphub.Forward(), "large": grouphub.Forward()},
	}})
	c := hubtest.Dial(t, hub, "/")
	conn := <-conns
	joined := inBackground(func() error { return conn.Join("g") })
	<-began
	for range 3 {
		send(t, hub, "g", "large", strings.Repeat("x", 30<<10))
	}
	eventually(t, func() bool { return grouphub.Asked(hub, "g") == 2 }, "nothing has overflowed")
	s.change(t, hub)
	goOn <- struct{}{}
	<-began
	goOn <- struct{}{}
	if err := <-joined; err != nil {
		t.Fatal(err)
	}
	if e := c.ExpectEvent("snapshot"); string(e.Data) != "1" {
		t.Errorf("got %+v", e)
	}
	s.change(t, hub)
	if e := c.ExpectEvent("n"); string(e.Data) != "2" {
		t.Errorf("got %+v", e)
	}
	if stats := hub.Stats(); stats.SlowClosed != 0 || s.loaded() != 2 {
		t.Errorf("%d loads, %+v", s.loaded(), stats)
	}
}

func TestALoadThatDoesNotEndWithItsContextIsNotJoinedByAnother(t *testing.T) {
	s := &counted{}
	began, goOn := make(chan struct{}, 2), make(chan struct{})
	s.first = func(context.Context, int) error { began <- struct{}{}; <-goOn; return nil }
	hub, conns := handOverCounted(t, s, 0)
	hubtest.Dial(t, hub, "/")
	conn := <-conns
	joined := inBackground(func() error { return conn.Join("g") })
	<-began
	conn.Leave("g") // the group ends
	<-joined
	joined = inBackground(func() error { return conn.Join("g") })
	eventually(t, func() bool { return conn.In("g") }, "the second Join does not wait")
	if len(began) > 0 {
		t.Error("two loads run at a time")
	}
	close(goOn)
	if err := <-joined; err != nil {
		t.Error(err)
	}
	if s.loaded() != 2 {
		t.Errorf("%d loads", s.loaded())
	}
}

func TestAfterThatIsCoveredSparesTheSnapshotAndLastMeansNothing(t *testing.T) {
	s := &counted{}
	hub, conns := handOverCounted(t, s, 10)
	at, err := hub.Position(background, "g")
	if err != nil {
		t.Fatal(err)
	}
	s.change(t, hub)
	for _, test := range []struct {
		option grouphub.JoinOption
		event  string
	}{
		{grouphub.After(at), "n"}, {grouphub.After("made up"), "snapshot"}, {grouphub.Last(5), "snapshot"},
	} {
		c := hubtest.Dial(t, hub, "/")
		if err := (<-conns).Join("g", test.option); err != nil {
			t.Fatal(err)
		}
		if e := c.ExpectEvent(test.event); string(e.Data) != "1" {
			t.Errorf("got %+v", e)
		}
	}
}

func TestASnapshotThatIsCompressedOrConditionalReachesThoseItIsFor(t *testing.T) {
	s := &counted{value: 5}
	for _, compression := range []bool{false, true} {
		hub := newHub(t, &grouphub.Options{Policy: s.policy(10), Compression: compression, Consumer: grouphub.Consumer{
			Connect: joinG,
			Events: grouphub.Events{"n": grouphub.Forward(), "snapshot": grouphub.Forward().If(func(c *grouphub.Conn, _ grouphub.Event) bool {
				return c.Request().URL.Query().Get("no") == ""
			})},
		}})
		yes, no := hubtest.Dial(t, hub, "/"), hubtest.Dial(t, hub, "/?no=1")
		yes.ExpectEvent("snapshot")
		s.change(t, hub)
		yes.ExpectEvent("n")
		if e := no.ExpectEvent("n"); string(e.Data) != fmt.Sprint(s.value) {
			t.Errorf("got %+v", e)
		}
	}
}

func TestWhoComesWhileALoadCannotBeginHasAllOfTheNextOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var loads atomic.Int32
		conns := make(chan *grouphub.Conn, 3)
		hub := newHub(t, &grouphub.Options{Logger: quiet(), Policy: func(string) grouphub.GroupPolicy {
			return grouphub.GroupPolicy{Snapshot: func(context.Context, string) (any, error) {
				if loads.Add(1) == 1 {
					time.Sleep(21 * time.Second) // whatever becomes of its context
				}
				return 1, nil
			}}
		}, Consumer: grouphub.Consumer{Connect: func(c *grouphub.Conn) error { conns <- c; return nil }, Events: both}})
		joined := make(chan error, 3)
		join := func() {
			hubtest.Dial(t, hub, "/")
			c := <-conns
			go func() { joined <- c.Join("g") }()
		}
		join()
		time.Sleep(time.Second)
		join() // for a load that has no time to begin
		time.Sleep(18 * time.Second)
		join()
		for i, want := range []error{grouphub.ErrUnavailable, grouphub.ErrUnavailable, nil} {
			if err := <-joined; !errors.Is(err, want) {
				t.Errorf("join %d: %v, want %v", i+1, err, want)
			}
		}
	})
}
