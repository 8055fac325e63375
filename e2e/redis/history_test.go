package redis_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/internal/leak"
)

// crashURL, in the environment, makes this program a hub with one member, for a test
// that kills it.
const crashURL = "GROUPHUB_CRASH_URL"

// crashing is held so that it is not collected, which would close it.
var crashing *websocket.Conn

func TestMain(m *testing.M) {
	if url := os.Getenv(crashURL); url != "" {
		l, err := grouphub.NewRedisLayer(url, nil)
		if err != nil {
			panic(err)
		}
		server := httptest.NewServer(grouphub.New(presenceOptions(l)))
		if crashing, _, err = websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(server.URL, "http")+"/all", nil); err != nil {
			panic(err)
		}
		fmt.Println("joined")
		select {}
	}
	leak.Check(m)
}

// site is a hub on a layer of its own, behind a real server. A connection's path is the
// group that it joins.
type site struct {
	*grouphub.Hub
	url string
}

func startSite(t *testing.T, options *grouphub.Options) *site {
	t.Helper()
	options.Logger = slog.New(slog.DiscardHandler)
	options.Consumer = grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error { return c.Join(strings.Trim(c.Request().URL.Path, "/")) },
		Events:  grouphub.Events{"n": grouphub.Forward()},
	}
	hub := grouphub.New(options)
	server := httptest.NewServer(hub)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := hub.Shutdown(ctx); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		server.Close()
	})
	return &site{hub, "ws" + strings.TrimPrefix(server.URL, "http")}
}

func keeping(n int) func(string) grouphub.GroupPolicy {
	return func(string) grouphub.GroupPolicy { return grouphub.GroupPolicy{History: n} }
}

func presenceOptions(l grouphub.Layer) *grouphub.Options {
	return &grouphub.Options{Layer: l, Logger: slog.New(slog.DiscardHandler),
		Policy: func(string) grouphub.GroupPolicy { return grouphub.GroupPolicy{Announce: true} },
		Consumer: grouphub.Consumer{
			Connect: func(c *grouphub.Conn) error { return c.Join("all") },
			Events:  grouphub.Events{"presence": grouphub.Forward()},
		}}
}

// sendSurely sends a number until it is accepted, with a key so that it goes out once.
func sendSurely(t *testing.T, hub *grouphub.Hub, group string, n int) {
	deadline := time.Now().Add(patience)
	for {
		err := hub.GroupSend(context.Background(), group, "n", n, grouphub.Once(fmt.Sprint(n)))
		if err == nil {
			return
		}
		if !errors.Is(err, grouphub.ErrUncertain) && !errors.Is(err, grouphub.ErrUnavailable) || time.Now().After(deadline) {
			t.Errorf("GroupSend of %d: %v", n, err)
			return
		}
		time.Sleep(time.Millisecond) // so that a server that is down is not asked all the time
	}
}

// A follower is a client that comes back to one of several sites, and resumes.
type follower struct {
	t        *testing.T
	group    string
	sites    []*site
	conn     *websocket.Conn // nil: to be dialled
	position string
	last     int
	resyncs  int
}

// follow returns a client that has joined, and gets what is sent from now on.
func follow(t *testing.T, group string, sites ...*site) *follower {
	f := &follower{t: t, group: group, sites: sites}
	f.dial()
	var e grouphub.Event
	if f.conn == nil || f.conn.ReadJSON(&e) != nil || e.Type != "grouphub.position" {
		t.Errorf("no position, but %+v", e)
	}
	f.position = e.ID
	return f
}

// dial tries to connect.
func (f *follower) dial() {
	query := "/" + f.group + "?resume="
	if f.position != "" {
		query += url.QueryEscape(f.group + "@" + f.position)
	}
	conn, _, err := websocket.DefaultDialer.Dial(f.sites[rand.IntN(len(f.sites))].url+query, nil)
	if err == nil {
		f.conn = conn
	}
}

func (f *follower) cut() {
	if f.conn != nil {
		f.conn.NetConn().Close()
		f.conn = nil
	}
}

// next returns the next event, over as many connections as it takes.
func (f *follower) next() grouphub.Event {
	f.t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		if f.conn == nil {
			if f.dial(); f.conn == nil {
				time.Sleep(10 * time.Millisecond)
				continue
			}
		}
		var e grouphub.Event
		f.conn.SetReadDeadline(deadline)
		if err := f.conn.ReadJSON(&e); err != nil { // 1013, perhaps: the layer is down
			f.cut()
			continue
		}
		switch e.Type {
		case "n":
			f.position = e.ID
			return e
		case "resync":
			f.resyncs++
		case "grouphub.position":
			f.position = e.ID
		}
	}
	f.t.Fatalf("nothing came after %d", f.last)
	panic("unreachable")
}

// TestEveryEventExactlyOnce has a publisher that never pauses, except when it is as far
// ahead as the history covers, and a client that is cut a hundred times and comes back
// to either hub.
func TestEveryEventExactlyOnce(t *testing.T) {
	for _, c := range []struct {
		name string
		args []string
		// disturb returns how often it has.
		disturb func(t *testing.T, s *server, done <-chan struct{}) (times int)
		goesOn  bool // until it is done; otherwise it is waited for
		gaps    bool // each hub must have missed events
	}{
		{"WhileTheSubscriberIsKilledEvery50ms", nil, func(t *testing.T, s *server, done <-chan struct{}) (times int) {
			for {
				select {
				case <-time.After(50 * time.Millisecond):
					killed, err := strconv.Atoi(s.cli("CLIENT", "KILL", "TYPE", "pubsub"))
					if err != nil {
						t.Error(err)
					}
					times += killed
				case <-done:
					return times
				}
			}
		}, true, true},
		{"WhileRedisIsFrozen", nil, func(t *testing.T, s *server, done <-chan struct{}) (times int) {
			for range 2 {
				select {
				case <-time.After(500 * time.Millisecond):
				case <-done:
					return times
				}
				if err := s.process.Process.Signal(syscall.SIGSTOP); err != nil {
					t.Error(err)
				}
				time.Sleep(3 * time.Second) // the length of the freeze
				if err := s.process.Process.Signal(syscall.SIGCONT); err == nil {
					times++
				}
			}
			return times
		}, false, false},
		{"AcrossCrashesOfAServerThatPersists", []string{"--appendonly", "yes", "--appendfsync", "always"},
			func(t *testing.T, s *server, done <-chan struct{}) (times int) {
				for range 3 {
					select {
					case <-time.After(500 * time.Millisecond):
					case <-done:
						return times
					}
					s.kill()
					if err := s.run(); err != nil {
						t.Error(err)
						return times
					}
					times++
				}
				return times
			}, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := start(t, c.args...)
			var sites []*site
			for range 2 {
				sites = append(sites, startSite(t, &grouphub.Options{Layer: layer(t, s.url(), nil), Policy: keeping(2000)}))
			}
			times := expectExactlyOnce(t, sites, c.goesOn, func(done <-chan struct{}) int { return c.disturb(t, s, done) })
			if times == 0 {
				t.Error("nothing was disturbed")
			}
			for i, site := range sites {
				if c.gaps && site.Stats().Recovered == 0 {
					t.Errorf("hub %d has recovered nothing", i)
				}
			}
		})
	}
}

// expectExactlyOnce sends numbers to the group g, by both sites in turn, and expects
// each of them once and in order, and nothing else: of a client that stays, and of one
// that is cut a hundred times. It returns what disturb does.
func expectExactlyOnce(t *testing.T, sites []*site, goesOn bool, disturb func(done <-chan struct{}) int) (times int) {
	t.Helper()
	const end = -1 // follows the last number, and is the next that comes
	// One stays, and must get everything without anybody's help.
	stays, f := follow(t, "g", sites[0]), follow(t, "g", sites...)
	ahead, stop, done := make(chan struct{}, 500), make(chan struct{}), make(chan struct{})
	var running sync.WaitGroup
	sent := 0
	running.Go(func() {
		for {
			select {
			case ahead <- struct{}{}:
				sent++
				sendSurely(t, sites[sent%2].Hub, "g", sent)
			case <-stop:
				sendSurely(t, sites[0].Hub, "g", end)
				return
			}
		}
	})
	disturbed := make(chan struct{})
	running.Go(func() {
		defer close(disturbed)
		times = disturb(done)
	})
	check := func(f *follower, each func()) {
		for {
			e := f.next()
			if f.resyncs == 0 && string(e.Data) == fmt.Sprint(end) {
				return
			}
			if f.resyncs > 0 || string(e.Data) != fmt.Sprint(f.last+1) {
				t.Errorf("after %d, and %d resyncs, came %+v", f.last, f.resyncs, e)
				return
			}
			f.last++
			each()
		}
	}
	running.Go(func() { check(stays, func() {}) })
	cuts, reads := 0, 0
	stopped := false
	begun := time.Now()
	check(f, func() {
		select {
		case <-ahead:
		default:
		}
		if reads--; reads < 0 {
			f.cut()
			cuts, reads = cuts+1, rand.IntN(200)
		}
		over := cuts >= 100
		if over && !goesOn {
			select {
			case <-disturbed:
			default:
				over = false
			}
		}
		if over && !stopped {
			stopped = true
			close(stop)
		}
	})
	if !stopped {
		close(stop)
	}
	close(done)
	f.cut()
	running.Wait()
	stays.cut()
	t.Logf("%d events, %d cuts and %d disturbances in %v; hubs recovered %d and %d", f.last, cuts, times,
		time.Since(begun).Round(time.Millisecond), sites[0].Stats().Recovered, sites[1].Stats().Recovered)
	if stays.last != sent || f.last != sent {
		t.Errorf("who stayed has %d events, who came back %d, want %d", stays.last, f.last, sent)
	}
	return times
}

func TestSentinelFailoverThatLostWrites(t *testing.T) {
	t.Parallel()
	master, replica, sentinel := startSentinel(t)
	url := sentinel.url() + "?master_set=app"
	sites := []*site{
		startSite(t, &grouphub.Options{Layer: layer(t, url, nil), Policy: keeping(100)}),
		startSite(t, &grouphub.Options{Layer: layer(t, url, nil), Policy: keeping(100)}),
	}
	followers := []*follower{follow(t, "g", sites[0]), follow(t, "g", sites[1])}
	expect := func(from, to int) {
		t.Helper()
		for _, f := range followers {
			for i := from; i <= to; i++ {
				if e := f.next(); string(e.Data) != fmt.Sprint(i) {
					t.Fatalf("got %+v, want %d", e, i)
				}
			}
		}
	}
	for i := 1; i <= 10; i++ {
		sendSurely(t, sites[0].Hub, "g", i)
	}
	expect(1, 10)
	offset := regexp.MustCompile(`(?:master|slave)_repl_offset:\d+`)
	number := func(s *server) string {
		match := offset.FindString(s.cli("INFO", "replication"))
		return match[strings.IndexByte(match, ':'):]
	}
	await(t, "the replica to have them", func() bool { return number(master) == number(replica) })
	replica.cli("CONFIG", "SET", "masterauth", "wrong")
	master.cli("CLIENT", "KILL", "TYPE", "replica")
	await(t, "the replica to be alone", func() bool {
		return strings.Contains(replica.cli("INFO", "replication"), "master_link_status:down")
	})
	for i := 11; i <= 20; i++ { // accepted, delivered, and lost
		sendSurely(t, sites[0].Hub, "g", i)
	}
	expect(11, 20)
	master.kill()
	stop := make(chan struct{})
	var sending sync.WaitGroup
	sending.Go(func() { // some get numbers that were given out before
		for i := 21; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(10 * time.Millisecond):
				sendSurely(t, sites[1].Hub, "g", i)
			}
		}
	})
	for _, f := range followers {
		for f.last = 20; f.resyncs == 0 || f.last < 60; {
			e := f.next()
			var n int
			// Where the Resync stands some are missing, and nothing may come twice.
			if fmt.Sscan(string(e.Data), &n); n <= f.last {
				t.Errorf("after %d came %d", f.last, n)
				break
			}
			f.last = n
		}
		if f.resyncs != 1 {
			t.Errorf("%d resyncs, want 1", f.resyncs)
		}
		f.cut()
	}
	close(stop)
	sending.Wait()
}

// raceEnabled reports whether the race detector is, which makes these tests several
// times slower: what is promised of their duration is looked at without it.
var raceEnabled bool

func TestTwoThousandClientsThatComeBackAtOnce(t *testing.T) {
	const clients, groups, missed = 2000, 50, 20
	s := start(t)
	old := startSite(t, &grouphub.Options{Layer: layer(t, s.url(), nil), Policy: keeping(100)})
	new := startSite(t, &grouphub.Options{Layer: layer(t, s.url(), nil), Policy: keeping(100)})
	var followers [clients]*follower
	for i := range followers {
		followers[i] = follow(t, fmt.Sprint("room", i%groups), old)
	}
	for _, f := range followers {
		f.cut()
		f.sites = []*site{new}
	}
	await(t, "all to be gone", func() bool { return old.Stats().Conns == 0 })
	send := func(from, to int) {
		for group := range groups {
			for i := from; i <= to; i++ {
				sendSurely(t, old.Hub, fmt.Sprint("room", group), i)
			}
		}
	}
	send(1, missed)

	monitor := s.monitor()
	begun := time.Now()
	var wg sync.WaitGroup
	for _, f := range followers { // at once
		wg.Go(func() {
			for i := 1; i <= missed; i++ {
				if e := f.next(); string(e.Data) != fmt.Sprint(i) {
					t.Errorf("%s: got %+v, want %d", f.group, e, i)
				}
			}
		})
	}
	wg.Wait()
	took := time.Since(begun)
	total, commands := 0, monitor.commands()
	for _, n := range commands {
		total += n
	}
	t.Logf("%d clients have what they missed after %v; redis got %v for %d groups", clients, took, commands, groups)
	if took > 15*time.Second && !raceEnabled {
		t.Errorf("%v, want 15s at most", took)
	}
	if total > 5*groups {
		t.Errorf("%v for %d groups, want a few each", commands, groups)
	}
	send(missed+1, missed+1) // and they are live
	for _, f := range followers {
		if e := f.next(); string(e.Data) != fmt.Sprint(missed+1) || f.resyncs > 0 {
			t.Errorf("%s: got %+v after %d resyncs", f.group, e, f.resyncs)
		}
		f.cut()
	}
}

// A monitor sees the commands that clients send to a server.
type monitor struct {
	s     *server
	lines *bufio.Scanner
	marks int
}

func (s *server) monitor() *monitor {
	s.t.Helper()
	conn, err := net.Dial("tcp", s.addr())
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { conn.Close() })
	fmt.Fprint(conn, "MONITOR\r\n")
	m := &monitor{s: s, lines: bufio.NewScanner(conn)}
	m.lines.Buffer(nil, 64<<20)
	m.commands()
	return m
}

// A line is: time, database and client, the command and its arguments, each in quotes.
var monitored = regexp.MustCompile(`^\+[0-9.]+ \[\d+ ([^\]]*)\] "([^"]*)" ?(.*)`)

// commands returns how many there were since the last call, by name: without those that
// scripts ran, and without what is sent all the time, heartbeats and keepalives.
func (m *monitor) commands() map[string]int {
	m.s.t.Helper()
	m.marks++
	mark := fmt.Sprint("mark", m.marks)
	m.s.cli("ECHO", mark)
	counts := make(map[string]int)
	for m.lines.Scan() {
		line := monitored.FindStringSubmatch(m.lines.Text())
		switch {
		case line == nil, line[1] == "lua", line[2] == "PING", strings.HasPrefix(line[3], `"grouphub:beat:`):
		case line[2] == "ECHO" && strings.Contains(line[3], mark):
			return counts
		default:
			counts[line[2]]++
		}
	}
	m.s.t.Fatalf("MONITOR ended: %v", m.lines.Err())
	return nil
}
