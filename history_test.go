package grouphub_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
)

// keeping is a policy by which every group keeps n events.
func keeping(n int) func(string) grouphub.GroupPolicy {
	return func(string) grouphub.GroupPolicy { return grouphub.GroupPolicy{History: n} }
}

// historyHub returns a hub whose groups keep 100 events. The connection's path says
// which group it joins, the query what it asks for.
func historyHub(t testing.TB, layer grouphub.Layer) *grouphub.Hub {
	t.Helper()
	return newHub(t, &grouphub.Options{Layer: layer, Policy: keeping(100), Logger: slog.New(slog.DiscardHandler),
		Consumer: grouphub.Consumer{
			Connect: func(c *grouphub.Conn) error {
				var opts []grouphub.JoinOption
				var n int
				if _, err := fmt.Sscan(c.Request().URL.Query().Get("last"), &n); err == nil {
					opts = append(opts, grouphub.Last(n))
				}
				if id := c.Request().URL.Query().Get("after"); id != "" {
					opts = append(opts, grouphub.After(id))
				}
				return c.Join(strings.Trim(c.Request().URL.Path, "/"), opts...)
			},
			Events: grouphub.Events{"n": grouphub.Forward()},
		}})
}

func expectNumbers(t *testing.T, c *hubtest.Client, from, to int) (last grouphub.Event) {
	t.Helper()
	for i := from; i <= to; i++ {
		last = c.ExpectEvent("n")
		if string(last.Data) != fmt.Sprint(i) || last.ID == "" {
			t.Fatalf("got %s with id %q, want %d", last.Data, last.ID, i)
		}
	}
	return last
}

func sendNumbers(t testing.TB, hub *grouphub.Hub, group string, from, to int) {
	t.Helper()
	for i := from; i <= to; i++ {
		send(t, hub, group, "n", i)
	}
}

func resumeQuery(group, id string) string {
	return "?resume=" + url.QueryEscape(group+"@"+id)
}

func TestLastReplaysTheLastEventsAndGoesLive(t *testing.T) {
	hub := historyHub(t, nil)
	sendNumbers(t, hub, "g", 1, 150)
	c := hubtest.Dial(t, hub, "/g?last=5")
	sendNumbers(t, hub, "g", 151, 160)
	expectNumbers(t, c, 146, 160)
	all := hubtest.Dial(t, hub, "/g?last=1000")
	expectNumbers(t, all, 61, 160)
	none := hubtest.Dial(t, hub, "/g")
	sendNumbers(t, hub, "g", 161, 161)
	expectNumbers(t, none, 161, 161)
}

func TestAfterReplaysWhatCameAfterAnID(t *testing.T) {
	hub := historyHub(t, nil)
	c := hubtest.Dial(t, hub, "/g")
	sendNumbers(t, hub, "g", 1, 10)
	id := expectNumbers(t, c, 1, 10).ID
	sendNumbers(t, hub, "g", 11, 20)
	again := hubtest.Dial(t, hub, "/g?after="+url.QueryEscape(id))
	sendNumbers(t, hub, "g", 21, 30)
	expectNumbers(t, again, 11, 30)
}

func TestResumeReplaysWhatWasMissed(t *testing.T) {
	layer := grouphub.NewMemoryLayer()
	hubs := []*grouphub.Hub{historyHub(t, layer), historyHub(t, layer)}
	c := hubtest.Dial(t, hubs[0], "/g?resume=")
	var position grouphub.Event
	json.Unmarshal(c.Next().Data, &position)
	if position.Type != "grouphub.position" || position.Group != "g" || position.ID == "" {
		t.Fatalf("got %+v", position)
	}
	c.Close() // before the first event
	sendNumbers(t, hubs[1], "g", 1, 10)
	c = hubtest.Dial(t, hubs[1], "/g"+resumeQuery("g", position.ID))
	id := expectNumbers(t, c, 1, 10).ID
	if got := c.ExpectEvent("grouphub.position"); got.ID != id {
		t.Errorf("position %q, want %q", got.ID, id)
	}
	c.Close()
	sendNumbers(t, hubs[0], "g", 11, 20)
	c = hubtest.Dial(t, hubs[0], "/g?last=3&resume="+url.QueryEscape("g@"+id)) // what the client says wins
	expectNumbers(t, c, 11, 20)
}

func TestResumeOfWhatIsGoneIsResync(t *testing.T) {
	hub := historyHub(t, nil)
	c := hubtest.Dial(t, hub, "/g")
	sendNumbers(t, hub, "g", 1, 1)
	id := expectNumbers(t, c, 1, 1).ID
	sendNumbers(t, hub, "g", 2, 102) // of which 100 are kept
	for _, bad := range []string{id, "", "x", "a.b.c", "..", strings.Repeat("x", 1000), "zzz.1.", id + "9"} {
		c := hubtest.Dial(t, hub, "/g"+resumeQuery("g", bad))
		c.Expect(`{"type":"resync","group":"g"}`)
		c.ExpectEvent("grouphub.position")
		sendNumbers(t, hub, "g", 103, 103)
		expectNumbers(t, c, 103, 103)
	}
	// One event less, and all is there.
	c = hubtest.Dial(t, hub, "/h")
	sendNumbers(t, hub, "h", 1, 1)
	id = expectNumbers(t, c, 1, 1).ID
	sendNumbers(t, hub, "h", 2, 101)
	expectNumbers(t, hubtest.Dial(t, hub, "/h"+resumeQuery("h", id)), 2, 101)
}

func TestResyncCallbackTellsTheGroups(t *testing.T) {
	got := make(chan []string, 1)
	hub := newHub(t, &grouphub.Options{Policy: keeping(10), Consumer: grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error { return c.Join("g") },
		Resync:  func(c *grouphub.Conn, groups []string) { got <- groups },
	}})
	hubtest.Dial(t, hub, "/?resume=g@stranger")
	if groups := <-got; len(groups) != 1 || groups[0] != "g" {
		t.Errorf("got %q", groups)
	}
	if n := hub.Stats().Resyncs; n != 1 {
		t.Errorf("%d resyncs", n)
	}
}

func TestUsersGroupResumesLikeAnyGroup(t *testing.T) {
	hub := newHub(t, &grouphub.Options{Policy: keeping(10), Consumer: grouphub.Consumer{
		Events: grouphub.Events{"n": grouphub.Forward()}}})
	h := grouphub.Authenticate(func(*http.Request) (grouphub.User, error) { return grouphub.User{ID: "ann"}, nil })(hub)
	group := grouphub.UserGroup("ann")
	c := hubtest.Dial(t, h, "/")
	sendNumbers(t, hub, group, 1, 1)
	id := expectNumbers(t, c, 1, 1).ID
	c.Close()
	sendNumbers(t, hub, group, 2, 3)
	expectNumbers(t, hubtest.Dial(t, h, "/"+resumeQuery(group, id)), 2, 3)
}

func TestReplayLargerThanMaxPendingWaitsForTheClient(t *testing.T) {
	hub := newHub(t, &grouphub.Options{Policy: keeping(100), MaxPending: 64 << 10, Consumer: grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error { return c.Join("g", grouphub.Last(100)) },
		Events:  grouphub.Events{"n": grouphub.Forward()},
	}})
	text := strings.Repeat("x", 100<<10)
	for i := range 100 {
		send(t, hub, "g", "n", fmt.Sprint(i, text))
	}
	server := newServer(t, hub)
	server.Start()
	c, _, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(server.URL, "http"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for i := range 100 {
		if got := next(t, c); !strings.Contains(got[:80], fmt.Sprintf(`"data":"%dx`, i)) {
			t.Fatalf("event %d: got %.80s", i, got)
		}
	}
	if s := hub.Stats(); s.SlowClosed != 0 || s.Resyncs != 0 {
		t.Errorf("%+v", s)
	}
}

func TestSlowClientComesBackAndGetsWhatItMissed(t *testing.T) {
	hub := newHub(t, &grouphub.Options{Policy: keeping(5_000), MaxPending: 64 << 10, CloseTimeout: 20 * time.Second,
		Consumer: grouphub.Consumer{
			Connect: func(c *grouphub.Conn) error { return c.Join("g") },
			Events:  grouphub.Events{"n": grouphub.Forward()},
		}})
	s := serve(t, hub)
	c := s.dial("/?resume=")
	text := strings.Repeat("x", 30<<10)
	sent := 0
	for ; hub.Stats().SlowClosed == 0; sent++ {
		send(t, hub, "g", "n", fmt.Sprint(sent, text))
	}
	position, got, closes := "", 0, 0
	for got < sent {
		c.SetReadDeadline(time.Now().Add(10 * time.Second))
		var e grouphub.Event
		if err := c.ReadJSON(&e); websocket.IsCloseError(err, 1013) {
			closes++
			c = s.dial("/" + resumeQuery("g", position))
			continue
		} else if err != nil {
			t.Fatal(err)
		}
		if position = e.ID; e.Type == "grouphub.position" {
			continue
		}
		if want := fmt.Sprintf(`"%dx`, got); e.Type != "n" || !strings.HasPrefix(string(e.Data), want) {
			t.Fatalf("got %s %.60s, want %s", e.Type, e.Data, want)
		}
		got++
	}
	if closes == 0 || hub.Stats().Resyncs != 0 {
		t.Errorf("closed %d times with 1013, %+v", closes, hub.Stats())
	}
}

func TestReplayReachesRenderAndHandle(t *testing.T) {
	hub := newHub(t, &grouphub.Options{Policy: keeping(10), Consumer: grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error { return c.Join("g", grouphub.Last(10)) },
		Events: grouphub.Events{
			"render": grouphub.Render(func(e grouphub.Event) ([]byte, error) { return append([]byte("rendered "), e.Data...), nil }),
			"handle": grouphub.Handle(func(c *grouphub.Conn, e grouphub.Event) error { return c.Send(append([]byte("handled "), e.Data...)) }),
		},
	}})
	send(t, hub, "g", "render", 1)
	send(t, hub, "g", "handle", 2)
	c := hubtest.Dial(t, hub, "/")
	c.Expect("rendered 1")
	c.Expect("handled 2")
}

func TestOnceDeliversOnce(t *testing.T) {
	hub := historyHub(t, nil)
	c := hubtest.Dial(t, hub, "/g")
	for range 3 {
		send(t, hub, "g", "n", 1, grouphub.Once("order 17"))
	}
	send(t, hub, "g", "n", 2, grouphub.Once("order 18"))
	send(t, hub, "h", "n", 1, grouphub.Once("order 17")) // another group
	expectNumbers(t, c, 1, 2)
	plain := newHub(t, nil)
	if err := plain.GroupSend(background, "g", "n", 1, grouphub.Once("x")); err == nil || !strings.Contains(err.Error(), "history") {
		t.Errorf("Once without history: %v", err)
	}
}

func TestHistoryExpiresAndLeavesNothingInMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		layer := grouphub.NewMemoryLayer()
		hub := grouphub.New(&grouphub.Options{Layer: layer, Consumer: grouphub.Consumer{
			Connect: func(c *grouphub.Conn) error { return c.Join("g", grouphub.Last(10)) },
			Events:  grouphub.Events{"n": grouphub.Forward()},
		}, Policy: func(string) grouphub.GroupPolicy {
			return grouphub.GroupPolicy{History: 10, HistoryTTL: time.Minute}
		}})
		idle, _ := grouphub.MemoryInUse(layer)
		send(t, hub, "g", "n", 1)
		time.Sleep(59 * time.Second)
		c := hubtest.Dial(t, hub, "/")
		expectNumbers(t, c, 1, 1)
		time.Sleep(2 * time.Minute)
		late := hubtest.Dial(t, hub, "/")
		send(t, hub, "g", "n", 2)
		expectNumbers(t, late, 2, 2)
		c.Close()
		late.Close()
		time.Sleep(25 * time.Hour) // the count is kept for a day
		if topics, _ := grouphub.MemoryInUse(layer); topics != idle {
			t.Errorf("%d topics are left, %d before", topics, idle)
		}
		hub.Shutdown(background)
		layer.Close()
	})
}

func TestIdleGroupsLeaveNothingInMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		layer := grouphub.NewMemoryLayer()
		hub := grouphub.New(&grouphub.Options{Layer: layer, Consumer: grouphub.Consumer{
			Connect: func(c *grouphub.Conn) error { return c.Join(c.Request().URL.Path) },
			Events:  grouphub.Events{"n": grouphub.Forward()},
		}, Policy: func(string) grouphub.GroupPolicy {
			return grouphub.GroupPolicy{History: 10, HistoryTTL: time.Minute, Presence: true}
		}})
		idle, _ := grouphub.MemoryInUse(layer)
		for i := range 20 {
			group := fmt.Sprint("/", i)
			c := hubtest.Dial(t, hub, group)
			send(t, hub, group, "n", 1, grouphub.Once("one"))
			send(t, hub, group, "n", 1, grouphub.Once("one"))
			send(t, hub, group, "n", 2)
			expectNumbers(t, c, 1, 2)
			time.Sleep(time.Second)
			if n := grouphub.MemoryLeases(layer); n != 1 {
				t.Fatalf("%d groups have leases, want 1", n)
			}
			c.Close()
			time.Sleep(time.Second)
			// Nobody is ever there to receive these.
			send(t, hub, "worker's"+group, "n", 1, grouphub.Once("one"))
		}
		time.Sleep(25 * time.Hour) // the count outlives the history by a day
		if topics, queues := grouphub.MemoryInUse(layer); topics != idle || queues != 0 {
			t.Errorf("%d topics and %d queues are left, %d topics before", topics, queues, idle)
		}
		if n := grouphub.MemoryLeases(layer); n != 0 {
			t.Errorf("%d groups have leases", n)
		}
		hub.Shutdown(background)
		if topics, queues := grouphub.MemoryInUse(layer); topics != 0 || queues != 0 {
			t.Errorf("%d topics and %d queues are left after Shutdown", topics, queues)
		}
		layer.Close()
	})
}

// A faultyLayer loses, repeats and delays what it delivers, and numbers begin anew
// when it is told so. What it keeps is right.
type faultyLayer struct {
	*grouphub.MemoryLayer
	mu       sync.Mutex
	receiver grouphub.Receiver
	fault    func(p grouphub.Publication) []grouphub.Publication
	down     atomic.Bool // History fails
}

func (l *faultyLayer) Attach(hub string, r grouphub.Receiver) (grouphub.Subscription, error) {
	l.receiver = r
	return l.MemoryLayer.Attach(hub, faultyReceiver{r, l})
}

func (l *faultyLayer) History(ctx context.Context, topic string, after uint64) (grouphub.History, error) {
	if l.down.Load() {
		return grouphub.History{}, grouphub.ErrUnavailable
	}
	return l.MemoryLayer.History(ctx, topic, after)
}

type faultyReceiver struct {
	grouphub.Receiver
	layer *faultyLayer
}

func (r faultyReceiver) Deliver(p grouphub.Publication) {
	r.layer.mu.Lock()
	defer r.layer.mu.Unlock()
	out := []grouphub.Publication{p}
	if r.layer.fault != nil && strings.HasPrefix(p.Topic, "g:") {
		out = r.layer.fault(p)
	}
	for _, p := range out {
		r.Receiver.Deliver(p)
	}
}

func (l *faultyLayer) setFault(f func(p grouphub.Publication) []grouphub.Publication) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fault = f
}

// dropAndRepeat returns a fault that drops some publications, repeats others, and delays
// yet others until a later one has been delivered.
func dropAndRepeat() func(grouphub.Publication) []grouphub.Publication {
	var late []grouphub.Publication
	return func(p grouphub.Publication) (out []grouphub.Publication) {
		switch rand.IntN(6) {
		case 0:
			return nil
		case 1:
			return []grouphub.Publication{p, p}
		case 2:
			late = append(late, p)
			return nil
		case 3:
			out = append([]grouphub.Publication{p}, late...)
			late = nil
			return out
		}
		return []grouphub.Publication{p}
	}
}

func TestNothingIsLostWhileTheLayerDropsAndRepeats(t *testing.T) {
	layer := &faultyLayer{MemoryLayer: grouphub.NewMemoryLayer()}
	hub := historyHub(t, layer)
	a, b := hubtest.Dial(t, hub, "/g"), hubtest.Dial(t, hub, "/g")
	layer.setFault(dropAndRepeat())
	const n = 2000
	for i := 1; i <= n; i++ {
		send(t, hub, "g", "n", i)
		if i%50 == 0 { // the history must cover the gap
			layer.receiver.Lost([]string{"g:g"})
			expectNumbers(t, a, i-49, i)
			expectNumbers(t, b, i-49, i)
		}
	}
	if s := hub.Stats(); s.Recovered == 0 || s.Resyncs != 0 || s.Dropped != 0 {
		t.Errorf("%+v", s)
	}
}

func TestEveryEventExactlyOnceWhileTheLayerDropsAndAClientIsCut(t *testing.T) {
	memory := grouphub.NewMemoryLayer()
	var layers []*faultyLayer
	var hubs []*grouphub.Hub
	for range 2 {
		layer := &faultyLayer{MemoryLayer: memory}
		layers, hubs = append(layers, layer), append(hubs, newHub(t, followed(layer)))
		layer.setFault(dropAndRepeat())
	}
	expectExactlyOnce(t, hubs, func() {
		for _, layer := range layers { // nothing follows that would show a gap at the end
			layer.setFault(nil)
			layer.receiver.Lost([]string{"g:g"})
		}
	})
	for i, hub := range hubs {
		if hub.Stats().Recovered == 0 {
			t.Errorf("hub %d has recovered nothing", i)
		}
	}
}

func TestGapThatHistoryDoesNotCoverIsResync(t *testing.T) {
	layer := &faultyLayer{MemoryLayer: grouphub.NewMemoryLayer()}
	hub := historyHub(t, layer)
	c := hubtest.Dial(t, hub, "/g")
	sendNumbers(t, hub, "g", 1, 5)
	expectNumbers(t, c, 1, 5)
	layer.setFault(func(grouphub.Publication) []grouphub.Publication { return nil })
	sendNumbers(t, hub, "g", 6, 205)
	layer.setFault(nil)
	sendNumbers(t, hub, "g", 206, 206)
	c.Expect(`{"type":"resync","group":"g"}`)
	expectNumbers(t, c, 107, 206)
}

func TestGapIsFilledWhenTheLayerIsBack(t *testing.T) {
	layer := &faultyLayer{MemoryLayer: grouphub.NewMemoryLayer()}
	hub := historyHub(t, layer)
	c := hubtest.Dial(t, hub, "/g")
	sendNumbers(t, hub, "g", 1, 1)
	expectNumbers(t, c, 1, 1)
	layer.down.Store(true)
	layer.setFault(func(grouphub.Publication) []grouphub.Publication { return nil })
	sendNumbers(t, hub, "g", 2, 5)
	layer.setFault(nil)
	sendNumbers(t, hub, "g", 6, 20)
	layer.down.Store(false)
	expectNumbers(t, c, 2, 20)
}

func TestNewEpochIsResyncUnlessNothingIsMissing(t *testing.T) {
	layer := &faultyLayer{MemoryLayer: grouphub.NewMemoryLayer()}
	hub := historyHub(t, layer)
	c := hubtest.Dial(t, hub, "/g")
	deliver := func(epoch string, number uint64, nonce string, data int) {
		layer.mu.Lock()
		defer layer.mu.Unlock()
		payload := grouphub.EncodeEvent("g", "n", data)
		layer.receiver.Deliver(grouphub.Publication{Topic: "g:g", Payload: payload,
			At: grouphub.Position{Epoch: epoch, Number: number, Nonce: nonce}})
	}
	deliver("one", 1, "a", 1)
	deliver("one", 2, "b", 2)
	deliver("one", 2, "b", 2) // a repeat
	deliver("two", 1, "a", 3) // the count begins anew: nothing is missing
	expectNumbers(t, c, 1, 3)
	deliver("two", 1, "x", 4) // the number again, for another event
	c.Expect(`{"type":"resync","group":"g"}`)
	expectNumbers(t, c, 4, 4)
	deliver("three", 7, "a", 5) // the memory layer knows of no such thing
	c.Expect(`{"type":"resync","group":"g"}`)
}

func TestOnePolicy(t *testing.T) {
	var logged safeBuffer
	layer := grouphub.NewMemoryLayer()
	groups := []string{"a", "b"}
	hub := newHub(t, &grouphub.Options{Layer: layer, Policy: keeping(10), Logger: slog.New(slog.NewTextHandler(&logged, nil)),
		Consumer: grouphub.Consumer{
			Connect: func(c *grouphub.Conn) error { return errors.Join(c.Join("a"), c.Join("b")) },
			Events:  grouphub.Events{"note": grouphub.Forward()},
		}})
	other := newHub(t, &grouphub.Options{Layer: layer}) // a worker that was given no Policy
	c := hubtest.Dial(t, hub, "/")
	const events = 20
	for i := range events {
		for _, group := range groups {
			send(t, other, group, "note", i)
			c.Expect(fmt.Sprintf(`{"type":"note","group":"%s","data":%d}`, group, i))
		}
	}
	if n := hub.Stats().PolicyMismatch; n != 2*events {
		t.Errorf("PolicyMismatch is %d, want %d", n, 2*events)
	}
	if n := strings.Count(logged.String(), "level=ERROR"); n != len(groups) || strings.Count(logged.String(), "Policy") != n {
		t.Errorf("logged %d errors, want one for each group:\n%s", n, logged.String())
	}
	for _, group := range groups {
		if !strings.Contains(logged.String(), `group="\"`+group+`\""`) {
			t.Errorf("group %s is not logged:\n%s", group, logged.String())
		}
	}
}

func TestEveryEventExactlyOnceWhileAClientIsCutAgainAndAgain(t *testing.T) {
	layer := grouphub.NewMemoryLayer()
	var servers []*server
	var hubs []*grouphub.Hub
	for range 2 {
		hub := newHub(t, &grouphub.Options{Layer: layer, Policy: keeping(5_000), Consumer: grouphub.Consumer{
			Connect: func(c *grouphub.Conn) error { return c.Join("g") },
			Events:  grouphub.Events{"n": grouphub.Forward()},
		}})
		hubs, servers = append(hubs, hub), append(servers, serve(t, hub))
	}
	stop := make(chan struct{})
	sent := make(chan int, 1)
	var read atomic.Int64
	first := servers[0].dial("/?resume=")
	var begin grouphub.Event // a position before the first event
	if err := json.Unmarshal([]byte(next(t, first)), &begin); err != nil || begin.Type != "grouphub.position" {
		t.Fatalf("got %+v, %v", begin, err)
	}
	first.Close()
	go func() {
		for i := 1; ; i++ {
			select {
			case <-stop:
				sent <- i - 1
				return
			default:
				if i-int(read.Load()) < 3_000 { // further behind, the history would not cover it
					send(t, hubs[i%2], "g", "n", i)
				} else {
					i--
					runtime.Gosched()
				}
			}
		}
	}()
	position, last := begin.ID, 0
	for cut := 0; cut <= 100; cut++ {
		c := servers[rand.IntN(2)].dial("/?resume=" + url.QueryEscape("g@"+position))
		target := -1
		for reads := rand.IntN(300); reads > 0 || cut == 100; reads-- {
			var e grouphub.Event
			if err := json.Unmarshal([]byte(next(t, c)), &e); err != nil {
				t.Fatal(err)
			}
			var n int
			switch e.Type {
			case "grouphub.position":
				continue
			case "n":
				json.Unmarshal(e.Data, &n)
			default:
				t.Fatalf("got %+v", e)
			}
			if n != last+1 {
				t.Fatalf("after %d came %d", last, n)
			}
			last, position = n, e.ID
			read.Store(int64(n))
			if cut == 100 && target < 0 {
				close(stop)
				target = <-sent
			}
			if last == target { // one more, which is the next
				send(t, hubs[0], "g", "n", target+1)
			}
			if target >= 0 && last > target {
				break
			}
		}
		c.NetConn().Close()
	}
}

func TestOrderIsTheSameOnAllHubsInAGroupWithHistory(t *testing.T) {
	const senders, each, members = 6, 200, 4
	layer := grouphub.NewMemoryLayer()
	var hubs []*grouphub.Hub
	for range 2 {
		hubs = append(hubs, newHub(t, &grouphub.Options{Layer: layer, Policy: keeping(senders * each), Consumer: noteConsumer}))
	}
	var clients []*hubtest.Client
	for m := range members {
		clients = append(clients, hubtest.Dial(t, hubs[m%2], "/"))
	}
	var sending sync.WaitGroup
	for s := range senders {
		sending.Go(func() {
			for i := range each {
				send(t, hubs[s%2], "all", "note", [2]int{s, i})
			}
		})
	}
	sending.Wait()
	var first []string
	for m, c := range clients {
		var last [senders]int
		for i := range senders * each {
			got := string(c.Next().Data)
			if m > 0 {
				if got != first[i] {
					t.Fatalf("member %d, event %d: got %s, member 0 got %s", m, i, got, first[i])
				}
				continue
			}
			first = append(first, got)
			var e struct{ Data [2]int }
			if err := json.Unmarshal([]byte(got), &e); err != nil {
				t.Fatal(err)
			}
			if s, n := e.Data[0], e.Data[1]; n != last[s] {
				t.Fatalf("sender %d: got %d, want %d", s, n, last[s])
			}
			last[e.Data[0]]++
		}
	}
}

func TestMembersAcrossHubs(t *testing.T) {
	layer := grouphub.NewMemoryLayer()
	policy := func(group string) grouphub.GroupPolicy { return grouphub.GroupPolicy{Presence: group == "all"} }
	options := &grouphub.Options{Layer: layer, Policy: policy, Consumer: noteConsumer}
	one, two := newHub(t, options), newHub(t, options)
	authenticate := grouphub.Authenticate(func(r *http.Request) (grouphub.User, error) {
		return grouphub.User{ID: r.URL.Query().Get("user")}, nil
	})
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

func TestMembersOfAHubThatCrashedVanish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		layer := grouphub.NewMemoryLayer()
		policy := func(string) grouphub.GroupPolicy { return grouphub.GroupPolicy{Presence: true} }
		hub := grouphub.New(&grouphub.Options{Layer: layer, Policy: policy, Consumer: noteConsumer})
		hubtest.Dial(t, hub, "/")
		// What a hub leaves behind that is no more.
		value := []byte(`[{"Channel":"gone!1","UserID":"ghost","Since":"2026-01-01T00:00:00Z"}]`)
		if _, err := layer.Lease(background, "g:all", "gone", value, time.Minute); err != nil {
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
		leases, err := layer.Leases(background, "g:all")
		if err != nil || len(leases) != 1 {
			t.Errorf("leases %q, %v", leases, err)
		}
		hub.Shutdown(background)
		if leases, _ := layer.Leases(background, "g:all"); len(leases) != 0 {
			t.Errorf("leases %q are left after Shutdown", leases)
		}
		layer.Close()
	})
}
