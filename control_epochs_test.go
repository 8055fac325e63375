package grouphub_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
	"github.com/seed-29c60982/grouphub/internal/redistest"
)

// The hub that was cut off is the only one that may have missed a logout. The others have
// seen as much as anybody has.
func TestALogoutThatTheServerForgetsClosesWhoMayHaveMissedIt(t *testing.T) {
	for name, before := range map[string]int{"the first logout": 0, "a later one": 2} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := redistest.Start(t)
			proxy := redistest.StartProxy(t, s.URL())
			resync := grouphub.Consumer{Resync: func(*grouphub.Conn, []string) {}} // of the users' groups
			cutOff := newHub(t, &grouphub.Options{Layer: layerBehind(t, proxy), Consumer: resync, Logger: quiet()})
			sender := newHub(t, &grouphub.Options{Layer: redisLayer(t, s.URL(), nil), Consumer: resync, Logger: quiet()})
			dial := func(hub *grouphub.Hub, user string) *hubtest.Client {
				t.Helper()
				return hubtest.Dial(t, grouphub.Authenticate(func(*http.Request) (grouphub.User, error) {
					return grouphub.User{ID: user}, nil
				})(hub), "/")
			}
			logOut := func(user string) {
				t.Helper()
				if err := sender.GroupClose(t.Context(), grouphub.UserGroup(user), 4401, "logged out"); err != nil {
					t.Fatal(err)
				}
			}
			for range before {
				c := dial(cutOff, "early")
				logOut("early")
				c.ExpectClose(4401)
			}
			ann, stranger, bob := dial(cutOff, "ann"), hubtest.Dial(t, cutOff, "/"), dial(sender, "bob")
			proxy.Cut()
			eventually(t, func() bool { return !cutOff.Stats().LayerUp }, "the hub notices nothing")
			logOut("ann")
			if err := sender.Ping(t.Context()); err != nil { // it has seen what it has sent
				t.Fatal(err)
			}
			s.Kill()
			s.Restart()
			proxy.Mend()
			ann.ExpectClose(1012)
			for name, hub := range map[string]*grouphub.Hub{"the hub that was cut off": cutOff, "the sender": sender} {
				eventually(t, func() bool { return hub.Ping(background) == nil }, "%s is not back", name)
				// A client has its close frame before the hub has its answer.
				eventually(t, func() bool { return hub.Stats().Conns <= 1 }, "%s closes nothing", name)
				if n := hub.Stats().Conns; n != 1 {
					t.Errorf("%s has %d connections, want one", name, n)
				}
			}
			logOut("bob")
			bob.ExpectClose(4401)
			stranger.Close()
		})
	}
}

func TestALateCloseDoesNotConcernWhoJoinedAfterIt(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	proxy := redistest.StartProxy(t, s.URL())
	consumer := grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error { return c.Join("g") },
		Resync:  func(*grouphub.Conn, []string) {},
		Events:  grouphub.Events{"n": grouphub.Forward()},
	}
	cutOff := newHub(t, &grouphub.Options{Layer: layerBehind(t, proxy), Consumer: consumer, Logger: quiet()})
	sender := newHub(t, &grouphub.Options{Layer: redisLayer(t, s.URL(), nil), Consumer: consumer, Logger: quiet()})
	// A close reaches the hub, which therefore knows how many commands came before its time.
	first := hubtest.Dial(t, cutOff, "/")
	if err := sender.GroupClose(t.Context(), "g", 4000, "over"); err != nil {
		t.Fatal(err)
	}
	first.ExpectClose(4000)
	early := hubtest.Dial(t, cutOff, "/")
	proxy.Cut()
	eventually(t, func() bool { return !cutOff.Stats().LayerUp }, "the hub notices nothing")
	if err := sender.GroupClose(t.Context(), "g", 4000, "over"); err != nil {
		t.Fatal(err)
	}
	// It is taken for younger than it is by as much as the answer that brings it may take.
	time.Sleep(2 * time.Second)
	late := hubtest.Dial(t, cutOff, "/")
	proxy.Mend()
	eventually(t, func() bool { return cutOff.Stats().Conns == 1 }, "the hub does not carry out the close")
	early.ExpectClose(4000)
	if err := sender.GroupSend(t.Context(), "g", "n", 1); err != nil {
		t.Fatal(err)
	}
	late.ExpectEvent("n")
	// The next one is meant for it.
	if err := sender.GroupClose(t.Context(), "g", 4000, "over"); err != nil {
		t.Fatal(err)
	}
	late.ExpectClose(4000)
}
