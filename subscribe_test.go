package grouphub_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
)

// subscribe subscribes to a group until the test ends, and returns what comes.
func subscribe(t *testing.T, hub *grouphub.Hub, group string, opts ...grouphub.JoinOption) (<-chan grouphub.Event, context.CancelFunc) {
	t.Helper()
	ctx, cancel := context.WithCancel(background)
	t.Cleanup(cancel)
	events := make(chan grouphub.Event, 10_000)
	if err := hub.Subscribe(ctx, group, func(e grouphub.Event) { events <- e }, opts...); err != nil {
		t.Fatal(err)
	}
	return events, cancel
}

// nextOfType returns what comes next, which must be of a type.
func nextOfType(t *testing.T, events <-chan grouphub.Event, kind string) grouphub.Event {
	t.Helper()
	select {
	case e := <-events:
		if e.Type != kind {
			t.Fatalf("got %s of %s, want %s", e.Type, e.Data, kind)
		}
		return e
	case <-time.After(20 * time.Second):
		t.Fatalf("no event comes, want %s", kind)
		panic("not reached")
	}
}

func TestSubscribeIsJoinedWhenItReturnsAndKeepsTheGroupsOrder(t *testing.T) {
	for name, history := range map[string]int{"no history": 0, "history": 1000} {
		t.Run(name, func(t *testing.T) {
			policy := func(string) grouphub.GroupPolicy { return grouphub.GroupPolicy{History: history, Presence: true} }
			onTwoHubs(t, grouphub.Options{Consumer: noteConsumer, Policy: policy}, func(t *testing.T, a, b *grouphub.Hub) {
				events, cancel := subscribe(t, a, "all")
				const total = 300
				for i := range total {
					send(t, b, "all", "note", i)
				}
				for i := range total {
					if e := nextOfType(t, events, "note"); string(e.Data) != fmt.Sprint(i) || e.Group != "all" || (e.ID != "") != (history > 0) {
						t.Fatalf("got %+v, want %d", e, i)
					}
				}
				c := hubtest.Dial(t, a, "/")
				members, err := a.Members(background, "all")
				if err != nil || len(members) != 1 {
					t.Errorf("the members are %+v, %v", members, err)
				}
				if err := b.GroupClose(background, "all", 4000, "bye"); err != nil {
					t.Fatal(err)
				}
				c.ExpectClose(4000)
				send(t, b, "all", "note", "still here")
				nextOfType(t, events, "note")
				if history > 0 {
					kept, _ := subscribe(t, b, "all", grouphub.Last(3))
					for range 3 {
						nextOfType(t, kept, "note")
					}
					gone, _ := subscribe(t, b, "all", grouphub.After("nobody's"))
					nextOfType(t, gone, "resync")
				}
				cancel()
				eventually(t, func() bool { return a.Stats().Groups == 0 }, "the subscription does not end with its context")
				send(t, a, "all", "note", "after the end")
				if len(events) > 0 {
					t.Errorf("got %+v after the end", <-events)
				}
				if n := a.Stats().Conns; n > 1 { // the one that was closed may not be over
					t.Errorf("%d connections", n)
				}
			})
		})
	}
}

func TestASubscriberThatIsTooSlowGetsAResyncAndGoesOn(t *testing.T) {
	for name, policy := range map[string]grouphub.GroupPolicy{"no history": {}, "history": {History: 10_000}} {
		t.Run(name, func(t *testing.T) {
			hub := newHub(t, &grouphub.Options{MaxPending: 64 << 10, Logger: quiet(),
				Policy: func(string) grouphub.GroupPolicy { return policy }})
			begun, goOn := make(chan struct{}), make(chan struct{})
			events := make(chan grouphub.Event, 10_000)
			ctx, cancel := context.WithCancel(background)
			defer cancel()
			var waited bool
			err := hub.Subscribe(ctx, "all", func(e grouphub.Event) {
				if !waited {
					waited = true
					close(begun)
					<-goOn
				}
				events <- e
			})
			if err != nil {
				t.Fatal(err)
			}
			send(t, hub, "all", "note", 0)
			<-begun
			const total = 1000
			for i := 1; i < total; i++ {
				send(t, hub, "all", "note", i)
			}
			eventually(t, func() bool { return hub.Stats().Dropped > 0 }, "nothing is dropped")
			eventually(t, func() bool { return int(hub.Stats().Dropped)+500 > total }, "%+v", hub.Stats())
			last := -1
			close(goOn)
			for e := range events {
				if e.Type == "resync" {
					break
				}
				last++
				if string(e.Data) != fmt.Sprint(last) {
					t.Fatalf("got %s, want %d", e.Data, last)
				}
			}
			if last < 100 || last > 500 {
				t.Errorf("%d events have waited", last)
			}
			for i := range 10 {
				send(t, hub, "all", "note", total+i)
			}
			next := 0 // what was sent before may have been on its way when there was room again
			for next < total+9 {
				before := next
				if err := nextOfType(t, events, "note").Decode(&next); err != nil || next != before+1 && before != 0 {
					t.Fatalf("after %d came %d: %v", before, next, err)
				}
			}
		})
	}
}

func TestASubscriberBeginsWithASnapshotAndGetsAnotherWhereItMayHaveMissedEvents(t *testing.T) {
	var state, loads atomic.Int64
	layer := newFaultyLayer()
	hub := newHub(t, &grouphub.Options{Layer: layer, MaxPending: 64 << 10, Logger: quiet(),
		Policy: func(string) grouphub.GroupPolicy {
			return grouphub.GroupPolicy{Snapshot: func(context.Context, string) (any, error) {
				loads.Add(1)
				return state.Load(), nil
			}}
		}})
	state.Store(7)
	events, _ := subscribe(t, hub, "all")
	if e := nextOfType(t, events, "snapshot"); string(e.Data) != "7" {
		t.Errorf("got %+v", e)
	}
	send(t, hub, "all", "note", 8)
	nextOfType(t, events, "note")
	state.Store(9)
	layer.receiver.Lost([]string{"g:all"})
	if e := nextOfType(t, events, "snapshot"); string(e.Data) != "9" {
		t.Errorf("got %+v", e)
	}
	// One that is too slow.
	goOn := make(chan struct{})
	slow := make(chan grouphub.Event, 10_000)
	ctx, cancel := context.WithCancel(background)
	defer cancel()
	if err := hub.Subscribe(ctx, "all", func(e grouphub.Event) { <-goOn; slow <- e }); err != nil {
		t.Fatal(err)
	}
	before := loads.Load()
	for i := range 1000 {
		state.Store(int64(i))
		send(t, hub, "all", "note", i)
	}
	close(goOn)
	value := int64(-1)
	for value < 999 {
		select {
		case e := <-slow:
			if err := e.Decode(&value); err != nil || e.Type == "resync" {
				t.Fatalf("%+v: %v", e, err)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("it is at %d", value)
		}
	}
	if loads.Load() == before {
		t.Error("it was not too slow")
	}
}

func TestASubscriberThatHasMissedEventsGetsNoneWithALatestKeyBeforeItsSnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub := newHub(t, &grouphub.Options{MaxPending: 1000, Logger: quiet(), Policy: func(string) grouphub.GroupPolicy {
			return grouphub.GroupPolicy{Snapshot: func(context.Context, string) (any, error) { return 1, nil }}
		}})
		ctx, cancel := context.WithCancel(background)
		defer cancel()
		goOn := make(chan struct{})
		events := make(chan grouphub.Event, 100)
		if err := hub.Subscribe(ctx, "all", func(e grouphub.Event) { <-goOn; events <- e }); err != nil {
			t.Fatal(err)
		}
		for i := range 20 {
			send(t, hub, "all", "note", i)
		}
		synctest.Wait()
		if hub.Stats().Dropped == 0 {
			t.Fatal("nothing is dropped")
		}
		send(t, hub, "all", "price", 1, grouphub.Latest("gold"))
		synctest.Wait()
		close(goOn)
		time.Sleep(time.Second)
		for snapshots := 0; snapshots < 2; {
			switch e := <-events; e.Type {
			case "snapshot":
				snapshots++
			case "price":
				t.Fatal("a price came before the second snapshot")
			}
		}
	})
}

func TestASubscriberAsksAgainForASnapshotThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		layer := newFaultyLayer()
		var fails atomic.Bool
		hub := grouphub.New(&grouphub.Options{Layer: layer, Logger: quiet(), Policy: func(string) grouphub.GroupPolicy {
			return grouphub.GroupPolicy{Snapshot: func(context.Context, string) (any, error) {
				if fails.Load() {
					return nil, errors.New("on purpose")
				}
				return 1, nil
			}}
		}})
		fails.Store(true)
		if err := hub.Subscribe(background, "all", func(grouphub.Event) {}); !errors.Is(err, grouphub.ErrUnavailable) {
			t.Errorf("without a snapshot: %v", err)
		}
		fails.Store(false)
		events, _ := subscribe(t, hub, "all")
		nextOfType(t, events, "snapshot")
		fails.Store(true)
		layer.receiver.Lost([]string{"g:all"})
		time.Sleep(5 * time.Second)
		fails.Store(false)
		nextOfType(t, events, "snapshot")
		send(t, hub, "all", "note", 1)
		nextOfType(t, events, "note")
		hub.Shutdown(background)
		layer.Close()
	})
}

func TestASubscriberIsToldOfALoss(t *testing.T) {
	layer := newFaultyLayer()
	hub := newHub(t, &grouphub.Options{Layer: layer, Logger: quiet()})
	events, _ := subscribe(t, hub, "all")
	layer.receiver.Lost([]string{"g:all"})
	if e := nextOfType(t, events, "resync"); e.Group != "all" {
		t.Errorf("got %+v", e)
	}
	send(t, hub, "all", "note", 1)
	nextOfType(t, events, "note")
}

func TestASubscriberThatPanicsIsLoggedAndGoesOn(t *testing.T) {
	var log safeBuffer
	hub := newHub(t, &grouphub.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	events := make(chan string, 10)
	ctx, cancel := context.WithCancel(background)
	defer cancel()
	err := hub.Subscribe(ctx, "all", func(e grouphub.Event) {
		if events <- string(e.Data); string(e.Data) == "1" {
			panic("on purpose")
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		send(t, hub, "all", "note", i)
		if got := <-events; got != fmt.Sprint(i) {
			t.Errorf("got %s", got)
		}
	}
	if text := log.String(); !strings.Contains(text, "on purpose") || !strings.Contains(text, "subscribe_test.go") {
		t.Errorf("the log has %s", text)
	}
}

func TestShutdownEndsSubscriptionsAndWaitsForTheirFunctions(t *testing.T) {
	hub := grouphub.New(&grouphub.Options{Logger: quiet()})
	begun, goOn := make(chan struct{}), make(chan struct{})
	var calls atomic.Int32
	err := hub.Subscribe(background, "all", func(grouphub.Event) {
		if calls.Add(1) == 1 {
			close(begun)
			<-goOn
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	send(t, hub, "all", "note", 1)
	send(t, hub, "all", "note", 2) // is dropped
	<-begun
	ended := make(chan error, 1)
	go func() { ended <- hub.Shutdown(background) }()
	untilRefusing(t, hub)
	if err := hub.Subscribe(background, "all", func(grouphub.Event) {}); !errors.Is(err, grouphub.ErrClosed) {
		t.Errorf("Subscribe during Shutdown: %v", err)
	}
	select {
	case err := <-ended:
		t.Errorf("Shutdown has not waited: %v", err)
	default:
	}
	close(goOn)
	if err := <-ended; err != nil || calls.Load() != 1 {
		t.Errorf("Shutdown: %v, after %d calls", err, calls.Load())
	}
}

func TestSubscribeReturnsWhatIsWrong(t *testing.T) {
	hub := newHub(t, nil)
	nothing := func(grouphub.Event) { t.Error("called") }
	if err := hub.Subscribe(background, "", nothing); !errors.Is(err, grouphub.ErrInvalidName) {
		t.Errorf("without a name: %v", err)
	}
	if err := hub.Subscribe(canceled(), "all", nothing); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that has ended: %v", err)
	}
}
