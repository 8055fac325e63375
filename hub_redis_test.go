package grouphub_test

import (
	"context"
	"errors"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
	"github.com/seed-29c60982/grouphub/internal/redistest"
)

func TestPingRightAfterNewWaitsForTheSubscription(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	for range 20 {
		hub := newHub(t, &grouphub.Options{Layer: redisLayer(t, s.URL(), nil)})
		if err := hub.Ping(background); err != nil {
			t.Error(err)
		}
	}
}

func TestEventsCrossBothWaysThroughRedisInOrder(t *testing.T) {
	t.Parallel()
	const each = 300
	a, b := redisHubs(t, redistest.Start(t), noteConsumer)
	var ofA, ofB []*hubtest.Client
	for range 3 {
		ofA, ofB = append(ofA, hubtest.Dial(t, a, "/")), append(ofB, hubtest.Dial(t, b, "/"))
	}
	sendFromMany(t, 2, each, a, b)
	for _, clients := range [][]*hubtest.Client{ofA, ofB} { // without history each hub has an order of its own
		expectOneOrder(t, clients, 2, each)
	}
}

func TestCommandsCrossThroughRedis(t *testing.T) {
	t.Parallel()
	conns := make(chan *grouphub.Conn, 1)
	a, b := redisHubs(t, redistest.Start(t), grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error { conns <- c; return nil },
		Events:  grouphub.Events{"*": grouphub.Forward()},
	})
	ann := hubtest.Dial(t, a, "/")
	annConn := <-conns
	bob := hubtest.Dial(t, b, "/")
	bobConn := <-conns

	// Each is added by the other's hub.
	if err := errors.Join(b.GroupAdd(background, "g", annConn.Channel()), a.GroupAdd(background, "g", bobConn.Channel())); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { return len(annConn.Groups()) == 1 && len(bobConn.Groups()) == 1 }, "they are not both added")
	send(t, a, "g", "note", "for all")
	send(t, a, "g", "note", "not for Bob", grouphub.Except(bobConn.Channel()))
	send(t, a, "g", "note", "not for Ann", grouphub.Except(annConn.Channel(), "nobody"))
	ann.Expect(`{"type":"note","group":"g","data":"for all"}`)
	ann.Expect(`{"type":"note","group":"g","data":"not for Bob"}`)
	bob.Expect(`{"type":"note","group":"g","data":"for all"}`)
	bob.Expect(`{"type":"note","group":"g","data":"not for Ann"}`)

	if err := a.Send(background, bobConn.Channel(), "direct", 1); err != nil {
		t.Fatal(err)
	}
	bob.Expect(`{"type":"direct","data":1}`)

	if err := a.GroupDiscard(background, "g", bobConn.Channel()); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { return len(bobConn.Groups()) == 0 }, "Bob is not discarded")
	send(t, b, "g", "note", "for Ann alone")
	ann.Expect(`{"type":"note","group":"g","data":"for Ann alone"}`)

	// Whoever is excepted stays; what was sent before arrives first. What b has sent so
	// far has come back when Ping has, and is none of Bob's.
	if err := errors.Join(b.Ping(background), b.GroupAdd(background, "g", bobConn.Channel())); err != nil {
		t.Fatal(err)
	}
	send(t, b, "g", "note", "last")
	if err := b.GroupClose(background, "g", 4000, "closing time", grouphub.Except(bobConn.Channel())); err != nil {
		t.Fatal(err)
	}
	ann.Expect(`{"type":"note","group":"g","data":"last"}`)
	ann.ExpectClose(4000)
	send(t, a, "g", "note", "after")
	bob.Expect(`{"type":"note","group":"g","data":"last"}`)
	bob.Expect(`{"type":"note","group":"g","data":"after"}`)

	if err := a.Send(background, "jobs", "job", "cat.jpg"); err != nil {
		t.Fatal(err)
	}
	if job, err := b.Receive(background, "jobs"); err != nil || job.Type != "job" || string(job.Data) != `"cat.jpg"` {
		t.Errorf("Receive: %+v, %v", job, err)
	}
}

func TestRedisThatIsKilledAndComesBackClosesNoSocket(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	told, resync := resyncs()
	consumer := func(resync func(*grouphub.Conn, []string), groups ...string) grouphub.Consumer {
		return grouphub.Consumer{
			Connect: func(c *grouphub.Conn) error {
				for _, group := range groups {
					if err := c.Join(group); err != nil {
						return err
					}
				}
				return nil
			},
			Receive: func(c *grouphub.Conn, m grouphub.Message) error { return c.Send(m.Data) },
			Resync:  resync,
			Events:  grouphub.Events{"note": grouphub.Forward()},
		}
	}
	a, b := redisHubs(t, s, grouphub.Consumer{})
	both := hubtest.Dial(t, a.Handler(consumer(resync, "two", "one")), "/")
	plain := hubtest.Dial(t, a.Handler(consumer(nil, "one")), "/")
	stranger := hubtest.Dial(t, a.Handler(consumer(resync)), "/")
	ann := hubtest.Dial(t, authenticate(a.Handler(consumer(nil))), "/?user=ann")
	elsewhere := hubtest.Dial(t, b.Handler(consumer(nil, "one")), "/")
	clients := []*hubtest.Client{both, plain, stranger, ann, elsewhere}

	for round := range uint64(2) {
		send(t, b, "one", "note", "before")
		for _, c := range []*hubtest.Client{both, plain, elsewhere} {
			c.ExpectEvent("note")
		}
		s.Kill()
		eventually(t, func() bool { return !a.Stats().LayerUp && !b.Stats().LayerUp }, "the hubs notice nothing")
		for name, call := range map[string]func(context.Context) error{
			"GroupSend":  func(ctx context.Context) error { return a.GroupSend(ctx, "one", "note", "meanwhile") },
			"GroupClose": func(ctx context.Context) error { return a.GroupClose(ctx, "one", 4000, "meanwhile") },
			"Ping":       a.Ping,
		} {
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			start := time.Now()
			if err := call(ctx); !errors.Is(err, grouphub.ErrUnavailable) && !errors.Is(err, grouphub.ErrUncertain) {
				t.Errorf("%s while Redis is away: %v, want ErrUnavailable or ErrUncertain", name, err)
			}
			if took := time.Since(start); took >= 5*time.Second { // those of a call without a deadline
				t.Errorf("%s took %v, want no more than its context's 200ms", name, took)
			}
			cancel()
		}
		for _, c := range clients {
			c.Send("still here")
			c.Expect("still here")
		}

		s.Restart()
		back := time.Now()
		plain.Expect(`{"type":"resync","group":"one"}`)
		elsewhere.Expect(`{"type":"resync","group":"one"}`)
		ann.Expect(map[string]string{"type": "resync", "group": grouphub.UserGroup("ann")})
		if groups := <-told; !slices.Equal(groups, []string{"one", "two"}) {
			t.Errorf("Resync of %q, want one and two", groups)
		}
		eventually(t, func() bool { return a.Ping(t.Context()) == nil && b.Ping(t.Context()) == nil }, "the hubs do not send again")
		send(t, b, "one", "note", "after")
		for _, c := range []*hubtest.Client{both, plain, elsewhere} {
			c.Expect(`{"type":"note","group":"one","data":"after"}`)
		}
		if took := time.Since(back); took > 5*time.Second {
			t.Errorf("events flow again after %v, want 5s at most", took)
		}
		for _, c := range clients {
			c.Send("nothing else")
			c.Expect("nothing else")
		}
		for i, hub := range []*grouphub.Hub{a, b} {
			concerned := []uint64{3, 1}[i] * (round + 1)
			if n := hub.Stats(); !n.LayerUp || n.Resyncs != concerned || n.Conns != []int{4, 1}[i] {
				t.Errorf("hub %d after interruption %d: %+v, want %d Resyncs and all connections", i, round, n, concerned)
			}
		}
		if len(told) > 0 {
			t.Errorf("Resync was called again, for %q", <-told)
		}
	}
	s.Kill() // the hubs end well without it
}

func TestPermissionsThatTheGuideGivesAreEnough(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	line := regexp.MustCompile(`(?m)^redis-cli (ACL SETUSER .*)$`).FindStringSubmatch(read(t, "docs/redis.md"))
	if line == nil {
		t.Fatal("docs/redis.md has no ACL SETUSER")
	}
	s.CLI(strings.Fields(strings.ReplaceAll(line[1], "'", ""))...)
	for _, sharded := range []bool{false, true} {
		layer := redisLayer(t, "redis://shop:password@"+s.Address(), &grouphub.RedisOptions{Prefix: "shop", Sharded: sharded})
		hub := newHub(t, &grouphub.Options{Layer: layer, Consumer: noteConsumer})
		c := hubtest.Dial(t, hub, "/")
		if err := hub.Ping(background); err != nil {
			t.Error(err)
		}
		send(t, hub, "all", "note", 1)
		c.ExpectEvent("note")
		c.Close()
		// A message that is taken for somebody who no longer waits is put back.
		ctx, cancel := context.WithCancel(t.Context())
		given := make(chan error)
		go func() { given <- second(hub.Receive(ctx, "jobs")) }()
		cancel()
		<-given
		if err := hub.Send(background, "jobs", "job", 1); err != nil {
			t.Error(err)
		}
		if _, err := hub.Receive(background, "jobs"); err != nil {
			t.Error(err)
		}
	}
	if log := s.CLI("ACL", "LOG"); log != "" {
		t.Errorf("refused:\n%s", log)
	}
}

func TestSubscribersThatAreKilledAgainAndAgainLoseNothingInSilence(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	a, b := redisHubs(t, s, noteConsumer)
	clients := []*hubtest.Client{hubtest.Dial(t, a, "/"), hubtest.Dial(t, b, "/")}
	stop, sent := make(chan struct{}), make(chan int)
	go func() {
		pace := time.NewTicker(time.Millisecond)
		defer pace.Stop()
		for n := 0; ; n++ {
			select {
			case <-pace.C:
				if err := b.GroupSend(background, "all", "note", n); err != nil {
					t.Errorf("GroupSend: %v, though only subscribers are killed", err)
				}
			case <-stop:
				sent <- n
				return
			}
		}
	}()
	for i := range 20 {
		before := a.Stats().Resyncs
		s.CLI("CLIENT", "KILL", "TYPE", "pubsub")
		if i%4 == 0 {
			continue // again while it comes back
		}
		eventually(t, func() bool { return a.Stats().Resyncs > before }, "no Resync")
		if i%4 > 1 { // or else at once
			arrived := a.Stats().Delivered + 30
			eventually(t, func() bool { return a.Stats().Delivered > arrived }, "no events arrive")
		}
	}
	eventually(t, func() bool { return a.Stats().LayerUp && b.Stats().LayerUp }, "the layer is not up")
	close(stop)
	last := <-sent
	send(t, b, "all", "note", last)

	for i, c := range clients {
		next, missed := 0, 0
		told, untold := false, false // since the last event; of the last gap
		hear := func() (n int, isEvent bool) {
			m := c.Next()
			if string(m.Data) == `{"type":"resync","group":"all"}` {
				return 0, false
			}
			var e struct{ Data *int }
			if err := m.Decode(&e); err != nil || e.Data == nil {
				t.Fatalf("client %d: got %s", i, m.Data)
			}
			return *e.Data, true
		}
		for next <= last {
			n, isEvent := hear()
			switch {
			case !isEvent:
				told, untold = true, false
				continue
			case n < next:
				t.Fatalf("client %d: got %d after %d", i, n, next-1)
			case n > next && !told:
				untold = true
			}
			missed += n - next
			next, told = n+1, false
		}
		if untold { // Resync may follow the first events of the new subscription
			if n, isEvent := hear(); isEvent {
				t.Errorf("client %d: got %d, want to be told that events are missing", i, n)
			}
		}
		t.Logf("client %d missed %d of %d", i, missed, last+1)
	}
}
