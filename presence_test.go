package grouphub_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
	"github.com/seed-29c60982/grouphub/internal/redistest"
)

func TestMembersAcrossHubs(t *testing.T) {
	layer := grouphub.NewMemoryLayer()
	policy := func(group string) grouphub.GroupPolicy { return grouphub.GroupPolicy{Presence: group == "all"} }
	options := &grouphub.Options{Layer: layer, Policy: policy, Consumer: noteConsumer}
	one, two := newHub(t, options), newHub(t, options)
	names := func(hub *grouphub.Hub) string {
		members, err := hub.Members(background, "all")
		if err != nil {
			t.Fatal(err)
		}
		var ids []string
		for _, m := range members {
			ids = append(ids, m.UserID)
			if m.Channel == "" || time.Since(m.Since) > time.Minute {
				t.Errorf("%+v", m)
			}
		}
		return strings.Join(ids, " ")
	}
	ann := hubtest.Dial(t, authenticate(one), "/?user=ann")
	if got := names(one); got != "ann" { // at once
		t.Errorf("members %q", got)
	}
	hubtest.Dial(t, authenticate(two), "/?user=bob")
	for _, hub := range []*grouphub.Hub{one, two} {
		eventually(t, func() bool { return names(hub) == "ann bob" }, "members are not complete")
	}
	ann.Close()
	eventually(t, func() bool { return names(two) == "bob" }, "ann is still there")
	if _, err := one.Members(background, "other"); !errors.Is(err, grouphub.ErrNoPresence) {
		t.Errorf("got %v", err)
	}
}

func TestMembersAcrossHubsOnRedis(t *testing.T) {
	m := miniredis.RunT(t)
	now := time.Now()
	m.SetTime(now)
	options := func(layer grouphub.Layer) *grouphub.Options {
		return &grouphub.Options{Layer: layer, Consumer: noteConsumer, Logger: quiet(),
			Policy: func(string) grouphub.GroupPolicy { return grouphub.GroupPolicy{Presence: true} }}
	}
	proxy := redistest.StartProxy(t, "redis://"+m.Addr())
	one, two := newHub(t, options(redisLayer(t, "redis://"+m.Addr(), nil))), newHub(t, options(layerBehind(t, proxy)))
	count := func(hub *grouphub.Hub) int {
		members, err := hub.Members(background, "all")
		if err != nil {
			t.Fatal(err)
		}
		return len(members)
	}
	here, there := hubtest.Dial(t, one, "/"), hubtest.Dial(t, two, "/")
	hubtest.Dial(t, two, "/")
	for _, hub := range []*grouphub.Hub{one, two} {
		eventually(t, func() bool { return count(hub) == 3 }, "%d members, want 3", count(hub))
	}
	there.Close()
	eventually(t, func() bool { return count(one) == 2 }, "%d members, want 2", count(one))
	proxy.Cut() // as if the process were gone
	m.SetTime(now.Add(61 * time.Second))
	m.FastForward(61 * time.Second)
	if n := count(one); n != 1 {
		t.Errorf("%d members, want the own one", n)
	}
	here.Close()
	eventually(t, func() bool { return count(one) == 0 }, "the own one is still there")
}

func TestPresenceIsRightAgainAfterRedisLostItsLastWrites(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	options := grouphub.Options{Consumer: noteConsumer, Logger: quiet(), Policy: func(string) grouphub.GroupPolicy { return grouphub.GroupPolicy{Presence: true} }}
	one, other := redisHubOn(t, s, options), redisHubOn(t, s, options)
	hubtest.Dial(t, one, "/")
	listed := func() int {
		members, _ := other.Members(background, "all") // Redis is away for a while
		return len(members)
	}
	eventually(t, func() bool { return listed() == 1 }, "the first member is not listed")
	s.CLI("SAVE") // what is written from now on will be lost
	hubtest.Dial(t, one, "/")
	hubtest.Dial(t, one, "/")
	eventually(t, func() bool { return listed() == 3 }, "the others are not listed")
	s.Kill()
	s.Restart()
	eventually(t, func() bool { return listed() == 3 }, "the members that were lost are not listed again")
}

func TestMembersOfAHubThatCrashedVanish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		layer := grouphub.NewMemoryLayer()
		policy := func(string) grouphub.GroupPolicy { return grouphub.GroupPolicy{Presence: true} }
		hub := grouphub.New(&grouphub.Options{Layer: layer, Policy: policy, Consumer: noteConsumer})
		hubtest.Dial(t, hub, "/")
		// What a hub leaves behind that is no more.
		ghost := grouphub.LeaseChange{Version: 1, Life: time.Minute, Set: map[string][]byte{"1": []byte(`{"user":"ghost","since":1}`)}}
		if _, err := layer.Lease(background, "g:all", "gone", ghost); err != nil {
			t.Fatal(err)
		}
		count := func() int {
			members, err := hub.Members(background, "all")
			if err != nil {
				t.Fatal(err)
			}
			return len(members)
		}
		if n := count(); n != 2 {
			t.Errorf("%d members", n)
		}
		time.Sleep(90 * time.Second)
		if n := count(); n != 1 { // its own lease is renewed
			t.Errorf("%d members", n)
		}
		leases, err := layer.Leases(background, "g:all", nil)
		if err != nil || len(leases) != 1 {
			t.Errorf("leases %v, %v", leases, err)
		}
		hub.Shutdown(background)
		if leases, _ := layer.Leases(background, "g:all", nil); len(leases) != 0 {
			t.Errorf("leases %v are left after Shutdown", leases)
		}
		layer.Close()
	})
}

func TestMembersAreListedThoughTheServerOfOthersIsFrozen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		layer, freeze := newFreezingLayer()
		one, c := presenceHub(t, layer, 1000, "frozen")
		two, d := presenceHub(t, layer, 1, "fine")
		three := grouphub.New(&grouphub.Options{Layer: layer, Policy: func(string) grouphub.GroupPolicy {
			return grouphub.GroupPolicy{Presence: true}
		}})
		e := hubtest.Dial(t, one.Handler(grouphub.Consumer{Connect: func(c *grouphub.Conn) error { return c.Join("fine0") }}), "/")
		time.Sleep(time.Second)
		freeze("frozen")
		for range 20 {
			time.Sleep(17 * time.Second)
			if members, err := three.Members(background, "fine0"); len(members) != 2 || err != nil {
				t.Fatalf("%d members, %v", len(members), err)
			}
		}
		for _, c := range []*hubtest.Client{c, d, e} {
			c.Close()
		}
		for _, hub := range []*grouphub.Hub{one, two, three} {
			hub.Shutdown(background)
		}
		layer.Close()
	})
}

// presenceOf serves a consumer that joins the group "all", as the user with the info in the URL.
func presenceOf(hub *grouphub.Hub) http.Handler {
	return grouphub.Authenticate(func(r *http.Request) (grouphub.User, error) {
		user := grouphub.User{ID: r.FormValue("user")}
		switch info := r.FormValue("info"); info {
		case "":
		case "function":
			user.Info = func() {}
		case "panic":
			user.Info = panicking{}
		case "bytes":
			user.Info = json.RawMessage("\"\xff\"")
		default:
			user.Info = map[string]string{"name": info}
		}
		return user, nil
	})(hub)
}

type panicking struct{}

func (panicking) MarshalJSON() ([]byte, error) { panic("no") }

func TestMembersHaveTheInfoOfTheirUsers(t *testing.T) {
	layer := grouphub.NewMemoryLayer()
	options := &grouphub.Options{Layer: layer, Consumer: noteConsumer, Logger: quiet(),
		Policy: func(string) grouphub.GroupPolicy { return grouphub.GroupPolicy{Presence: true} }}
	one, two := newHub(t, options), newHub(t, options)
	want := map[string]string{"ann": `{"name":"Ann"}`, "bob": "", "": "", "odd": "", "odder": "", "oddest": ""}
	hubtest.Dial(t, presenceOf(one), "/?user=ann&info=Ann")
	for user, info := range map[string]string{"bob": "", "": "", "odd": "function", "odder": "panic", "oddest": "bytes"} {
		hubtest.Dial(t, presenceOf(one), "/?user="+user+"&info="+info)
	}
	for _, hub := range []*grouphub.Hub{one, two} {
		var members []grouphub.Member
		eventually(t, func() bool {
			members, _ = hub.Members(background, "all")
			return len(members) == len(want)
		}, "members are not complete")
		for _, m := range members {
			if string(m.Info) != want[m.UserID] || m.Info != nil && want[m.UserID] == "" {
				t.Errorf("info of %q is %q, want %q", m.UserID, m.Info, want[m.UserID])
			}
		}
	}
}

func TestCountIsOfUsersAndOfConnectionsWithoutOne(t *testing.T) {
	layer := grouphub.NewMemoryLayer()
	options := &grouphub.Options{Layer: layer, Consumer: noteConsumer,
		Policy: func(group string) grouphub.GroupPolicy { return grouphub.GroupPolicy{Presence: group == "all"} }}
	one, two := newHub(t, options), newHub(t, options)
	counts := func(want int) {
		t.Helper()
		for _, hub := range []*grouphub.Hub{one, two} {
			n, err := 0, error(nil)
			eventually(t, func() bool { n, err = hub.Count(background, "all"); return n == want && err == nil }, "the count is not %d", want)
		}
	}
	counts(0)
	ann := hubtest.Dial(t, presenceOf(one), "/?user=ann")
	again := hubtest.Dial(t, presenceOf(two), "/?user=ann")
	counts(1)
	hubtest.Dial(t, presenceOf(one), "/")
	hubtest.Dial(t, presenceOf(two), "/")
	counts(3)
	ann.Close()
	again.Close() // there is no grace: it does not count from now on
	counts(2)
	if _, err := one.Count(background, "other"); !errors.Is(err, grouphub.ErrNoPresence) {
		t.Errorf("count of a group without presence: %v", err)
	}
}

func TestOnlineIsAskedForTheUsersGroupWithItsPolicy(t *testing.T) {
	layer := grouphub.NewMemoryLayer()
	options := func(presence bool) *grouphub.Options {
		return &grouphub.Options{Layer: layer, Consumer: noteConsumer, Policy: func(group string) grouphub.GroupPolicy {
			return grouphub.GroupPolicy{Presence: presence && group == grouphub.UserGroup("ann")}
		}}
	}
	one, two := newHub(t, options(true)), newHub(t, options(true))
	online := func(want bool) {
		t.Helper()
		for _, hub := range []*grouphub.Hub{one, two} {
			eventually(t, func() bool {
				online, err := hub.Online(background, "ann")
				return online == want && err == nil
			}, "online is not %v", want)
		}
	}
	online(false)
	ann := hubtest.Dial(t, authenticate(one), "/?user=ann")
	online(true)
	ann.Close()
	online(false)
	for id, want := range map[string]error{"bob": grouphub.ErrNoPresence, "": grouphub.ErrInvalidName} {
		if _, err := one.Online(background, id); !errors.Is(err, want) {
			t.Errorf("online of %q: %v, want %v", id, err, want)
		}
	}
}
