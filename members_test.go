package grouphub_test

import (
	"encoding/json"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
)

// shardedHub returns a hub whose groups get a new shard for so many members, up to four.
func shardedHub(t *testing.T, full int32, opts *grouphub.Options) *grouphub.Hub {
	t.Helper()
	before := runtime.GOMAXPROCS(4)
	t.Cleanup(func() { runtime.GOMAXPROCS(before) })
	hub := newHub(t, opts)
	grouphub.SetFullShard(hub, full)
	return hub
}

func wantShards(t *testing.T, hub *grouphub.Hub, want ...int) {
	t.Helper()
	if got := grouphub.ShardSizes(hub, "all"); !slices.Equal(got, want) {
		t.Errorf("the shards have %v members, want %v", got, want)
	}
}

// dialMany connects so many clients to a hub that serves noteConsumer, and returns their
// connections, too.
func dialMany(t *testing.T, hub *grouphub.Hub, n int) (clients []*hubtest.Client, conns []*grouphub.Conn) {
	t.Helper()
	handler := hub.Handler(grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error { conns = append(conns, c); return joinAll(c) },
		Events:  noteConsumer.Events,
	})
	for range n {
		clients = append(clients, hubtest.Dial(t, handler, "/"))
	}
	return clients, conns
}

func note(data any) string { return fmt.Sprintf(`{"type":"note","group":"all","data":%v}`, data) }

func TestMembersGoToTheFirstShardWithRoomAndThenToTheSmallest(t *testing.T) {
	hub := shardedHub(t, 2, nil)
	_, conns := dialMany(t, hub, 8)
	wantShards(t, hub, 2, 2, 2, 2)
	leave := func(members ...int) {
		for _, m := range members {
			if err := conns[m].Leave("all"); err != nil {
				t.Fatal(err)
			}
		}
	}
	join := func(members ...int) {
		for _, m := range members {
			if err := conns[m].Join("all"); err != nil {
				t.Fatal(err)
			}
		}
	}
	leave(2, 7) // of the second shard, and of the last
	join(2)
	wantShards(t, hub, 2, 2, 2, 1)
	join(7)
	dialMany(t, hub, 3) // all shards are full, and there are no more processors
	wantShards(t, hub, 3, 3, 3, 2)
	leave(4, 5)
	dialMany(t, hub, 1)
	wantShards(t, hub, 3, 3, 2, 2)
	leave(0, 1, 2, 3, 6, 7)
	wantShards(t, hub, 1, 1, 2, 0)
}

func TestOrderIsTheSameForMembersOfAllShards(t *testing.T) {
	const senders, each = 4, 250
	hub := shardedHub(t, 2, &grouphub.Options{Consumer: noteConsumer})
	clients, _ := dialMany(t, hub, 8)
	wantShards(t, hub, 2, 2, 2, 2)
	sendFromMany(t, senders, each, hub)
	expectOneOrder(t, clients, senders, each)
}

func TestLeaveAndExceptAndCloseHoldInAllShards(t *testing.T) {
	hub := shardedHub(t, 1, nil)
	clients, conns := dialMany(t, hub, 4)
	wantShards(t, hub, 1, 1, 1, 1)
	for i, c := range conns { // one in each shard is left out
		send(t, hub, "all", "note", i, grouphub.Except(c.Channel()))
	}
	for i, c := range clients {
		for event := range conns {
			if event != i {
				c.Expect(note(event))
			}
		}
	}
	for i, c := range conns[:3] {
		if err := c.Leave("all"); err != nil {
			t.Fatal(err)
		}
		send(t, hub, "all", "note", fmt.Sprint("without ", i))
		for _, c := range clients[i+1:] {
			c.Expect(note(fmt.Sprintf(`"without %d"`, i)))
		}
	}
	wantShards(t, hub, 0, 0, 0, 1)
	for _, c := range conns[:3] {
		if err := c.Join("all"); err != nil {
			t.Fatal(err)
		}
	}
	wantShards(t, hub, 1, 1, 1, 1)
	send(t, hub, "all", "note", "last")
	if err := hub.GroupClose(background, "all", 4000, "", grouphub.Except(conns[1].Channel())); err != nil {
		t.Fatal(err)
	}
	send(t, hub, "all", "note", "after the close")
	for i, c := range clients {
		if c.Expect(note(`"last"`)); i != 1 {
			c.ExpectClose(4000)
		}
	}
	clients[1].Expect(note(`"after the close"`))
}

// slowly returns a consumer whose Render waits until the test lets it go on.
func slowly() (consumer grouphub.Consumer, begun <-chan struct{}, proceed chan struct{}) {
	entered := make(chan struct{}, 1000)
	proceed = make(chan struct{})
	return grouphub.Consumer{Connect: joinAll, Events: grouphub.Events{
		"note": grouphub.Render(func(e grouphub.Event) ([]byte, error) {
			entered <- struct{}{}
			<-proceed
			return json.Marshal(e)
		}),
	}}, entered, proceed
}

func TestAMemberThatJoinsWithinABatchGetsTheRest(t *testing.T) {
	for full, shards := range map[int32][]int{1: {1, 1}, 2: {2}} { // in another shard, and in the same
		t.Run(fmt.Sprint(len(shards), " shards"), func(t *testing.T) {
			hub := shardedHub(t, full, nil)
			slow, begun, proceed := slowly()
			old := hubtest.Dial(t, hub.Handler(slow), "/")
			for i := range 3 {
				send(t, hub, "all", "note", i)
			}
			<-begun // the first is in a batch of its own, the others wait
			clients, _ := dialMany(t, hub, 1)
			wantShards(t, hub, shards...)
			for i := 3; i < 6; i++ {
				send(t, hub, "all", "note", i)
			}
			close(proceed)
			for i := range 6 {
				old.Expect(note(i))
			}
			for i := 3; i < 6; i++ {
				clients[0].Expect(note(i))
			}
		})
	}
}

func TestAShardThatIsSlowHoldsUpNoOtherUntilTheGroupIsFull(t *testing.T) {
	hub := shardedHub(t, 1, &grouphub.Options{MaxPending: 8 << 20})
	slow, begun, proceed := slowly()
	quick, _ := dialMany(t, hub, 1)
	stuck := hubtest.Dial(t, hub.Handler(slow), "/")
	behind, _ := dialMany(t, hub, 2)
	wantShards(t, hub, 1, 1, 1, 1)
	quick = append(quick, behind...)
	text := strings.Repeat("x", 100<<10)
	sent := 0
	// What waits for one shard counts for the group. As long as there is room for more the
	// layer does not look at the context.
	for hub.GroupSend(canceled(), "all", "note", fmt.Sprint(sent, text)) == nil {
		for _, c := range quick {
			expectText(t, c, sent, text)
		}
		sent++
	}
	<-begun
	if sent < 10 || sent > 12 {
		t.Errorf("%d events of 100 KiB were taken, want 1 MiB of them", sent)
	}
	next := make(chan error)
	go func() { next <- hub.GroupSend(background, "all", "note", fmt.Sprint(sent, text)) }()
	close(proceed)
	if err := <-next; err != nil {
		t.Error(err)
	}
	for i := range sent + 1 {
		expectText(t, stuck, i, text)
	}
	for _, c := range quick {
		expectText(t, c, sent, text)
	}
	if s := hub.Stats(); s.Dropped != 0 || s.Resyncs != 0 || s.SlowClosed != 0 {
		t.Errorf("%+v", s)
	}
}

// expectText expects a note of a number and a text.
func expectText(t *testing.T, c *hubtest.Client, number int, text string) {
	t.Helper()
	var got string
	if err := c.ExpectEvent("note").Decode(&got); err != nil || got != fmt.Sprint(number, text) {
		t.Fatalf("got %.20q, want %d and a text", got, number)
	}
}

func TestMembersOfAllShardsAreToldOnceWhatAFullGroupHasLost(t *testing.T) {
	layer := newBluntLayer()
	hub := shardedHub(t, 1, &grouphub.Options{Layer: layer, MaxPending: 8 << 20})
	slow, begun, proceed := slowly()
	quick, _ := dialMany(t, hub, 1)
	clients := []*hubtest.Client{quick[0], hubtest.Dial(t, hub.Handler(slow), "/")}
	wantShards(t, hub, 1, 1)
	const sent, taken = 30, 11
	for i := range sent {
		send(t, hub, "all", "note", fmt.Sprint(i, strings.Repeat("x", 100<<10)))
	}
	<-begun
	if n := hub.Stats(); n.Dropped != (sent-taken)*2 || n.Resyncs != 0 {
		t.Errorf("%d dropped, %d Resyncs before there is room again, want %d and none", n.Dropped, n.Resyncs, (sent-taken)*2)
	}
	close(proceed)
	for _, c := range clients {
		for notes, resyncs := 0, 0; notes+resyncs < taken+1; {
			var e grouphub.Event
			switch err := c.Next().Decode(&e); {
			case err == nil && e.Type == "note":
				notes++
			case err == nil && e.Type == "resync" && resyncs == 0:
				resyncs++
			default:
				t.Fatalf("got %.50s, %v after %d notes", e.Type, err, notes)
			}
		}
	}
	send(t, hub, "all", "note", "next")
	for _, c := range clients {
		c.Expect(note(`"next"`))
	}
	if n := hub.Stats().Resyncs; n != 2 {
		t.Errorf("%d Resyncs", n)
	}
}
