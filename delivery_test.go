package grouphub_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
)

func TestOrderIsTheSameForAllMembers(t *testing.T) {
	const senders, each, members = 4, 300, 9
	hub := hubOf(t, noteConsumer)
	var clients []*hubtest.Client
	for range members {
		clients = append(clients, hubtest.Dial(t, hub, "/"))
	}
	sendFromMany(t, senders, each, hub)
	expectOneOrder(t, clients, senders, each)
}

func TestForwardAndRenderKeepTheOrderAmongThemselves(t *testing.T) {
	hub := hubOf(t, grouphub.Consumer{Connect: joinAll, Events: grouphub.Events{
		"forward": grouphub.Forward(),
		"render": grouphub.Render(func(e grouphub.Event) ([]byte, error) {
			time.Sleep(time.Duration(rand.IntN(100)) * time.Microsecond) // work of varying length
			return []byte(e.Data), nil
		}),
	}})
	a, b := hubtest.Dial(t, hub, "/"), hubtest.Dial(t, hub, "/")
	for i := range 300 {
		send(t, hub, "all", []string{"forward", "render"}[i%2], i)
	}
	for i := range 300 {
		for _, c := range []*hubtest.Client{a, b} {
			if i%2 == 0 {
				c.Expect(fmt.Sprintf(`{"type":"forward","group":"all","data":%d}`, i))
			} else {
				c.Expect(fmt.Sprint(i))
			}
		}
	}
}

func TestForwardDoesNotWaitForHandle(t *testing.T) {
	entered, proceed := make(chan struct{}, 1), make(chan struct{})
	hub := hubOf(t, grouphub.Consumer{Connect: joinAll, Events: grouphub.Events{
		"note": grouphub.Forward(),
		"work": grouphub.Handle(func(c *grouphub.Conn, e grouphub.Event) error {
			entered <- struct{}{}
			<-proceed
			return c.Send([]byte("worked"))
		}),
	}})
	c := hubtest.Dial(t, hub, "/")
	send(t, hub, "all", "work", nil)
	<-entered
	for i := range 100 {
		send(t, hub, "all", "note", i)
	}
	for i := range 100 {
		c.Expect(fmt.Sprintf(`{"type":"note","group":"all","data":%d}`, i))
	}
	close(proceed)
	c.Expect("worked")
}

func TestHandleDoesNotWaitForForward(t *testing.T) {
	// More than the kernel takes, so that frames wait until the client reads.
	const events, size = 12, 768 << 10
	handled := make(chan struct{})
	hub := newHub(t, &grouphub.Options{MaxPending: 2 * events * size, Consumer: grouphub.Consumer{Connect: joinAll, Events: grouphub.Events{
		"note": grouphub.Forward(),
		"work": grouphub.Handle(func(*grouphub.Conn, grouphub.Event) error { close(handled); return nil }),
	}}})
	c := serve(t, hub).dial("/")
	text := strings.Repeat("x", size)
	for range events {
		send(t, hub, "all", "note", text)
	}
	send(t, hub, "all", "work", nil)
	<-handled
	for range events {
		if got := next(t, c); len(got) < size {
			t.Fatalf("got %.100q", got)
		}
	}
}

func TestRenderRunsConcurrentlyForDifferentEvents(t *testing.T) {
	meet := meeting(t, "Render")
	hub := hubOf(t, grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error { return errors.Join(c.Join("a"), c.Join("b")) },
		Events:  grouphub.Events{"note": grouphub.Render(func(grouphub.Event) ([]byte, error) { meet(); return []byte("met"), nil })},
	})
	c := hubtest.Dial(t, hub, "/")
	send(t, hub, "a", "note", 1)
	send(t, hub, "b", "note", 1)
	c.Expect("met")
	c.Expect("met")
}

func TestRenderRunsOncePerEventAndDelaysOnlyItsGroup(t *testing.T) {
	var mu sync.Mutex
	calls := 0
	proceed := make(chan struct{})
	hub := hubOf(t, grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error { return errors.Join(c.Join("slow"), c.Join("quick")) },
		Events: grouphub.Events{
			"render": grouphub.Render(func(e grouphub.Event) ([]byte, error) {
				mu.Lock()
				calls++
				mu.Unlock()
				<-proceed
				return []byte("rendered"), nil
			}),
			"note": grouphub.Forward(),
		},
	})
	var clients []*hubtest.Client
	for range 8 {
		clients = append(clients, hubtest.Dial(t, hub, "/"))
	}
	send(t, hub, "slow", "render", nil)
	send(t, hub, "slow", "note", 1)
	send(t, hub, "quick", "note", 2)
	for _, c := range clients {
		c.Expect(`{"type":"note","group":"quick","data":2}`)
	}
	close(proceed)
	for _, c := range clients {
		c.Expect("rendered")
		c.Expect(`{"type":"note","group":"slow","data":1}`)
	}
	if calls != 1 {
		t.Errorf("rendered %d times", calls)
	}
}
