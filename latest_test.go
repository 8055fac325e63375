package grouphub_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
)

// inBubble runs a test with a hub whose one client reads only what it is allowed to.
func inBubble(t *testing.T, opts grouphub.Options, test func(t *testing.T, hub *grouphub.Hub, c *pacedClient)) {
	synctest.Test(t, func(t *testing.T) {
		opts := opts
		opts.Logger, opts.PingInterval, opts.PongTimeout, opts.WriteTimeout = quiet(), time.Hour, 2*time.Hour, time.Hour
		hub := newHub(t, &opts)
		c := dialPaced(t, hub, false, "")
		synctest.Wait()
		test(t, hub, c)
		c.cut()
		synctest.Wait()
	})
}

// readAll has a client read all there is, and returns the numbers; -1 for a Resync.
func (c *pacedClient) readAll() (numbers []int) {
	c.mayRead(10_000)
	synctest.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.read {
		if e.resync {
			numbers = append(numbers, -1)
		} else {
			numbers = append(numbers, e.number)
		}
	}
	return numbers
}

func number(n, size int) map[string]any {
	return map[string]any{"n": n, "pad": strings.Repeat("x", size)}
}

var latestConsumer = grouphub.Consumer{Connect: joinG, Events: grouphub.Events{"n": grouphub.Forward()}}

func TestLatestWinsAndAConnectionThatIsBehindIsNotClosedForTheOthers(t *testing.T) {
	for _, history := range []int{0, 100_000} {
		t.Run(fmt.Sprint("history ", history), func(t *testing.T) {
			inBubble(t, grouphub.Options{Consumer: latestConsumer, Policy: keeping(history), MaxPending: 100_000}, func(t *testing.T, hub *grouphub.Hub, c *pacedClient) {
				for n := 1; n <= 5000; n++ { // 5 MB
					send(t, hub, "g", "n", number(n, 1000), grouphub.Latest(fmt.Sprint(n%10)))
					synctest.Wait()
				}
				send(t, hub, "g", "n", number(5001, 0))
				got := c.readAll()
				// The first was begun at once; later ones waited.
				if len(got) > 12 || got[len(got)-1] != 5001 || got[len(got)-11] != 4991 {
					t.Errorf("got %v", got)
				}
				if s := hub.Stats(); s.Superseded != uint64(5001-len(got)) || s.Dropped != 0 || s.SlowClosed != 0 || s.Resyncs != 0 {
					t.Errorf("%d were read, %+v", len(got), s)
				}
			})
		})
	}
}

func TestLatestWinsAmongHandleCallsThatWait(t *testing.T) {
	for _, history := range []int{0, 1000} {
		t.Run(fmt.Sprint("history ", history), func(t *testing.T) {
			proceed, handled := make(chan struct{}), make(chan int, 100)
			hub := newHub(t, &grouphub.Options{MaxPending: 3000, Policy: keeping(history), Logger: quiet(), Consumer: grouphub.Consumer{
				Connect: joinG,
				Events: grouphub.Events{"n": grouphub.HandleAs(func(_ *grouphub.Conn, e struct{ N int }) error {
					handled <- e.N
					<-proceed
					return nil
				})},
			}})
			hubtest.Dial(t, hub, "/")
			send(t, hub, "g", "n", number(0, 0))
			if got := <-handled; got != 0 {
				t.Fatal(got)
			}
			for n := 1; n <= 100; n++ {
				send(t, hub, "g", "n", number(n, 100), grouphub.Latest(fmt.Sprint(n%4)))
			}
			eventually(t, func() bool { return hub.Stats().Superseded == 96 }, "%v", hub)
			close(proceed)
			for want := 97; want <= 100; want++ {
				if got := <-handled; got != want {
					t.Errorf("got %d, want %d", got, want)
				}
			}
			if s := hub.Stats(); s.Superseded != 96 || s.Dropped != 0 || s.SlowClosed != 0 {
				t.Errorf("%+v", s)
			}
		})
	}
}

func TestLatestWinsForEachConnectionByItself(t *testing.T) {
	conns := make(chan *grouphub.Conn, 1)
	consumer := latestConsumer
	consumer.Connect = func(c *grouphub.Conn) error { conns <- c; return c.Join("g") }
	inBubble(t, grouphub.Options{Consumer: consumer}, func(t *testing.T, hub *grouphub.Hub, c *pacedClient) {
		channel := (<-conns).Channel()
		send(t, hub, "g", "n", number(1, 100_000)) // is begun
		synctest.Wait()
		send(t, hub, "g", "n", number(2, 0), grouphub.Latest("a"))
		send(t, hub, "g", "n", number(3, 0), grouphub.Latest("a"), grouphub.Except(channel))
		if got := fmt.Sprint(c.readAll()); got != "[1 2]" {
			t.Errorf("got %s", got)
		}
	})
}

func TestMoreLatestKeysThanMaxPendingHoldsAreAResyncAndNoClose(t *testing.T) {
	for _, history := range []int{0, 1000} {
		t.Run(fmt.Sprint("history ", history), func(t *testing.T) {
			inBubble(t, grouphub.Options{Consumer: latestConsumer, MaxPending: 10_000, Policy: keeping(history)}, func(t *testing.T, hub *grouphub.Hub, c *pacedClient) {
				for n := 1; n <= 50; n++ {
					send(t, hub, "g", "n", number(n, 1000), grouphub.Latest(fmt.Sprint(n)))
				}
				send(t, hub, "g", "n", number(51, 0)) // behind the gap
				synctest.Wait()
				dropped := hub.Stats().Dropped
				got := c.readAll()
				if got[len(got)-1] != -1 || len(got) != 52-int(dropped) {
					t.Errorf("%d were dropped, got %v", dropped, got)
				}
				send(t, hub, "g", "n", number(52, 0))
				if got := c.readAll(); got[len(got)-1] != 52 {
					t.Errorf("after the Resync: %v", got)
				}
				if s := hub.Stats(); s.SlowClosed != 0 || s.Resyncs != 1 || s.Superseded != 0 {
					t.Errorf("%+v", s)
				}
			})
		})
	}
}

func TestMoreLatestKeysThanMaxPendingHoldsAreASnapshotInAGroupThatHasThem(t *testing.T) {
	for _, history := range []int{0, 1000} {
		t.Run(fmt.Sprint("history ", history), func(t *testing.T) {
			state := 0
			policy := func(string) grouphub.GroupPolicy {
				return grouphub.GroupPolicy{History: history, Snapshot: func(context.Context, string) (any, error) {
					return map[string]int{"n": state}, nil
				}}
			}
			consumer := grouphub.Consumer{Connect: joinG, Events: grouphub.Events{"n": grouphub.Forward(), "snapshot": grouphub.Render(func(e grouphub.Event) ([]byte, error) {
				return []byte(`{"type":"n","data":` + string(e.Data) + `}`), nil
			})}}
			inBubble(t, grouphub.Options{Consumer: consumer, MaxPending: 10_000, Policy: policy}, func(t *testing.T, hub *grouphub.Hub, c *pacedClient) {
				if got := c.readAll(); len(got) != 1 || got[0] != 0 {
					t.Fatalf("got %v, want a snapshot", got)
				}
				c.mayRead(-1)
				for n := 1; n <= 50; n++ {
					state = n
					send(t, hub, "g", "n", number(n, 1000), grouphub.Latest(fmt.Sprint(n)))
					synctest.Wait()
				}
				c.readAll()
				time.Sleep(time.Second) // loads have a pause between them
				got := c.readAll()
				if len(got) > 20 || got[len(got)-1] != 50 {
					t.Errorf("got %v", got)
				}
				if s := hub.Stats(); s.SlowClosed != 0 || s.Resyncs != 0 || s.Dropped == 0 {
					t.Errorf("%+v", s)
				}
			})
		})
	}
}

func TestReplayLeavesOutWhatALaterEventReplaces(t *testing.T) {
	hub := newHub(t, &grouphub.Options{Policy: keeping(10_000), Consumer: grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error { return c.Join("g", grouphub.Last(10_000)) },
		Events:  grouphub.Events{"n": grouphub.Forward()},
	}})
	for n := 1; n <= 1000; n++ {
		send(t, hub, "g", "n", n, grouphub.Latest("a"))
	}
	send(t, hub, "g", "n", 1001)
	c := hubtest.Dial(t, hub, "/")
	if e := c.ExpectEvent("n"); string(e.Data) != "1000" {
		t.Errorf("got %s", e.Data)
	}
	e := c.ExpectEvent("n")
	if string(e.Data) != "1001" {
		t.Errorf("got %s", e.Data)
	}
	if got := hub.Stats().Superseded; got != 999 {
		t.Errorf("%d are superseded", got)
	}
}

func TestLatestKeyIsANameLikeOthers(t *testing.T) {
	hub := newHub(t, nil)
	for _, key := range []string{"", strings.Repeat("x", 256), "a\x00b", "\xff"} {
		err := hub.GroupSend(background, "g", "n", 1, grouphub.Latest(key))
		if !errors.Is(err, grouphub.ErrInvalidName) || !strings.Contains(err.Error(), "Latest key") {
			t.Errorf("the key %.20q: %v", key, err)
		}
	}
	if err := hub.GroupSend(background, "g", "n", 1, grouphub.Latest(strings.Repeat("x", 255))); err != nil {
		t.Error(err)
	}
	if s := hub.Stats(); s.Published != 1 {
		t.Errorf("%+v", s)
	}
}

func TestLatestAndOnceWorkTogether(t *testing.T) {
	hub := newHub(t, &grouphub.Options{Policy: keeping(10), Consumer: latestConsumer})
	c := hubtest.Dial(t, hub, "/")
	send(t, hub, "g", "n", 1, grouphub.Latest("a"), grouphub.Once("one"))
	if e := c.ExpectEvent("n"); string(e.Data) != "1" {
		t.Errorf("got %s, want 1", e.Data)
	}
	send(t, hub, "g", "n", 1, grouphub.Latest("a"), grouphub.Once("one"))
	send(t, hub, "g", "n", 2, grouphub.Once("two"), grouphub.Latest("a"))
	if e := c.ExpectEvent("n"); string(e.Data) != "2" {
		t.Errorf("got %s, want 2", e.Data)
	}
}

func TestLatestEventIsTheSameForWhoKeepsUp(t *testing.T) {
	hub := newHub(t, &grouphub.Options{Consumer: latestConsumer})
	c := hubtest.Dial(t, hub, "/")
	send(t, hub, "g", "n", 1, grouphub.Latest("a"))
	var e map[string]any
	if err := json.Unmarshal(c.Next().Data, &e); err != nil || len(e) != 3 {
		t.Errorf("got %v, %v", e, err)
	}
}

func TestEventThatAConditionRefusesReplacesNothingInAReplay(t *testing.T) {
	hub := newHub(t, &grouphub.Options{Logger: quiet(),
		Policy: func(string) grouphub.GroupPolicy { return grouphub.GroupPolicy{History: 10} },
		Consumer: grouphub.Consumer{
			Connect: func(c *grouphub.Conn) error { return c.Join("all", grouphub.Last(10)) },
			Events: grouphub.Events{"price": grouphub.Forward().If(func(_ *grouphub.Conn, e grouphub.Event) bool {
				return string(e.Data) != "2"
			})},
		}})
	for i := 1; i <= 2; i++ {
		if err := hub.GroupSend(background, "all", "price", i, grouphub.Latest("gold")); err != nil {
			t.Fatal(err)
		}
	}
	c := hubtest.Dial(t, hub, "/")
	if e := c.ExpectEvent("price"); string(e.Data) != "1" {
		t.Errorf("got %+v", e)
	}
}
