package grouphub_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
)

// news is the data of a presence event.
type news struct {
	Joined, Left, Members []newsEntry
	Count                 int
}

type newsEntry struct {
	User, Channel string
	Info          json.RawMessage
	Since         time.Time
}

// String lists users, a connection without one as "?".
func (n news) String() string {
	users := func(name string, all []newsEntry) string {
		var ids []string
		for _, e := range all {
			id := e.User
			if id == "" {
				id = "?"
			}
			ids = append(ids, id)
		}
		slices.Sort(ids)
		if len(ids) == 0 {
			return ""
		}
		return name + strings.Join(ids, ",") + " "
	}
	return fmt.Sprint(users("members ", n.Members), users("joined ", n.Joined), users("left ", n.Left), n.Count)
}

// announceOptions are those of hubs that announce who is in "all".
func announceOptions(layer grouphub.Layer) *grouphub.Options {
	return &grouphub.Options{Layer: layer, Logger: quiet(),
		Policy: func(group string) grouphub.GroupPolicy {
			return grouphub.GroupPolicy{Announce: group == "all" || group == "more"}
		},
		Consumer: grouphub.Consumer{Connect: joinAll, Events: grouphub.Events{"presence": grouphub.Forward(), "note": grouphub.Forward()}}}
}

func dialAs(t *testing.T, hub *grouphub.Hub, user string) *hubtest.Client {
	t.Helper()
	return hubtest.Dial(t, hub, "/", hubtest.WithUser(grouphub.User{ID: user}))
}

// expectNews checks the next event.
func expectNews(t *testing.T, c *hubtest.Client, want string) (n news) {
	t.Helper()
	e := c.ExpectEvent("presence")
	if err := e.Decode(&n); err != nil {
		t.Fatal(err)
	}
	if n.String() != want || e.ID != "" {
		t.Errorf("told %q, want %q, in %+v", n, want, e)
	}
	return n
}

// announced runs a test with two hubs of one layer, in a bubble.
func announced(t *testing.T, run func(t *testing.T, one, two *grouphub.Hub, layer *grouphub.MemoryLayer)) {
	synctest.Test(t, func(t *testing.T) {
		layer := grouphub.NewMemoryLayer()
		t.Cleanup(func() { layer.Close() })
		run(t, newHub(t, announceOptions(layer)), newHub(t, announceOptions(layer)), layer)
	})
}

func TestMembersAreToldWhoComesAndGoes(t *testing.T) {
	announced(t, func(t *testing.T, one, two *grouphub.Hub, _ *grouphub.MemoryLayer) {
		begun := time.Now()
		ann := hubtest.Dial(t, one, "/", hubtest.WithUser(grouphub.User{ID: "ann", Info: map[string]int{"age": 7}}))
		first := expectNews(t, ann, "members ann 1")
		if took := time.Since(begun); took > time.Second {
			t.Errorf("the first event came after %v", took)
		}
		if e := first.Members[0]; string(e.Info) != `{"age":7}` || e.Channel == "" || !e.Since.Equal(begun) {
			t.Errorf("entry %+v", e)
		}
		bob := dialAs(t, two, "bob")
		expectNews(t, bob, "members ann,bob 2")
		expectNews(t, ann, "joined bob 2")
		nobody := hubtest.Dial(t, one, "/")
		expectNews(t, nobody, "members ?,ann,bob 3")
		for _, c := range []*hubtest.Client{ann, bob} {
			expectNews(t, c, "joined ? 3")
		}
		nobody.Close() // who cannot come back
		for _, c := range []*hubtest.Client{ann, bob} {
			expectNews(t, c, "left ? 2")
		}
		ann.Close()
		time.Sleep(4 * time.Second)
		bob.ExpectNone(500 * time.Millisecond)
		left := expectNews(t, bob, "left ann 1")
		if !slices.EqualFunc(left.Left, first.Members, func(a, b newsEntry) bool { return a.Channel == b.Channel && string(a.Info) == string(b.Info) }) {
			t.Errorf("left %+v, came as %+v", left.Left, first.Members)
		}
		bob.ExpectNone(time.Minute)
	})
}

func TestPresenceEventHasEveryFieldAsDocumented(t *testing.T) {
	announced(t, func(t *testing.T, one, _ *grouphub.Hub, _ *grouphub.MemoryLayer) {
		ann := dialAs(t, one, "ann")
		const since = `"2000-01-01T00:00:00Z"`
		entry := func(e newsEntry) string {
			return fmt.Sprintf(`{"user":%q,"channel":%q,"since":%s}`, e.User, e.Channel, since)
		}
		m := ann.Next()
		var n struct{ Data news }
		if err := m.Decode(&n); err != nil {
			t.Fatal(err)
		}
		want := `{"type":"presence","group":"all","data":{"joined":[],"left":[],"count":1,"members":[` + entry(n.Data.Members[0]) + `]}}`
		if string(m.Data) != want {
			t.Errorf("got %s\nwant %s", m.Data, want)
		}
		hubtest.Dial(t, one, "/")
		m = ann.Next()
		if got := string(m.Data); !strings.HasPrefix(got, `{"type":"presence","group":"all","data":{"joined":[{"channel":"`) || !strings.HasSuffix(got, `Z"}],"left":[],"count":2}}`) {
			t.Errorf("got %s", got)
		}
	})
}

func TestAUserJoinsWithTheFirstConnectionAndLeavesWithTheLast(t *testing.T) {
	announced(t, func(t *testing.T, one, two *grouphub.Hub, _ *grouphub.MemoryLayer) {
		eve := dialAs(t, one, "eve")
		expectNews(t, eve, "members eve 1")
		var tabs []*hubtest.Client
		for i, hub := range []*grouphub.Hub{two, one, two} {
			tabs = append(tabs, dialAs(t, hub, "ann"))
			expectNews(t, tabs[i], "members ann,eve 2")
			if i == 0 {
				expectNews(t, eve, "joined ann 2")
			}
		}
		for _, tab := range tabs {
			eve.ExpectNone(10 * time.Second)
			tab.Close()
		}
		time.Sleep(4 * time.Second)
		expectNews(t, eve, "left ann 1")
		eve.ExpectNone(time.Minute)
	})
}

func TestReconnectWithinFiveSecondsIsNoLeaving(t *testing.T) {
	announced(t, func(t *testing.T, one, two *grouphub.Hub, _ *grouphub.MemoryLayer) {
		watchers := []*hubtest.Client{dialAs(t, one, "eve"), dialAs(t, two, "eve")}
		ann := dialAs(t, one, "ann")
		time.Sleep(time.Second)
		expectNews(t, ann, "members ann,eve 2")
		for _, c := range watchers {
			expectNews(t, c, "members ann,eve 2")
		}
		for i := range 10 {
			ann.Close()
			time.Sleep(4900 * time.Millisecond)
			if n, err := one.Count(background, "all"); n != 1 || err != nil { // which knows no grace
				t.Errorf("count %d, %v", n, err)
			}
			ann = dialAs(t, []*grouphub.Hub{two, one}[i%2], "ann")
			expectNews(t, ann, "members ann,eve 2")
		}
		for _, c := range watchers {
			c.ExpectNone(10 * time.Second)
		}
	})
}

func TestTwoTabsOnTwoHubsClosedTogetherAreExactlyOneLeft(t *testing.T) {
	announced(t, func(t *testing.T, one, two *grouphub.Hub, _ *grouphub.MemoryLayer) {
		watchers := []*hubtest.Client{dialAs(t, one, "eve"), dialAs(t, two, "eve")}
		const users = 200
		tabs := make([]*hubtest.Client, 0, 2*users)
		for i := range users {
			for _, hub := range []*grouphub.Hub{one, two} {
				tabs = append(tabs, dialAs(t, hub, fmt.Sprint("user ", i)))
			}
		}
		time.Sleep(5 * time.Second)
		for i := 0; i < len(tabs); i += 2 {
			tabs[i].Close()
			tabs[i+1].Close()
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(10 * time.Second)
		send(t, one, "all", "note", 1)
		for _, c := range watchers {
			joined, left := make(map[string]int), make(map[string]int)
			for e := c.SkipTo("presence"); e.Type == "presence"; c.Next().Decode(&e) {
				var n news
				if err := e.Decode(&n); err != nil {
					t.Fatal(err)
				}
				for _, entry := range slices.Concat(n.Joined, n.Members) {
					joined[entry.User]++
				}
				for _, entry := range n.Left {
					left[entry.User]++
				}
			}
			for i := range users {
				if user := fmt.Sprint("user ", i); joined[user] != 1 || left[user] != 1 {
					t.Errorf("%s joined %d times and left %d times", user, joined[user], left[user])
				}
			}
			if left["eve"] != 0 {
				t.Error("eve left")
			}
		}
	})
}

// ghost leaves in the layer what a hub leaves behind that is no more.
func ghost(t *testing.T, layer grouphub.Layer, members int) {
	t.Helper()
	fields := make(map[string][]byte)
	for i := range members {
		fields[fmt.Sprint(i)] = fmt.Appendf(nil, `{"user":"ghost %d","since":%d}`, i, i+1)
	}
	change := grouphub.LeaseChange{Version: 1, Life: grouphub.LeaseLife, Set: fields}
	if ok, err := layer.Lease(background, "g:all", "gone", change); err != nil || !ok {
		t.Fatal(ok, err)
	}
}

func TestMembersOfAHubThatCrashedHaveLeftWithinNinetySeconds(t *testing.T) {
	announced(t, func(t *testing.T, one, _ *grouphub.Hub, layer *grouphub.MemoryLayer) {
		ann := dialAs(t, one, "ann")
		expectNews(t, ann, "members ann 1")
		for range 10 {
			time.Sleep(3300 * time.Millisecond) // at any time between two comparisons
			ghost(t, layer, 2)                  // says nothing, and dies at once
			begun := time.Now()
			time.Sleep(20 * time.Second)
			expectNews(t, ann, "joined ghost 0,ghost 1 3")
			time.Sleep(90*time.Second - time.Since(begun))
			expectNews(t, ann, "left ghost 0,ghost 1 1")
		}
	})
}

func TestNobodyHasLeftWhenTheLayerLosesItsLeases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		layer := grouphub.NewMemoryLayer()
		t.Cleanup(func() { layer.Close() })
		one := newHub(t, announceOptions(layer))
		time.Sleep(9 * time.Second) // so that one renews its lease long before the other does
		two := newHub(t, announceOptions(layer))
		ann := dialAs(t, one, "ann")
		bob := dialAs(t, two, "bob")
		time.Sleep(time.Second)
		for range 5 {
			leases, err := layer.Leases(background, "g:all", nil)
			if err != nil || len(leases) != 2 {
				t.Fatalf("leases %v, %v", leases, err)
			}
			for holder, lease := range leases {
				layer.Lease(background, "g:all", holder, grouphub.LeaseChange{Version: lease.Version})
			}
			time.Sleep(63 * time.Second)
		}
		for _, c := range []*hubtest.Client{ann, bob} {
			expectNews(t, c, "members ann,bob 2")
			c.ExpectNone(time.Minute)
		}
	})
}

func TestChangesWhoseNoticesAreLostAreToldAllTheSame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		layer := newFaultyLayer()
		t.Cleanup(func() { layer.Close() })
		two := newHub(t, announceOptions(layer))
		one := newHub(t, announceOptions(layer)) // the receiver of which the faults are
		ann := dialAs(t, one, "ann")
		bob := dialAs(t, two, "bob")
		time.Sleep(time.Second)
		expectNews(t, ann, "members ann,bob 2")
		layer.setFault(loseAll)
		cid := dialAs(t, two, "cid")
		bob.Close()
		time.Sleep(40 * time.Second)
		expectNews(t, ann, "joined cid 3")
		expectNews(t, ann, "left bob 2")
		layer.setFault(nil)
		cid.Close()
		time.Sleep(6 * time.Second)
		expectNews(t, ann, "left cid 1")
	})
}

func TestOnlyAThousandMembersAreListed(t *testing.T) {
	announced(t, func(t *testing.T, one, _ *grouphub.Hub, layer *grouphub.MemoryLayer) {
		ghost(t, layer, 999)
		ann := dialAs(t, one, "ann")
		var n news
		if e := ann.ExpectEvent("presence"); e.Decode(&n) != nil || n.Count != 1000 || len(n.Members) != 1000 || n.Members[0].User != "ghost 0" || n.Members[999].User != "ann" {
			t.Errorf("of 1,000 were told: %d members, count %d", len(n.Members), n.Count)
		}
		bob := dialAs(t, one, "bob")
		expectNews(t, bob, "1001")
		expectNews(t, ann, "joined bob 1001")
		time.Sleep(90 * time.Second)
		// So many changes are several events.
		left := 0
		for left < 999 {
			e := ann.ExpectEvent("presence")
			if err := e.Decode(&n); err != nil || n.Count != 2 || len(n.Left) > 500 {
				t.Fatalf("%d have left, count %d, %v", len(n.Left), n.Count, err)
			}
			left += len(n.Left)
		}
		ann.ExpectNone(time.Minute)
	})
}

func TestMembersOfAHubThatShutsDownComeBackElsewhere(t *testing.T) {
	announced(t, func(t *testing.T, one, two *grouphub.Hub, layer *grouphub.MemoryLayer) {
		ann := dialAs(t, one, "ann")
		dialAs(t, two, "bob")
		dialAs(t, two, "cid")
		time.Sleep(time.Second)
		expectNews(t, ann, "members ann,bob,cid 3")
		if err := two.Shutdown(background); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		bob := dialAs(t, one, "bob")
		time.Sleep(10 * time.Second)
		expectNews(t, bob, "members ann,bob,cid 3") // cid may still come back
		expectNews(t, ann, "left cid 2")
		ann.ExpectNone(time.Minute)
	})
}

func TestEveryWayIntoAGroupIsAnnounced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		layer := grouphub.NewMemoryLayer()
		t.Cleanup(func() { layer.Close() })
		options := announceOptions(layer)
		conns := make(chan *grouphub.Conn, 10)
		options.Consumer.Connect = func(c *grouphub.Conn) error { conns <- c; return nil }
		options.Consumer.Events["*"] = grouphub.Forward()
		options.Policy = func(string) grouphub.GroupPolicy { return grouphub.GroupPolicy{Announce: true, History: 10} }
		one, two := newHub(t, options), newHub(t, options)
		ann, bob := hubtest.Dial(t, one, "/", hubtest.WithUser(grouphub.User{ID: "ann"}), hubtest.AsStream()), dialAs(t, two, "bob")
		annConn, bobConn := <-conns, <-conns
		for _, group := range []string{"all", "more"} {
			if err := annConn.Join(group); err != nil {
				t.Fatal(err)
			}
			ann.SkipTo("presence") // and that of its user's group
		}
		time.Sleep(time.Second)
		for range 2 {
			if err := one.GroupAdd(background, "all", bobConn.Channel()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
			if e := bob.SkipTo("presence"); e.Group == grouphub.UserGroup("bob") {
				e = bob.SkipTo("presence")
			}
			if err := one.GroupDiscard(background, "all", bobConn.Channel()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(6 * time.Second)
		}
		send(t, two, "all", "note", 1)
		var told []string
		for e := ann.SkipTo("presence"); e.Type != "note"; ann.Next().Decode(&e) {
			var n news
			if e.Decode(&n) == nil && e.Group == "all" && len(n.Members) == 0 {
				told = append(told, n.String())
			}
		}
		if want := []string{"joined bob 2", "left bob 1", "joined bob 2", "left bob 1"}; !slices.Equal(told, want) {
			t.Errorf("told %q, want %q", told, want)
		}
		if n := one.Stats(); n.PolicyMismatch != 0 || n.Dropped != 0 {
			t.Errorf("stats %+v", n)
		}
	})
}

func TestPresenceEventsOfAnApplicationAreNothingSpecial(t *testing.T) {
	announced(t, func(t *testing.T, one, two *grouphub.Hub, _ *grouphub.MemoryLayer) {
		ann := dialAs(t, one, "ann")
		expectNews(t, ann, "members ann 1")
		send(t, two, "all", "presence", "mine")
		ann.Expect(`{"type":"presence","group":"all","data":"mine"}`)
	})
}

func TestMemberThatReadsSlowlyIsClosedForPresenceEventsToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		layer := grouphub.NewMemoryLayer()
		t.Cleanup(func() { layer.Close() })
		options := announceOptions(layer)
		options.MaxPending = 10_000
		options.Consumer.Events = grouphub.Events{"presence": grouphub.Handle(func(c *grouphub.Conn, e grouphub.Event) error {
			<-c.Context().Done() // it never has time for the next one
			return nil
		})}
		hub := newHub(t, options)
		slow := dialAs(t, hub, "slow")
		for i := range 5 {
			time.Sleep(time.Second)
			ghosts := make(map[string][]byte)
			for j := range 50 {
				ghosts[fmt.Sprint(i, "/", j)] = []byte(`{"since":1}`)
			}
			change := grouphub.LeaseChange{Version: 1, Life: time.Hour, Set: ghosts}
			layer.Lease(background, "g:all", fmt.Sprint("hub ", i), change)
			time.Sleep(20 * time.Second)
		}
		slow.ExpectClose(1013)
	})
}

func TestMemberThatLostPresenceEventsIsToldAnewWhoIsThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		layer := newFaultyLayer()
		t.Cleanup(func() { layer.Close() })
		var loading atomic.Bool
		loaded := make(chan struct{})
		options := announceOptions(layer)
		options.MaxPending = 5000
		options.Policy = func(group string) grouphub.GroupPolicy {
			return grouphub.GroupPolicy{Announce: group == "all", Snapshot: func(ctx context.Context, _ string) (any, error) {
				if loading.Load() {
					select {
					case <-loaded:
					case <-ctx.Done():
					}
				}
				return nil, ctx.Err()
			}}
		}
		options.Consumer.Events["snapshot"] = grouphub.Forward()
		two := newHub(t, announceOptions(layer))
		one := newHub(t, options) // which the layer has the receiver of
		ann := dialAs(t, one, "ann")
		ann.SkipTo("presence")
		loading.Store(true)
		layer.receiver.Lost([]string{"g:all"})
		dialAs(t, two, "bob")
		time.Sleep(2 * time.Second) // that he has joined is held
		send(t, two, "all", "note", strings.Repeat("x", 6000))
		loading.Store(false)
		close(loaded)
		var n news
		if err := ann.SkipTo("presence").Decode(&n); err != nil || n.String() != "members ann,bob 2" {
			t.Errorf("told %s, %v", n, err)
		}
		ann.ExpectNone(time.Minute)
	})
}

func TestMemberThatDoesNotReadIsToldAnewWhoIsThereOnlyWhenItReads(t *testing.T) {
	wide := strings.Repeat("x", 100)
	for name, fall := range map[string]func(layer *faultyLayer, hub *grouphub.Hub){
		"behind with Latest keys": func(_ *faultyLayer, hub *grouphub.Hub) {
			for i := range 100 {
				send(t, hub, "all", "note", wide, grouphub.Latest(fmt.Sprint(i)))
			}
		},
		"before a snapshot": func(layer *faultyLayer, hub *grouphub.Hub) {
			for range 22 {
				send(t, hub, "all", "note", wide)
			}
			layer.receiver.Lost([]string{"g:all"})
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				layer := newFaultyLayer()
				t.Cleanup(func() { layer.Close() })
				var composed atomic.Int32
				options := announceOptions(layer)
				options.MaxPending, options.WriteTimeout = 5000, time.Hour
				options.PingInterval, options.PongTimeout = time.Hour, 2*time.Hour
				options.Policy = func(group string) grouphub.GroupPolicy {
					return grouphub.GroupPolicy{Announce: group == "all", Snapshot: func(context.Context, string) (any, error) { return 1, nil }}
				}
				options.Consumer.Events["snapshot"] = grouphub.Forward()
				options.Consumer.Events["presence"] = grouphub.Render(func(e grouphub.Event) ([]byte, error) {
					composed.Add(1)
					return json.Marshal(e)
				})
				hub := newHub(t, options)
				silent := dialPipe(t, authenticate(hub), "/?user=ann")
				defer silent.Close()
				for !strings.Contains(next(t, silent), "members") {
				}
				fall(layer, hub)
				synctest.Wait()
				bob := dialAs(t, hub, "bob")
				bob.SkipTo("presence")
				time.Sleep(time.Minute)
				if n := composed.Load(); n > 4 { // that each has joined, and who is there
					t.Errorf("%d presence events were composed", n)
				}
				for !strings.Contains(next(t, silent), `"snapshot"`) {
				}
				var e grouphub.Event
				var n news
				if err := json.Unmarshal([]byte(next(t, silent)), &e); err != nil {
					t.Fatal(err)
				}
				if err := e.Decode(&n); err != nil || n.String() != "members ann,bob 2" {
					t.Errorf("told %s, %v", n, err)
				}
			})
		})
	}
}

func TestMemberWhoseJoinFailsHasLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var failing atomic.Bool
		options := announceOptions(nil)
		options.Policy = func(group string) grouphub.GroupPolicy {
			return grouphub.GroupPolicy{Announce: group == "all", Snapshot: func(context.Context, string) (any, error) {
				if failing.Load() && group == "all" {
					return nil, errors.New("no database")
				}
				return nil, nil
			}}
		}
		options.Consumer.Events["snapshot"] = grouphub.Ignore()
		hub := newHub(t, options)
		ann := dialAs(t, hub, "ann")
		expectNews(t, ann, "members ann 1")
		failing.Store(true)
		dialAs(t, hub, "bob").ExpectClose(1013)
		time.Sleep(20 * time.Second)
		if n, err := hub.Count(background, "all"); n != 1 || err != nil {
			t.Errorf("count %d, %v", n, err)
		}
		failing.Store(false)
		cid := dialAs(t, hub, "cid")
		expectNews(t, cid, "members ann,cid 2")
	})
}

func TestNewcomerWhoWaitsForTheNextLoadIsToldWhoIsThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		options := announceOptions(nil)
		options.Policy = func(group string) grouphub.GroupPolicy {
			if group != "all" {
				return grouphub.GroupPolicy{}
			}
			return grouphub.GroupPolicy{Announce: true, Snapshot: func(context.Context, string) (any, error) {
				time.Sleep(2 * time.Second)
				return nil, nil
			}}
		}
		options.Consumer.Events["snapshot"] = grouphub.Forward()
		hub := newHub(t, options)
		clients := make(chan *hubtest.Client, 2)
		go func() { clients <- dialAs(t, hub, "ann") }()
		time.Sleep(300 * time.Millisecond)
		go func() { clients <- dialAs(t, hub, "bob") }() // too late for the load that runs
		for range 2 {
			c := <-clients
			c.ExpectEvent("snapshot")
			var n news
			if err := c.ExpectEvent("presence").Decode(&n); err != nil || len(n.Members) == 0 {
				t.Errorf("told %s, %v", n, err)
			}
		}
	})
}
