package grouphub_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
)

func TestJoinedMeansJoined(t *testing.T) {
	layer := grouphub.NewMemoryLayer()
	other := newHub(t, &grouphub.Options{Layer: layer})
	conns := make(chan *grouphub.Conn, 1)
	hub := newHub(t, &grouphub.Options{Layer: layer, Consumer: grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error { conns <- c; return nil },
		Events:  grouphub.Events{"note": grouphub.Forward()},
	}})
	c := hubtest.Dial(t, hub, "/")
	conn := <-conns
	for i := range 200 {
		group := fmt.Sprint("g", i)
		var err error
		if i%2 == 0 {
			err = conn.Join(group)
		} else {
			err = hub.GroupAdd(background, group, conn.Channel())
		}
		if err != nil {
			t.Fatal(err)
		}
		send(t, other, group, "note", i)
		c.Expect(fmt.Sprintf(`{"type":"note","group":"%s","data":%d}`, group, i))
	}
	// Joining again changes nothing, and one Leave ends it.
	for range 3 {
		if err := conn.Join("g0"); err != nil {
			t.Fatal(err)
		}
	}
	send(t, other, "g0", "note", 1)
	c.ExpectEvent("note")
	if err := hub.GroupDiscard(background, "g0", conn.Channel()); err != nil {
		t.Fatal(err)
	}
	send(t, other, "g0", "note", "missed")
	send(t, other, "g1", "note", "seen")
	c.Expect(`{"type":"note","group":"g1","data":"seen"}`)
}

// Two Joins of one group at the same time are one, and neither returns before it is done.
func TestJoinedMeansJoinedForTwoAtOnce(t *testing.T) {
	hub, conns := connections(t, grouphub.Consumer{})
	hubtest.Dial(t, hub, "/")
	conn := <-conns
	for range 30_000 {
		var joining sync.WaitGroup
		for range 4 {
			joining.Go(func() {
				if err := conn.Join("g"); err != nil || len(conn.Groups()) != 1 {
					t.Errorf("Join: %v, and the connection is in %q", err, conn.Groups())
				}
			})
		}
		joining.Wait()
		if err := conn.Leave("g"); err != nil || len(conn.Groups()) != 0 {
			t.Errorf("Leave: %v, and the connection is in %q", err, conn.Groups())
		}
	}
}

func TestLeftMeansLeft(t *testing.T) {
	hub, conns := connections(t, noteConsumer)
	c := hubtest.Dial(t, hub, "/")
	conn := <-conns
	for i := range 500 {
		if err := conn.Leave("all"); err != nil {
			t.Fatal(err)
		}
		send(t, hub, "all", "note", "missed")
		if err := conn.Join("all"); err != nil {
			t.Fatal(err)
		}
		send(t, hub, "all", "note", i)
		c.Expect(fmt.Sprintf(`{"type":"note","group":"all","data":%d}`, i))
	}
	if err := conn.Leave("never joined"); err != nil {
		t.Error(err)
	}
}

func TestManyJoinAndLeaveWhileEventsFlow(t *testing.T) {
	hub, conns := connections(t, grouphub.Consumer{Events: grouphub.Events{"note": grouphub.Forward()}})
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				send(t, hub, fmt.Sprint("g", i%5), "note", i)
			}
		}
	})
	var members sync.WaitGroup
	for n := range 8 {
		c := hubtest.Dial(t, hub, "/")
		conn := <-conns
		members.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(n)))
			for range 300 {
				group := fmt.Sprint("g", r.IntN(5))
				var err error
				switch r.IntN(3) {
				case 0:
					err = conn.Leave(group)
				default:
					err = conn.Join(group)
				}
				if err != nil {
					t.Error(err)
				}
			}
			c.Close()
		})
	}
	members.Wait()
	close(stop)
	wg.Wait()
	eventually(t, func() bool { return hub.Stats().Conns == 0 && hub.Stats().Groups == 0 }, "%+v", hub.Stats())
}

func TestUsersGroupIsJoinedBeforeConnect(t *testing.T) {
	hub := hubOf(t, grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error {
			return c.Hub().GroupSend(c.Context(), grouphub.UserGroup("ann"), "note", "welcome")
		},
		Events: grouphub.Events{"note": grouphub.Forward()},
	})
	hubtest.Dial(t, authenticate(hub), "/?user=ann").Expect(`{"type":"note","group":"!user/ann","data":"welcome"}`)
}

func TestUsersGroupIsNobodyElses(t *testing.T) {
	group := grouphub.UserGroup("ann")
	hub := hubOf(t, grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error {
			for name, err := range map[string]error{
				"Join": c.Join(group), "Leave": c.Leave(group),
				"GroupAdd":     c.Hub().GroupAdd(background, group, c.Channel()),
				"GroupDiscard": c.Hub().GroupDiscard(background, group, c.Channel()),
			} {
				if !errors.Is(err, grouphub.ErrInvalidName) {
					t.Errorf("%s: %v", name, err)
				}
			}
			return c.Send([]byte("ok"))
		},
	})
	hubtest.Dial(t, hub, "/").Expect("ok")
}

func TestAJoinLastsFiveSecondsInAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// The subscription is confirmed, and the history read, just in time.
		const late = 4 * time.Second
		layer := newFaultyLayer()
		layer.reading = func(topic string) {
			if topic == "g:g" {
				time.Sleep(late)
			}
		}
		layer.adding = func(topics []string) error {
			if topics[0] == "g:g" {
				time.Sleep(late)
			}
			return nil
		}
		conns := make(chan *grouphub.Conn, 1)
		hub := grouphub.New(handOver(layer, conns))
		c := hubtest.Dial(t, hub, "/")
		begun := time.Now()
		err := (<-conns).Join("g")
		if took := time.Since(begun); took != 5*time.Second || !errors.Is(err, grouphub.ErrUnavailable) {
			t.Errorf("%v after %v", err, took)
		}
		c.Close()
		hub.Shutdown(background)
	})
}

// Of two at the same time one replays. The other has its word only when that is over.
func TestAJoinWaitsForTheOneThatIsUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conns := make(chan *grouphub.Conn, 1)
		hub := grouphub.New(handOver(nil, conns))
		c, conn := slowToResume(t, hub, conns)
		ctx, giveUp := context.WithCancel(background)
		added, joined := make(chan error, 1), make(chan error, 1)
		go func() { added <- hub.GroupAdd(ctx, "g", conn.Channel()) }()
		synctest.Wait()
		go func() { joined <- conn.Join("g") }()
		synctest.Wait()
		giveUp()
		if err := <-added; !errors.Is(err, context.Canceled) {
			t.Errorf("GroupAdd: %v", err)
		}
		synctest.Wait()
		select {
		case err := <-joined:
			t.Errorf("Join returned %v before the client had what it missed", err)
		default:
		}
		readSlow(t, c)
		if err := <-joined; err != nil || !slices.Equal(conn.Groups(), []string{"g"}) {
			t.Errorf("Join: %v, and the connection is in %q", err, conn.Groups())
		}
		c.Close()
		hub.Shutdown(background)
	})
}

func TestGroupAddLastsFiveSecondsAndTheNextOneGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conns := make(chan *grouphub.Conn, 1)
		hub := grouphub.New(handOver(nil, conns))
		c, conn := slowToResume(t, hub, conns)
		begun := time.Now()
		err := hub.GroupAdd(background, "g", conn.Channel())
		if took := time.Since(begun); took != 5*time.Second || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v after %v", err, took)
		}
		added := make(chan error)
		go func() { added <- hub.GroupAdd(background, "g", conn.Channel()) }()
		readSlow(t, c)
		if err := <-added; err != nil {
			t.Error(err)
		}
		c.Close()
		hub.Shutdown(background)
	})
}

func TestASlowReplayHoldsUpNoOtherConnectionsGroupAdd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		layer := grouphub.NewMemoryLayer()
		conns := make(chan *grouphub.Conn, 1)
		hub, remote := grouphub.New(handOver(layer, conns)), grouphub.New(&grouphub.Options{Layer: layer})
		c, slow := slowToResume(t, hub, conns)
		d := hubtest.Dial(t, hub, "/")
		other := <-conns
		for _, add := range []struct {
			group string
			conn  *grouphub.Conn
		}{{"g", slow}, {"h", slow}, {"h", other}} {
			if err := remote.GroupAdd(background, add.group, add.conn.Channel()); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if groups := other.Groups(); !slices.Equal(groups, []string{"h"}) {
			t.Errorf("the other one is in %q", groups)
		}
		if groups := slow.Groups(); len(groups) != 0 { // one after the other
			t.Errorf("the slow one is in %q", groups)
		}
		readSlow(t, c)
		synctest.Wait()
		if groups := slow.Groups(); !slices.Equal(groups, []string{"g", "h"}) {
			t.Errorf("the slow one is in %q", groups)
		}
		c.Close()
		d.Close()
		hub.Shutdown(background)
		remote.Shutdown(background)
		layer.Close()
	})
}

func TestJoinAfterTheEndIsErrClosedOnEveryLayer(t *testing.T) {
	for name, layer := range map[string]grouphub.Layer{
		"Memory": grouphub.NewMemoryLayer(),
		"Redis":  redisLayer(t, "redis://"+miniredis.RunT(t).Addr(), nil),
	} {
		for _, policy := range []grouphub.GroupPolicy{{}, {History: 10}} {
			t.Run(fmt.Sprintf("%s/History=%d", name, policy.History), func(t *testing.T) {
				conns := make(chan *grouphub.Conn, 1)
				hub := newHub(t, &grouphub.Options{Layer: layer, Policy: func(string) grouphub.GroupPolicy { return policy },
					Consumer: grouphub.Consumer{Connect: func(c *grouphub.Conn) error { conns <- c; return nil }}})
				hubtest.Dial(t, hub, "/").Close()
				c := <-conns
				<-c.Context().Done()
				if err := c.Join("g"); !errors.Is(err, grouphub.ErrClosed) || errors.Is(err, grouphub.ErrUnavailable) {
					t.Errorf("Join: %v, want ErrClosed", err)
				}
				if err := hub.GroupAdd(background, "g", c.Channel()); !errors.Is(err, grouphub.ErrClosed) || errors.Is(err, grouphub.ErrUnavailable) {
					t.Errorf("GroupAdd: %v, want ErrClosed", err)
				}
				if n := hub.Stats().Groups; n != 0 {
					t.Errorf("%d groups are left", n)
				}
			})
		}
	}
}
