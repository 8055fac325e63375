package redis_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
)

// startPresenceHub returns a hub on a layer of its own that announces who is in "all".
func startPresenceHub(t *testing.T, s *server) *grouphub.Hub {
	t.Helper()
	options := presenceOptions(layer(t, s.url(), nil))
	options.Policy = func(group string) grouphub.GroupPolicy { return grouphub.GroupPolicy{Announce: group == "all"} }
	hub := grouphub.New(options)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := hub.Shutdown(ctx); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
	})
	return hub
}

// presenceNews is the data of a presence event.
type presenceNews struct {
	Joined, Left, Members []struct{ User string }
	Count                 int
}

func nextNews(t *testing.T, c *hubtest.Client) (n presenceNews) {
	t.Helper()
	if err := c.SkipTo("presence").Decode(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func dialAs(t *testing.T, h http.Handler, user string) *hubtest.Client {
	t.Helper()
	return hubtest.Dial(t, h, "/", hubtest.WithUser(grouphub.User{ID: user}))
}

// traffic returns how many bytes the server has been sent, and has sent.
func (s *server) traffic() (in, out int) {
	s.t.Helper()
	for line := range strings.Lines(s.cli("INFO", "stats")) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		n, _ := strconv.Atoi(value)
		switch name {
		case "total_net_input_bytes":
			in = n
		case "total_net_output_bytes":
			out = n
		}
	}
	return in, out
}

func TestComingsAndGoingsInAGroupOfFiveThousandCostRedisLittle(t *testing.T) {
	const members, changes = 5000, 200
	s := start(t)
	hubs := []*grouphub.Hub{startPresenceHub(t, s), startPresenceHub(t, s)}
	// Nearly all have no handler for the events. Otherwise each of them would keep every
	// coming of all the others, in this process.
	var quiet []http.Handler
	for _, hub := range hubs {
		quiet = append(quiet, hub.Handler(grouphub.Consumer{Connect: func(c *grouphub.Conn) error { return c.Join("all") }}))
	}
	watcher := dialAs(t, hubs[1], "watcher")
	for i := range members - 1 {
		dialAs(t, quiet[i%2], fmt.Sprint("member ", i))
	}
	// The first event says how many are there; of many who come at once there are more than one,
	// each with the count after all of them.
	for told := nextNews(t, watcher).Count; told < members; told += len(nextNews(t, watcher).Joined) {
	}
	in, out := s.traffic()
	var clients []*hubtest.Client
	for i := range changes {
		clients = append(clients, dialAs(t, quiet[i%2], fmt.Sprint("visitor ", i)))
		time.Sleep(60 * time.Millisecond) // so that hardly two of them share a write
	}
	for _, c := range clients {
		c.Close()
		time.Sleep(60 * time.Millisecond)
	}
	joined, left := 0, 0
	for left < changes {
		n := nextNews(t, watcher)
		joined += len(n.Joined)
		left += len(n.Left)
	}
	inAfter, outAfter := s.traffic()
	in, out = inAfter-in, outAfter-out
	t.Logf("%d comings and %d goings, one by one: %d bytes each to redis, and %d from it to two hubs",
		joined, left, in/(2*changes), out/(2*changes))
	if in > 2*changes*1000 || joined != changes || left != changes {
		t.Errorf("%d bytes to redis for %d comings and %d goings, want 1,000 each at most", in, joined, left)
	}
}

func TestTwoTabsOnTwoHubsClosedTogetherAreExactlyOneLeft(t *testing.T) {
	t.Parallel()
	const rounds = 200
	s := start(t)
	hubs := []*grouphub.Hub{startPresenceHub(t, s), startPresenceHub(t, s)}
	watchers := []*hubtest.Client{dialAs(t, hubs[0], "watcher"), dialAs(t, hubs[1], "watcher")}
	var tabs []*hubtest.Client
	for i := range rounds {
		for _, hub := range hubs {
			tabs = append(tabs, dialAs(t, hub, fmt.Sprint("user ", i)))
		}
	}
	joined, left := make([]map[string]int, 2), make([]map[string]int, 2)
	read := func(until int) {
		t.Helper()
		for i, c := range watchers {
			if joined[i] == nil {
				joined[i], left[i] = make(map[string]int), make(map[string]int)
			}
			for count := 0; count != until; {
				n := nextNews(t, c)
				for _, e := range slices.Concat(n.Joined, n.Members) {
					joined[i][e.User]++
				}
				for _, e := range n.Left {
					left[i][e.User]++
				}
				count = n.Count
			}
		}
	}
	read(rounds + 1)
	for i := 0; i < len(tabs); i += 2 {
		tabs[i].Close()
		tabs[i+1].Close()
	}
	time.Sleep(5 * time.Second) // for which nobody has left
	read(1)
	for _, c := range watchers {
		c.ExpectNone(2 * time.Second)
	}
	for i := range watchers {
		for round := range rounds {
			if user := fmt.Sprint("user ", round); joined[i][user] != 1 || left[i][user] != 1 {
				t.Errorf("%s joined %d times and left %d times, says hub %d", user, joined[i][user], left[i][user], i)
			}
		}
		if len(left[i]) != rounds {
			t.Errorf("%d users left, says hub %d", len(left[i]), i)
		}
	}
}

func TestNobodyHasLeftWhenRedisComesBackEmpty(t *testing.T) {
	t.Parallel()
	s := start(t)
	one, two := startPresenceHub(t, s), startPresenceHub(t, s)
	ann, bob := dialAs(t, one, "ann"), dialAs(t, two, "bob")
	for _, c := range []*hubtest.Client{ann, bob} {
		for nextNews(t, c).Count != 2 {
		}
	}
	s.kill()
	for _, hub := range []*grouphub.Hub{one, two} {
		await(t, "LayerUp to be false", func() bool { return !hub.Stats().LayerUp })
	}
	if err := s.run("--save", "", "--appendonly", "no"); err != nil {
		t.Fatal(err)
	}
	for _, hub := range []*grouphub.Hub{one, two} {
		await(t, "both members", func() bool {
			n, err := hub.Count(t.Context(), "all")
			return err == nil && n == 2
		})
	}
	s.cli("FLUSHALL") // and again, without anybody hearing of it
	time.Sleep(30 * time.Second)
	cid := dialAs(t, one, "cid")
	for i, c := range []*hubtest.Client{ann, bob, cid} {
		// Nothing was told before this.
		if n := nextNews(t, c); n.Count != 3 || len(n.Left) > 0 {
			t.Errorf("client %d is told %+v", i, n)
		}
	}
}

func TestMembersOfAProcessThatIsKilledHaveLeftWithinNinetySeconds(t *testing.T) {
	t.Parallel()
	s := start(t)
	hub := grouphub.New(presenceOptions(layer(t, s.url(), nil)))
	defer hub.Shutdown(context.Background())
	watcher := hubtest.Dial(t, hub, "/")
	count := func() int {
		members, err := hub.Members(t.Context(), "all")
		if err != nil {
			t.Fatal(err)
		}
		return len(members)
	}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	crashing := exec.Command(program)
	crashing.Env = append(os.Environ(), crashURL+"="+s.url())
	crashing.Stderr = os.Stderr // why it ended before it was killed
	if err := crashing.Start(); err != nil {
		t.Fatal(err)
	}
	defer crashing.Process.Kill()
	await(t, "two members", func() bool { return count() == 2 })
	for nextNews(t, watcher).Count != 2 {
	}
	told := hub.Stats().Delivered
	crashing.Process.Kill()
	crashing.Wait()
	killed := time.Now()
	for count() != 1 {
		if time.Since(killed) > 90*time.Second {
			t.Fatal("the members are still there after 90s")
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Logf("not listed after %v", time.Since(killed).Round(time.Second))
	// A message is waited for for five seconds at the most.
	for hub.Stats().Delivered == told {
		if time.Since(killed) > 90*time.Second {
			t.Fatal("nobody was told within 90s")
		}
		time.Sleep(100 * time.Millisecond)
	}
	if n := nextNews(t, watcher); len(n.Left) != 1 || n.Count != 1 {
		t.Errorf("told %+v", n)
	}
	t.Logf("told after %v", time.Since(killed).Round(time.Second))
}
