package grouphub_test

import (
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
	"github.com/seed-29c60982/grouphub/internal/redistest"
)

func TestLogoutWorks(t *testing.T) {
	layer := grouphub.NewMemoryLayer()
	channels := make(chan string, 1)
	dial := func(hub *grouphub.Hub, user string) *hubtest.Client {
		return hubtest.Dial(t, authenticate(hub), "/?user="+user)
	}
	options := &grouphub.Options{Layer: layer, Consumer: grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error {
			channels <- c.Channel()
			if len(c.Groups()) != 0 {
				t.Errorf("groups %q", c.Groups())
			}
			return nil
		},
		Receive: func(c *grouphub.Conn, m grouphub.Message) error { return c.Send([]byte(c.User().ID)) },
		Events:  grouphub.Events{"note": grouphub.Forward()},
	}}
	one, two := newHub(t, options), newHub(t, options)
	ann1 := dial(one, "ann")
	<-channels
	ann2 := dial(two, "ann")
	kept := <-channels
	bob := dial(one, "bob")
	<-channels
	dial(one, "") // anonymous, in no group
	<-channels
	send(t, two, grouphub.UserGroup("ann"), "note", 1)
	ann1.ExpectEvent("note")
	ann2.ExpectEvent("note")
	if err := one.GroupClose(background, grouphub.UserGroup("ann"), 4401, "logged out", grouphub.Except(kept)); err != nil {
		t.Fatal(err)
	}
	ann1.ExpectClose(4401)
	ann2.Send("x")
	ann2.Expect("ann")
	bob.Send("x")
	bob.Expect("bob")
}

func TestLogoutReachesAHubThatWasCutOff(t *testing.T) {
	redistest.OnBoth(t, func(t *testing.T, url string) {
		proxy := redistest.StartProxy(t, url)
		cutOff := newHub(t, &grouphub.Options{Layer: layerBehind(t, proxy), Logger: quiet()})
		other := newHub(t, &grouphub.Options{Layer: redisLayer(t, url, nil), Logger: quiet()})
		ann, bob := hubtest.Dial(t, authenticate(cutOff), "/?user=ann"), hubtest.Dial(t, authenticate(cutOff), "/?user=bob")
		proxy.Cut()
		eventually(t, func() bool { return !cutOff.Stats().LayerUp }, "the hub notices nothing")
		if err := other.GroupClose(background, grouphub.UserGroup("ann"), 4401, "logged out"); err != nil {
			t.Fatal(err)
		}
		proxy.Mend()
		ann.Expect(`{"type":"resync","group":"!user/ann"}`) // a group without history
		ann.ExpectClose(4401)
		eventually(t, func() bool { return cutOff.Stats().LayerUp }, "the hub is not back")
		bob.Expect(`{"type":"resync","group":"!user/bob"}`)
		if err := other.GroupClose(background, grouphub.UserGroup("bob"), 4402, ""); err != nil {
			t.Fatal(err)
		}
		bob.ExpectClose(4402)
	})
}

func TestLogoutReachesEveryHubThroughRedis(t *testing.T) {
	t.Parallel()
	conns := make(chan *grouphub.Conn, 1)
	a, b := redisHubs(t, redistest.Start(t), grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error { conns <- c; return nil },
		Receive: func(c *grouphub.Conn, m grouphub.Message) error { return c.Send(m.Data) },
	})
	dial := func(hub *grouphub.Hub, user string) (*hubtest.Client, *grouphub.Conn) {
		return hubtest.Dial(t, authenticate(hub), "/?user="+user), <-conns
	}
	here, _ := dial(a, "ann")
	there, _ := dial(b, "ann")
	kept, keptConn := dial(b, "ann")
	bob, _ := dial(b, "bob")
	err := a.GroupClose(background, grouphub.UserGroup("ann"), 4401, "logged out", grouphub.Except(keptConn.Channel()))
	if err != nil {
		t.Fatal(err)
	}
	here.ExpectClose(4401)
	there.ExpectClose(4401)
	for _, c := range []*hubtest.Client{kept, bob} {
		c.Send("still here")
		c.Expect("still here")
	}
}

func TestCommandsThatAreGoneCloseWhoMayHaveBeenLoggedOut(t *testing.T) {
	t.Parallel()
	layer := newFaultyLayer()
	echo := grouphub.Consumer{Receive: func(c *grouphub.Conn, m grouphub.Message) error { return c.Send(m.Data) }}
	hub := newHub(t, &grouphub.Options{Layer: layer, Consumer: echo})
	other := newHub(t, &grouphub.Options{Layer: layer.MemoryLayer})
	h := authenticate(hub)
	ann, bob, anonymous := hubtest.Dial(t, h, "/?user=ann"), hubtest.Dial(t, h, "/?user=bob"), hubtest.Dial(t, h, "/")
	logout := func(user string) {
		t.Helper()
		if err := other.GroupClose(background, grouphub.UserGroup(user), 4401, "logged out"); err != nil {
			t.Fatal(err)
		}
	}

	// The commands that are kept are carried out afterwards, and nobody else is closed.
	layer.cut()
	logout("ann")
	layer.mend()
	ann.ExpectClose(4401)
	bob.Send("still here")
	bob.Expect("still here")

	// There are more commands than are kept.
	layer.cut()
	logout("bob")
	for range 10_000 {
		logout("somebody")
	}
	layer.mend()
	bob.ExpectClose(1012)
	anonymous.Send("still here")
	anonymous.Expect("still here")
}

func TestAMissedGroupCloseIsNoticedWithoutHistoryOrPresence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		layer := newFaultyLayer()
		layer.setFault(func(p grouphub.Publication) []grouphub.Publication {
			if p.Topic == "c:all" { // what is told to all hubs
				return nil
			}
			return []grouphub.Publication{p}
		})
		hub := grouphub.New(&grouphub.Options{Layer: layer, Consumer: noteConsumer})
		c := hubtest.Dial(t, hub, "/")
		synctest.Wait() // by now the hub knows how many commands came before its time
		if err := hub.GroupClose(background, "all", 4000, "bye"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Second)
		c.ExpectClose(4000)
		c.Close()
		hub.Shutdown(background)
		layer.Close()
	})
}

func TestGroupCloseComesAfterTheEventsThatWaitForTheHistory(t *testing.T) {
	t.Parallel()
	gate := make(chan struct{})
	close(gate)
	layer := newFaultyLayer()
	layer.reading = func(topic string) {
		if topic == "g:g" {
			<-gate
		}
	}
	hub := historyHub(t, layer)
	c := hubtest.Dial(t, hub, "/g?resume=")
	c.ExpectEvent("grouphub.position")
	gate = make(chan struct{})
	layer.setFault(loseAll)
	sendNumbers(t, hub, "g", 1, 1)
	layer.setFault(nil)
	sendNumbers(t, hub, "g", 2, 2) // and 1 is missing
	if err := hub.GroupClose(background, "g", 4000, "bye"); err != nil {
		t.Fatal(err)
	}
	close(gate)
	expectNumbers(t, c, 1, 2)
	c.ExpectClose(4000)
}

func TestAHubDoesNotObeyWhatWasSaidBeforeItsTime(t *testing.T) {
	layer := newFaultyLayer()
	one := newHub(t, &grouphub.Options{Layer: layer.MemoryLayer})
	if err := one.GroupClose(background, "all", 4000, "old"); err != nil {
		t.Fatal(err)
	}
	begun, gate := make(chan struct{}, 1), make(chan struct{})
	layer.reading = func(topic string) {
		if topic == "c:all" {
			begun <- struct{}{}
			<-gate
		}
	}
	two := newHub(t, &grouphub.Options{Layer: layer, Consumer: noteConsumer})
	<-begun
	dialed := make(chan *hubtest.Client)
	go func() { dialed <- hubtest.Dial(t, two, "/") }() // its Join waits for what is read
	close(gate)
	old := <-dialed
	send(t, two, "all", "note", 1)
	old.ExpectEvent("note")
	// By the time that a new command is carried out, an old one would have been.
	if err := one.GroupClose(background, "all", 4001, "new"); err != nil {
		t.Fatal(err)
	}
	old.ExpectClose(4001)
}

func TestAFullGroupNamedLikeATopicOfHubsHoldsNoCommandUp(t *testing.T) {
	unblock := make(chan struct{})
	hub := newHub(t, &grouphub.Options{MaxPending: 4 << 20, Consumer: grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error { return c.Join("c:all") },
		Events: grouphub.Events{"note": grouphub.Render(func(grouphub.Event) ([]byte, error) {
			<-unblock
			return nil, nil
		})},
	}})
	defer close(unblock)
	hubtest.Dial(t, hub, "/")
	for range 8 { // more than may wait for a group
		send(t, hub, "c:all", "note", make([]byte, 100_000))
	}
	if err := hub.GroupClose(background, "unrelated", 4000, ""); err != nil {
		t.Error(err)
	}
}

func TestAPolicyThatPanicsForAnotherHubClosesThatConnection(t *testing.T) {
	layer := grouphub.NewMemoryLayer()
	conns := make(chan *grouphub.Conn, 1)
	options := handOver(layer, conns)
	options.Logger = slog.New(slog.DiscardHandler)
	options.Policy = func(string) grouphub.GroupPolicy { panic("not a name that this policy knows") }
	c := hubtest.Dial(t, newHub(t, options), "/")
	remote := newHub(t, &grouphub.Options{Layer: layer})
	if err := remote.GroupAdd(background, "g", (<-conns).Channel()); err != nil {
		t.Fatal(err)
	}
	c.ExpectClose(1011)
}

func TestClosesForAMissedLogoutAreSpreadOverTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		layer := newFaultyLayer()
		hub := grouphub.New(&grouphub.Options{Layer: layer, Logger: quiet()})
		h := authenticate(hub)
		const users = 200
		var clients []*hubtest.Client
		for i := range users {
			clients = append(clients, hubtest.Dial(t, h, fmt.Sprint("/?user=", i)))
		}
		other := grouphub.New(&grouphub.Options{Layer: layer.MemoryLayer})
		layer.cut()
		for range 10_001 { // more than are kept
			if err := other.GroupClose(background, grouphub.UserGroup("somebody"), 4401, "logged out"); err != nil {
				t.Fatal(err)
			}
		}
		layer.mend()
		var mu sync.Mutex
		var first, last time.Time
		var closing sync.WaitGroup
		for _, c := range clients {
			closing.Go(func() {
				c.ExpectClose(1012)
				mu.Lock()
				defer mu.Unlock()
				if now := time.Now(); first.IsZero() {
					first, last = now, now
				} else {
					last = now
				}
			})
		}
		closing.Wait()
		if took := last.Sub(first); took < users*400*time.Microsecond || took > time.Second {
			t.Errorf("%d connections were closed within %v", users, took)
		}
		hub.Shutdown(background)
		other.Shutdown(background)
		layer.Close()
	})
}

func TestNobodyIsAMemberBeforeTheHubHearsOfGroupCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		layer := newFaultyLayer()
		defer layer.Close()
		layer.down.Store(true)
		hub := newHub(t, &grouphub.Options{Layer: layer, Consumer: noteConsumer, Logger: quiet()})
		joined := make(chan *hubtest.Client)
		go func() { joined <- hubtest.Dial(t, hub, "/") }()
		time.Sleep(time.Second)
		select {
		case <-joined:
			t.Fatal("a connection is a member that no GroupClose would close")
		default:
		}
		layer.down.Store(false)
		c := <-joined
		if err := hub.GroupClose(background, "all", 4000, ""); err != nil {
			t.Fatal(err)
		}
		c.ExpectClose(4000)
		c.Close()
		hub.Shutdown(background)
	})
}
