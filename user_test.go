package grouphub_test

import (
	"errors"
	"net/http/httptest"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
	"github.com/seed-29c60982/grouphub/internal/redistest"
)

// ofSession returns the option of a client that is in this session of a user.
func ofSession(user, session string) hubtest.DialOption {
	return hubtest.WithUser(grouphub.User{ID: user, Session: session})
}

// onlyAll is a policy by which the group "all" has history.
func onlyAll(group string) grouphub.GroupPolicy {
	if group == "all" {
		return grouphub.GroupPolicy{History: 100}
	}
	return grouphub.GroupPolicy{}
}

func TestExceptUserLeavesUsersOutInRunsToo(t *testing.T) {
	hub := hubOf(t, noteConsumer)
	ann, bob := hubtest.Dial(t, hub, "/", ofSession("ann", "")), hubtest.Dial(t, hub, "/", ofSession("bob", ""))
	annStreams, nobody := hubtest.Dial(t, hub, "/", ofSession("ann", ""), hubtest.AsStream()), hubtest.Dial(t, hub, "/")
	for i := range 200 {
		var opts []grouphub.SendOption
		if i%3 != 0 {
			opts = append(opts, grouphub.ExceptUser("eve", ""), grouphub.ExceptUser("ann"))
		}
		send(t, hub, "all", "note", i, opts...)
	}
	for i := range 200 {
		for _, c := range []*hubtest.Client{ann, annStreams, bob, nobody} {
			if i%3 == 0 || c == bob || c == nobody {
				expectData(t, c, i)
			}
		}
	}
	if err := hub.GroupClose(background, "all", 4000, "", grouphub.ExceptUser("ann")); err != nil {
		t.Fatal(err)
	}
	bob.ExpectClose(4000)
	nobody.ExpectClose(4000)
	send(t, hub, "all", "note", 7)
	expectData(t, ann, 7)
	expectData(t, annStreams, 7)
}

func TestExceptUserHoldsAcrossAReconnect(t *testing.T) {
	onTwoHubs(t, grouphub.Options{Consumer: noteConsumer, Policy: onlyAll}, func(t *testing.T, a, b *grouphub.Hub) {
		for _, opts := range [][]hubtest.DialOption{nil, {hubtest.AsStream()}} {
			dial := func(hub *grouphub.Hub, user, query string) *hubtest.Client {
				return hubtest.Dial(t, hub, "/"+query, append(opts, ofSession(user, ""))...)
			}
			ann, bob := dial(a, "ann", ""), dial(a, "bob", "")
			send(t, b, "all", "note", 1)
			annAt, bobAt := expectData(t, ann, 1), expectData(t, bob, 1)
			ann.Close()
			bob.Close()
			for i := 2; i <= 4; i++ {
				var opts []grouphub.SendOption
				if i%2 == 1 {
					opts = append(opts, grouphub.ExceptUser("ann"))
				}
				send(t, a, "all", "note", i, opts...)
			}
			ann, bob = dial(b, "ann", resumeQuery("all", annAt)), dial(b, "bob", resumeQuery("all", bobAt))
			// An event that b gets late comes behind the position of the resume.
			for c, want := range map[*hubtest.Client][]int{ann: {2, 4}, bob: {2, 3, 4}} {
				for _, n := range want {
					if e := c.SkipTo("note"); string(e.Data) != strconv.Itoa(n) {
						t.Errorf("got %s, want %d", e.Data, n)
					}
				}
			}
		}
	})
}

// An EventSource does not say where it was in the URL.
func TestExceptUserHoldsForAnEventSourceThatComesBack(t *testing.T) {
	hub := newHub(t, &grouphub.Options{Consumer: noteConsumer, Policy: onlyAll})
	s := httptest.NewServer(authenticate(hub))
	defer s.Close()
	source := &eventSource{t: t}
	connect := func() {
		source.connect(s.URL + "/?user=ann")
		source.expect("grouphub.open")
		source.expect("grouphub.position")
	}
	connect()
	send(t, hub, "all", "note", 1)
	source.event()
	source.cut()
	send(t, hub, "all", "note", 2, grouphub.ExceptUser("ann"))
	send(t, hub, "all", "note", 3)
	source.connect(s.URL + "/?user=ann")
	source.expect("grouphub.open")
	if e := source.event(); string(e.Data) != "3" {
		t.Errorf("got %+v", e)
	}
}

func TestLogoutOfOneSessionLeavesTheUsersOtherSessionsOpen(t *testing.T) {
	for name, policy := range map[string]func(string) grouphub.GroupPolicy{"no history": nil, "history": keeping(10)} {
		t.Run(name, func(t *testing.T) {
			consumer := grouphub.Consumer{Events: grouphub.Events{"note": grouphub.Forward()}}
			onTwoHubs(t, grouphub.Options{Consumer: consumer, Policy: policy}, func(t *testing.T, a, b *grouphub.Hub) {
				closed := []*hubtest.Client{
					hubtest.Dial(t, a, "/", ofSession("ann", "s2")), hubtest.Dial(t, b, "/", ofSession("ann", "s2")),
					hubtest.Dial(t, b, "/", ofSession("ann", "s2"), hubtest.AsStream()),
				}
				open := []*hubtest.Client{
					hubtest.Dial(t, a, "/", ofSession("ann", "s1")), hubtest.Dial(t, b, "/", ofSession("ann", "s3")),
					hubtest.Dial(t, a, "/", ofSession("ann", ""), hubtest.AsStream()),
				}
				bob := hubtest.Dial(t, b, "/", ofSession("bob", "s2"))
				group := grouphub.UserGroup("ann")
				send(t, a, group, "note", 1)
				if err := a.GroupClose(background, group, 4401, "logged out", grouphub.OnlySession("s2")); err != nil {
					t.Fatal(err)
				}
				send(t, b, group, "note", 2)
				send(t, a, group, "note", 3)
				for _, c := range closed {
					expectData(t, c, 1)
					c.ExpectClose(4401) // and no event before that
				}
				for _, c := range open {
					expectData(t, c, 1)
					for range 2 { // of two hubs, so in either order
						c.ExpectEvent("note")
					}
				}
				send(t, a, grouphub.UserGroup("bob"), "note", 4)
				expectData(t, bob, 4)
			})
		})
	}
}

func TestOnlySessionIsForGroupCloseAndNeedsASession(t *testing.T) {
	hub := hubOf(t, noteConsumer)
	c := hubtest.Dial(t, hub, "/")
	if err := hub.GroupSend(background, "all", "note", 1, grouphub.OnlySession("s1")); err == nil {
		t.Error("GroupSend took it")
	}
	if err := hub.GroupClose(background, "all", 4401, "", grouphub.OnlySession("")); err == nil {
		t.Error("GroupClose took an empty session")
	}
	send(t, hub, "all", "note", 2)
	expectData(t, c, 2)
}

// whoConsumer answers each message with the user's ID, and hands its connections over.
func whoConsumer(conns chan<- *grouphub.Conn) grouphub.Consumer {
	return grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error { conns <- c; return nil },
		Receive: func(c *grouphub.Conn, _ grouphub.Message) error { return c.Send([]byte("I am " + c.User().ID)) },
		Events:  grouphub.Events{"note": grouphub.Forward()},
	}
}

func TestRenewMovesTheEndOfASessionOnEveryHub(t *testing.T) {
	conns := make(chan *grouphub.Conn, 100)
	onTwoHubs(t, grouphub.Options{Consumer: whoConsumer(conns)}, func(t *testing.T, a, b *grouphub.Hub) {
		soon := time.Now().Add(time.Hour)
		dial := func(hub *grouphub.Hub, user string, opts ...hubtest.DialOption) *hubtest.Client {
			opts = append(opts, hubtest.WithUser(grouphub.User{ID: user, Session: "s1", Data: 7, Expires: soon}))
			return hubtest.Dial(t, hub, "/", opts...)
		}
		anns := []*hubtest.Client{dial(a, "ann"), dial(b, "ann"), dial(b, "ann", hubtest.AsStream())}
		bob := dial(b, "bob")
		untilExpires := func(want time.Time) {
			t.Helper()
			for _, hub := range []*grouphub.Hub{a, b} {
				for c := range hub.Conns() {
					expires := want
					if c.User().ID == "bob" {
						expires = soon
					}
					eventually(t, func() bool {
						u, ok := grouphub.UserFrom(c.Context())
						return ok && u == c.User() && u.Expires.Equal(expires) && u.Session == "s1" && u.Data == 7
					}, "%+v, want the end at %v", c.User(), expires)
				}
			}
		}
		for _, expires := range []time.Time{soon.Add(time.Hour), {}, soon.Add(time.Minute)} {
			if err := a.Renew(background, "ann", expires); err != nil {
				t.Fatal(err)
			}
			untilExpires(expires)
		}
		if err := b.Renew(background, "ann", time.Now().Add(-time.Second)); err != nil {
			t.Fatal(err)
		}
		for _, c := range anns {
			c.ExpectClose(4401)
		}
		bob.Send("who")
		bob.Expect("I am bob")
		if err := a.Renew(background, "", soon); !errors.Is(err, grouphub.ErrInvalidName) {
			t.Errorf("Renew of nobody: %v", err)
		}
	})
}

func TestSessionsCanBeProlonged(t *testing.T) {
	for name, prolong := range map[string]func(*grouphub.Hub, *grouphub.Conn, time.Time) error{
		"Renew": func(hub *grouphub.Hub, _ *grouphub.Conn, to time.Time) error { return hub.Renew(background, "ann", to) },
		"SetUser": func(_ *grouphub.Hub, c *grouphub.Conn, to time.Time) error {
			return c.SetUser(grouphub.User{ID: "ann", Expires: to})
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				layer := grouphub.NewMemoryLayer()
				conns := make(chan *grouphub.Conn, 1)
				hub := grouphub.New(&grouphub.Options{Layer: layer, Consumer: whoConsumer(conns)})
				other := grouphub.New(&grouphub.Options{Layer: layer})
				start := time.Now()
				client := hubtest.Dial(t, hub, "/", hubtest.WithUser(grouphub.User{ID: "ann", Expires: start.Add(time.Minute)}))
				c := <-conns
				stillOpen := func() {
					t.Helper()
					client.Send("who")
					client.Expect("I am ann")
				}
				move := func(to time.Time) {
					t.Helper()
					if err := prolong(other, c, to); err != nil {
						t.Fatal(err)
					}
				}
				time.Sleep(50 * time.Second)
				move(start.Add(time.Hour))
				time.Sleep(50 * time.Second)
				stillOpen()
				move(time.Time{}) // never
				time.Sleep(48 * time.Hour)
				stillOpen()
				move(time.Now().Add(time.Minute))
				time.Sleep(59 * time.Second)
				stillOpen()
				time.Sleep(2 * time.Second)
				client.ExpectClose(4401)
				hub.Shutdown(background)
				other.Shutdown(background)
				layer.Close()
			})
		})
	}
}

func TestRenewReachesAHubThatWasCutOffAndSparesWhoCameLater(t *testing.T) {
	redistest.OnBoth(t, func(t *testing.T, url string) {
		proxy := redistest.StartProxy(t, url)
		conns := make(chan *grouphub.Conn, 3)
		cutOff := newHub(t, &grouphub.Options{Layer: layerBehind(t, proxy), Logger: quiet(), Consumer: whoConsumer(conns)})
		other := newHub(t, &grouphub.Options{Layer: redisLayer(t, url, nil), Logger: quiet()})
		hubtest.Dial(t, cutOff, "/", ofSession("ann", "early"))
		early := <-conns
		hubtest.Dial(t, cutOff, "/", ofSession("ann", "set later"))
		setLater := <-conns
		proxy.Cut()
		eventually(t, func() bool { return !cutOff.Stats().LayerUp }, "the hub notices nothing")
		expires := time.Now().Add(time.Hour)
		if err := other.Renew(background, "ann", expires); err != nil {
			t.Fatal(err)
		}
		// The command is taken for younger than it is by as much as the answer that brings it may take.
		time.Sleep(2 * time.Second)
		latest := expires.Add(time.Hour)
		if err := setLater.SetUser(grouphub.User{ID: "ann", Expires: latest}); err != nil {
			t.Fatal(err)
		}
		proxy.Mend()
		eventually(t, func() bool { return early.User().Expires.Equal(expires) }, "not renewed")
		if got := setLater.User().Expires; !got.Equal(latest) {
			t.Errorf("a Renew that was sent before has set %v", got)
		}
	})
}

func TestSetUserLogsInAnAnonymousConnection(t *testing.T) {
	conns := make(chan *grouphub.Conn, 100)
	presence := func(string) grouphub.GroupPolicy { return grouphub.GroupPolicy{Presence: true} }
	onTwoHubs(t, grouphub.Options{Consumer: whoConsumer(conns), Policy: presence}, func(t *testing.T, a, b *grouphub.Hub) {
		dial := func(opts ...hubtest.DialOption) (*hubtest.Client, *grouphub.Conn) {
			t.Helper()
			client := hubtest.Dial(t, a, "/", opts...)
			for c := range a.Conns() {
				if _, old := c.Get("old"); !old {
					c.Set("old", true)
					return client, c
				}
			}
			panic("no connection")
		}
		client, c := dial()
		if err := c.Join("all"); err != nil {
			t.Fatal(err)
		}
		ann := grouphub.User{ID: "ann", Session: "s1", Info: "Ann"}
		if err := c.SetUser(ann); err != nil {
			t.Fatal(err)
		}
		send(t, b, grouphub.UserGroup("ann"), "note", 1)
		expectData(t, client, 1)
		if u, ok := grouphub.UserFrom(c.Request().Context()); !ok || u != ann || c.User() != ann {
			t.Errorf("the user is %+v, and %+v in the context", c.User(), u)
		}
		for _, hub := range []*grouphub.Hub{a, b} { // presence follows
			eventually(t, func() bool {
				members, err := hub.Members(background, "all")
				online, onlineErr := hub.Online(background, "ann")
				return err == nil && onlineErr == nil && online && len(members) == 1 &&
					members[0].UserID == "ann" && string(members[0].Info) == `"Ann"`
			}, "presence does not follow")
		}
		for _, u := range []grouphub.User{{ID: "bob"}, {}, {Session: "s1"}} {
			if err := c.SetUser(u); err == nil || c.User() != ann {
				t.Errorf("SetUser of %+v: %v, and it is %+v", u, err, c.User())
			}
		}
		if err := b.GroupClose(background, grouphub.UserGroup("ann"), 4401, "", grouphub.OnlySession("s1")); err != nil {
			t.Fatal(err)
		}
		client.ExpectClose(4401)
		eventually(t, func() bool { return c.SetUser(ann) != nil }, "a connection that has ended takes a user")

		stream, c := dial(hubtest.AsStream())
		if err := c.SetUser(grouphub.User{ID: "ann", Expires: time.Now()}); !errors.Is(err, grouphub.ErrClosed) {
			t.Errorf("SetUser of a session that has ended: %v", err)
		}
		stream.ExpectClose(4401)
	})
}

// A page logs in by one request, and posts with its cookie from then on.
func TestWhatAStreamPostsComesFromTheUserThatWasSet(t *testing.T) {
	hub, conns := connections(t, grouphub.Consumer{
		Receive: func(c *grouphub.Conn, m grouphub.Message) error { return c.Send(m.Data) },
	})
	s := httptest.NewServer(authenticate(hub))
	defer s.Close()
	source := &eventSource{t: t}
	source.connect(s.URL)
	source.expect("grouphub.open")
	c := <-conns
	if status := post(t, s.URL, source.token, "", "anonymous"); status != 204 {
		t.Errorf("before the login: %d", status)
	}
	source.expect("")
	if err := c.SetUser(grouphub.User{ID: "ann"}); err != nil {
		t.Fatal(err)
	}
	for user, want := range map[string]int{"ann": 204, "bob": 403, "": 403} {
		if status := post(t, s.URL+"/?user="+user, source.token, "", user); status != want {
			t.Errorf("a post of %q is answered by %d, want %d", user, status, want)
		}
	}
	if b := source.expect(""); b.data != "ann" {
		t.Errorf("got %+v", b)
	}
}

func TestALoginThatFailsLeavesTheConnectionAnonymous(t *testing.T) {
	layer := newFaultyLayer()
	var down atomic.Bool
	layer.adding = func([]string) error {
		if down.Load() {
			return grouphub.ErrUnavailable
		}
		return nil
	}
	conns := make(chan *grouphub.Conn, 1)
	hub := newHub(t, &grouphub.Options{Layer: layer, Consumer: whoConsumer(conns)})
	client := hubtest.Dial(t, hub, "/")
	c := <-conns
	down.Store(true)
	if err := c.SetUser(grouphub.User{ID: "ann"}); !errors.Is(err, grouphub.ErrUnavailable) {
		t.Errorf("SetUser: %v", err)
	}
	client.Send("who")
	client.Expect("I am ")
	down.Store(false)
	if err := c.SetUser(grouphub.User{ID: "bob"}); err != nil {
		t.Fatal(err)
	}
	client.Send("who")
	client.Expect("I am bob")
}

func TestUsersOfAConnectionMayBeSetAndReadConcurrently(t *testing.T) {
	hub, conns := connections(t, grouphub.Consumer{Events: grouphub.Events{"note": grouphub.Forward()}})
	client := hubtest.Dial(t, hub, "/")
	c := <-conns
	group := grouphub.UserGroup("ann")
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for j := range 20 {
				var err error
				switch i % 4 {
				case 0, 1:
					err = c.SetUser(grouphub.User{ID: "ann", Expires: time.Now().Add(time.Hour)})
					if err == nil && !c.In(group) {
						t.Error("SetUser has returned, and the connection is not in the user's group")
					}
				case 2:
					err = hub.Renew(background, "ann", time.Now().Add(time.Duration(j+1)*time.Hour))
				case 3:
					if u := c.User(); u.ID != "" && u.ID != "ann" {
						t.Errorf("%+v", u)
					}
					_, _ = grouphub.UserFrom(c.Context())
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	send(t, hub, group, "note", 1)
	expectData(t, client, 1)
}
