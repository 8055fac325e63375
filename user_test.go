package grouphub_test

import (
	"net/http/httptest"
	"testing"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
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
			expectData(t, ann, 2, 4)
			expectData(t, bob, 2, 3, 4)
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
