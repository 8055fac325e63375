package grouphub_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/gorilla/websocket"
	"github.com/redis/rueidis"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
)

// onRedis runs a test on miniredis and on a real server.
func onRedis(t *testing.T, run func(t *testing.T, url string)) {
	t.Run("Miniredis", func(t *testing.T) { run(t, "redis://"+miniredis.RunT(t).Addr()) })
	t.Run("Redis", func(t *testing.T) { run(t, startRedis(t).url()) })
}

// A redisProxy stands between a layer and its server, and breaks their connections.
type redisProxy struct {
	t        *testing.T
	listener net.Listener
	server   string
	running  sync.WaitGroup

	mu     sync.Mutex
	down   bool
	conns  map[net.Conn]struct{}
	behead string // whoever sends this gets no answer, but the end of the connection
}

func startProxy(t *testing.T, server string) *redisProxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &redisProxy{t: t, listener: listener, server: strings.TrimPrefix(server, "redis://"), conns: make(map[net.Conn]struct{})}
	p.running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			p.running.Go(func() { p.serve(conn) })
		}
	})
	t.Cleanup(func() {
		listener.Close()
		p.cut()
		p.running.Wait()
	})
	return p
}

// layer returns a layer behind the proxy. Miniredis takes itself for a Cluster of one,
// whose address would lead past it.
func (p *redisProxy) layer() *grouphub.RedisLayer {
	return redisLayer(p.t, "redis://"+p.listener.Addr().String(), &grouphub.RedisOptions{
		Client: func(o *rueidis.ClientOption) { o.ForceSingleClient = true }})
}

func (p *redisProxy) serve(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", p.server)
	if err != nil {
		return
	}
	defer server.Close()
	p.mu.Lock()
	if p.down {
		p.mu.Unlock()
		return
	}
	p.conns[client], p.conns[server] = struct{}{}, struct{}{}
	p.mu.Unlock()
	var beheaded atomic.Bool
	p.running.Go(func() {
		defer server.Close()
		buf := make([]byte, 64<<10)
		for {
			n, err := client.Read(buf)
			if err != nil {
				return
			}
			p.mu.Lock()
			hit := p.behead != "" && bytes.Contains(buf[:n], []byte(p.behead))
			if hit {
				p.behead = ""
				beheaded.Store(true)
			}
			p.mu.Unlock()
			if beheaded.Load() && !hit {
				continue
			}
			if _, err := server.Write(buf[:n]); err != nil {
				return
			}
			if hit { // the server does what it has been told, and then ends the connection
				server.(*net.TCPConn).CloseWrite()
			}
		}
	})
	buf := make([]byte, 64<<10)
	for {
		n, err := server.Read(buf)
		if err != nil {
			return
		}
		if beheaded.Load() {
			continue
		}
		if _, err := client.Write(buf[:n]); err != nil {
			return
		}
	}
}

// cut ends all connections, and refuses others until mend.
func (p *redisProxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = true
	for conn := range p.conns {
		conn.Close()
	}
	clear(p.conns)
}

func (p *redisProxy) mend() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = false
}

// loseReply ends the connection that sends this text once the server has answered.
func (p *redisProxy) loseReply(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.behead = text
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// A follower is a client that comes back, to any of several servers, and resumes.
type follower struct {
	t        *testing.T
	servers  []*server
	conn     *websocket.Conn
	position string // of the last event, or before the first
	last     int
}

func follow(t *testing.T, servers ...*server) *follower {
	f := &follower{t: t, servers: servers}
	f.dial("?resume=")
	var e grouphub.Event
	if json.Unmarshal([]byte(next(t, f.conn)), &e); e.Type != "grouphub.position" {
		t.Fatalf("got %+v", e)
	}
	f.position = e.ID
	return f
}

func (f *follower) dial(query string) {
	f.t.Helper()
	f.conn = f.servers[rand.IntN(len(f.servers))].dial("/g" + query)
}

// cut breaks the connection and makes another.
func (f *follower) cut() {
	f.t.Helper()
	f.conn.NetConn().Close()
	f.dial("?resume=" + url.QueryEscape("g@"+f.position))
}

// read reads an event, and expects the next number.
func (f *follower) read() {
	f.t.Helper()
	var e grouphub.Event
	if err := json.Unmarshal([]byte(next(f.t, f.conn)), &e); err != nil {
		f.t.Fatal(err)
	}
	switch {
	case e.Type == "grouphub.position":
	case e.Type != "n" || string(e.Data) != fmt.Sprint(f.last+1):
		f.t.Fatalf("after %d at %s came %+v", f.last, f.position, e)
	default:
		f.last, f.position = f.last+1, e.ID
	}
}

// expectExactlyOnce has a publisher that never pauses, except when it is as far ahead as
// the history surely covers, and sends by both hubs in turn, and a client that is cut a
// hundred times and comes back to either. What the last number was, settle hears of.
func expectExactlyOnce(t *testing.T, hubs []*grouphub.Hub, settle func()) {
	t.Helper()
	var servers []*server
	for _, hub := range hubs {
		servers = append(servers, serve(t, hub))
	}
	f := follow(t, servers...)
	ahead := make(chan struct{}, 200)
	stop := make(chan struct{})
	sent := make(chan int, 1)
	go func() {
		for i := 1; ; i++ {
			select {
			case ahead <- struct{}{}:
				send(t, hubs[i%2], "g", "n", i)
			case <-stop:
				sent <- i - 1
				return
			}
		}
	}()
	for range 100 {
		for range rand.IntN(20) {
			before := f.last
			if f.read(); f.last > before {
				<-ahead
			}
		}
		f.cut()
	}
	close(stop)
	total := <-sent
	settle()
	for f.last != total {
		f.read()
	}
	for _, hub := range hubs { // what follows is new, and nothing comes before it
		total++
		send(t, hub, "g", "n", total)
		for f.last != total {
			f.read()
		}
		if s := hub.Stats(); s.Resyncs != 0 {
			t.Errorf("%+v", s)
		}
	}
}

func TestEveryEventExactlyOnceThroughRedis(t *testing.T) {
	onRedis(t, func(t *testing.T, url string) {
		var hubs []*grouphub.Hub
		for range 2 {
			hubs = append(hubs, newHub(t, followed(redisLayer(t, url, nil))))
		}
		expectExactlyOnce(t, hubs, func() {})
	})
}

// followed are the options of a hub whose connections join g, which keeps 1000 events.
func followed(layer grouphub.Layer) *grouphub.Options {
	return &grouphub.Options{Layer: layer, Policy: keeping(1000), Logger: quiet(), Consumer: grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error { return c.Join("g") },
		Events:  grouphub.Events{"n": grouphub.Forward()},
	}}
}

func TestEveryEventExactlyOnceWhileTheSubscriberIsCutAgainAndAgain(t *testing.T) {
	onRedis(t, func(t *testing.T, url string) {
		proxy := startProxy(t, url)
		sender, cutOff := newHub(t, followed(redisLayer(t, url, nil))), newHub(t, followed(proxy.layer()))
		c := hubtest.Dial(t, cutOff, "/")
		const cuts, ahead, end = 10, 800, 0
		var sent, read atomic.Int64
		stop := make(chan struct{})
		var running sync.WaitGroup
		defer running.Wait()
		running.Go(func() {
			number := end
			for number = 1; ; runtime.Gosched() {
				select {
				case <-stop:
					send(t, sender, "g", "n", end)
					return
				default:
				}
				if int64(number)-read.Load() < ahead {
					send(t, sender, "g", "n", number)
					sent.Store(int64(number))
					number++
				}
			}
		})
		running.Go(func() {
			defer close(stop)
			until := func(ok func() bool) {
				for !ok() && !t.Failed() {
					runtime.Gosched()
				}
			}
			for i := range cuts {
				before := sent.Load()
				until(func() bool { return sent.Load() > before })
				proxy.cut()
				before = sent.Load()
				until(func() bool { return sent.Load() > before+20 || sent.Load()-read.Load() >= ahead-1 })
				proxy.mend()
				until(func() bool { return cutOff.Stats().LayerUp })
				if i%2 == 0 { // or else again while gaps are filled
					until(func() bool { return read.Load() > before+20 })
				}
			}
		})
		for {
			data := string(c.ExpectEvent("n").Data)
			if data == fmt.Sprint(end) {
				break
			}
			if data != fmt.Sprint(read.Load()+1) {
				t.Fatalf("after %d came %s", read.Load(), data)
			}
			read.Add(1)
		}
		if read.Load() != sent.Load() {
			t.Errorf("received %d of %d events", read.Load(), sent.Load())
		}
		sendNumbers(t, sender, "g", 1, 1)
		expectNumbers(t, c, 1, 1)
		if s := cutOff.Stats(); s.Recovered == 0 || s.Resyncs != 0 || s.Dropped != 0 {
			t.Errorf("%+v", s)
		}
	})
}

func TestResumeAheadOfTheHubIsNoRepeat(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	proxy := startProxy(t, s.url())
	here, there := historyHub(t, redisLayer(t, s.url(), nil)), historyHub(t, proxy.layer())
	c := hubtest.Dial(t, here, "/g")
	stays := hubtest.Dial(t, there, "/g")
	sendNumbers(t, here, "g", 1, 5)
	expectNumbers(t, stays, 1, 5)
	proxy.cut()
	eventually(t, func() bool { return !there.Stats().LayerUp }, "the other hub notices nothing")
	sendNumbers(t, here, "g", 6, 10)
	id := expectNumbers(t, c, 1, 10).ID
	joined := make(chan *hubtest.Client)
	go func() { joined <- hubtest.Dial(t, there, "/g"+resumeQuery("g", id)) }()
	proxy.mend()
	again := <-joined
	if got := again.ExpectEvent("grouphub.position"); got.ID != id {
		t.Errorf("position %q, want %q", got.ID, id)
	}
	sendNumbers(t, here, "g", 11, 12)
	expectNumbers(t, again, 11, 12)
	expectNumbers(t, stays, 6, 12)
}

func TestReplyThatWasLost(t *testing.T) {
	onRedis(t, func(t *testing.T, url string) {
		proxy := startProxy(t, url)
		hub, sender := historyHub(t, redisLayer(t, url, nil)), historyHub(t, proxy.layer())
		c := hubtest.Dial(t, hub, "/g")
		sendNumbers(t, sender, "g", 1, 1) // and the server knows the script
		retry := func(data int, opts ...grouphub.SendOption) {
			t.Helper()
			eventually(t, func() bool { return sender.GroupSend(background, "g", "n", data, opts...) == nil }, "%d is not accepted", data)
		}
		proxy.loseReply(`"data":2`)
		if err := sender.GroupSend(background, "g", "n", 2); !errors.Is(err, grouphub.ErrUncertain) {
			t.Errorf("%v, want ErrUncertain", err)
		}
		retry(3)
		proxy.loseReply(`"data":4`)
		if err := sender.GroupSend(background, "g", "n", 4, grouphub.Once("four")); !errors.Is(err, grouphub.ErrUncertain) {
			t.Errorf("%v, want ErrUncertain", err)
		}
		retry(4, grouphub.Once("four"))
		retry(5)
		expectNumbers(t, c, 1, 5)
	})
}

func TestFullRedisRefusesEventsAndLosesNone(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	hubs := []*grouphub.Hub{historyHub(t, redisLayer(t, s.url(), nil)), historyHub(t, redisLayer(t, s.url(), nil))}
	clients := []*hubtest.Client{hubtest.Dial(t, hubs[0], "/g"), hubtest.Dial(t, hubs[1], "/g")}
	sendNumbers(t, hubs[0], "g", 1, 1)
	for i := 2; i <= 20; i++ {
		hub, once := hubs[i%2], grouphub.Once(fmt.Sprint(i))
		s.cli("CONFIG", "SET", "maxmemory", "1")
		for _, opts := range [][]grouphub.SendOption{nil, {once}} {
			if err := hub.GroupSend(background, "g", "n", i, opts...); !errors.Is(err, grouphub.ErrUnavailable) || !strings.Contains(err.Error(), "OOM") {
				t.Errorf("GroupSend through a full server: %v, want ErrUnavailable with OOM", err)
			}
		}
		s.cli("CONFIG", "SET", "maxmemory", "0")
		// The key of what was refused is still good.
		send(t, hub, "g", "n", i, once)
		send(t, hub, "g", "n", i, once)
	}
	for _, c := range clients {
		expectNumbers(t, c, 1, 20)
	}
	expectNumbers(t, hubtest.Dial(t, historyHub(t, redisLayer(t, s.url(), nil)), "/g?last=100"), 1, 20)
	sendNumbers(t, hubs[1], "g", 21, 21) // and nothing came in between
	for i, c := range clients {
		expectNumbers(t, c, 21, 21)
		if n := hubs[i].Stats(); n.Resyncs > 0 || n.Dropped > 0 || n.Recovered > 0 {
			t.Errorf("hub %d: %+v", i, n)
		}
	}
}

// rollBack makes a server look as if it had lost the last n publications of a group.
func (s *redisServer) rollBack(group string, n int) {
	s.t.Helper()
	key := "{g:" + group + "}"
	epoch, number, _ := strings.Cut(s.cli("GET", "grouphub:count:"+key), " ")
	var last int
	fmt.Sscan(number, &last)
	for i := range n {
		s.cli("XDEL", "grouphub:stream:"+key, fmt.Sprint(last-i, "-0"))
	}
	// The stream remembers its highest id, which the failover would have lost, too.
	s.cli("XSETID", "grouphub:stream:"+key, fmt.Sprint(last-n, "-0"))
	s.cli("SET", "grouphub:count:"+key, fmt.Sprint(epoch, " ", last-n), "EX", "1000")
}

func TestServerThatLostWritesIsResync(t *testing.T) {
	for more := range 4 { // publications that come before the hub is back
		t.Run(fmt.Sprint("More=", more), func(t *testing.T) {
			t.Parallel()
			s := startRedis(t)
			proxy := startProxy(t, s.url())
			hub, sender := historyHub(t, proxy.layer()), historyHub(t, redisLayer(t, s.url(), nil))
			c := hubtest.Dial(t, hub, "/g?resume=")
			c.ExpectEvent("grouphub.position")
			sendNumbers(t, sender, "g", 1, 10)
			id := expectNumbers(t, c, 1, 10).ID
			proxy.cut()
			eventually(t, func() bool { return !hub.Stats().LayerUp }, "the hub notices nothing")
			s.rollBack("g", 2)
			sendNumbers(t, sender, "g", 11, 10+more)
			proxy.mend()
			c.Expect(`{"type":"resync","group":"g"}`)
			sendNumbers(t, sender, "g", 14, 16)
			expectNumbers(t, c, 14, 16)
			late := hubtest.Dial(t, hub, "/g"+resumeQuery("g", id))
			late.Expect(`{"type":"resync","group":"g"}`)
			late.ExpectEvent("grouphub.position")
			sendNumbers(t, sender, "g", 17, 17)
			expectNumbers(t, late, 17, 17)
		})
	}
}

func TestServerThatComesBackEmptyIsResync(t *testing.T) {
	for more := range 3 {
		t.Run(fmt.Sprint("More=", more), func(t *testing.T) {
			t.Parallel()
			s := startRedis(t)
			proxy := startProxy(t, s.url())
			hub, sender := historyHub(t, proxy.layer()), historyHub(t, redisLayer(t, s.url(), nil))
			c := hubtest.Dial(t, hub, "/g?resume=")
			c.ExpectEvent("grouphub.position")
			sendNumbers(t, sender, "g", 1, 10)
			id := expectNumbers(t, c, 1, 10).ID
			proxy.cut()
			s.kill()
			eventually(t, func() bool { return !hub.Stats().LayerUp }, "the hub notices nothing")
			if err := s.start(); err != nil {
				t.Fatal(err)
			}
			eventually(t, func() bool { return sender.Stats().LayerUp }, "the sender is not back")
			sendNumbers(t, sender, "g", 11, 10+more)
			proxy.mend()
			c.Expect(`{"type":"resync","group":"g"}`)
			sendNumbers(t, sender, "g", 14, 16)
			expectNumbers(t, c, 14, 16)
			late := hubtest.Dial(t, hub, "/g"+resumeQuery("g", id))
			late.Expect(`{"type":"resync","group":"g"}`)
		})
	}
}

func TestNewEpochBeforeTheLayerTellsOfALossIsResync(t *testing.T) {
	layer := &faultyLayer{MemoryLayer: grouphub.NewMemoryLayer()}
	hub := historyHub(t, layer)
	c := hubtest.Dial(t, hub, "/g")
	layer.receiver.Deliver(grouphub.Publication{Topic: "g:g", Payload: grouphub.EncodeEvent("g", "n", 1),
		At: grouphub.Position{Epoch: "old", Number: 1, Nonce: "a"}})
	sendNumbers(t, hub, "g", 2, 2) // the first of the layer's own epoch
	expectNumbers(t, c, 1, 2)
	layer.receiver.Lost([]string{"g:g"}) // so the subscription was broken: what else had the old epoch?
	c.Expect(`{"type":"resync","group":"g"}`)
	sendNumbers(t, hub, "g", 3, 3)
	expectNumbers(t, c, 3, 3)
}

func TestIdleGroupLeavesNothingInRedis(t *testing.T) {
	m := miniredis.RunT(t)
	hub := newHub(t, &grouphub.Options{Layer: redisLayer(t, "redis://"+m.Addr(), nil), Logger: quiet(),
		Consumer: grouphub.Consumer{Connect: joinAll, Events: grouphub.Events{"n": grouphub.Forward()}},
		Policy: func(string) grouphub.GroupPolicy {
			return grouphub.GroupPolicy{History: 10, HistoryTTL: time.Minute, Presence: true}
		}})
	c := hubtest.Dial(t, hub, "/")
	for i := range 1000 {
		send(t, hub, "all", "n", i, grouphub.Once(fmt.Sprint(i)))
	}
	for range 1000 {
		c.ExpectEvent("n")
	}
	eventually(t, func() bool { return m.Exists("grouphub:leases:{g:all}") }, "no lease")
	if err := hub.GroupClose(background, "nobody", 1000, ""); err != nil {
		t.Fatal(err)
	}
	if entries, err := m.Stream("grouphub:stream:{g:all}"); err != nil || len(entries) > 110 {
		t.Errorf("%d events are kept, %v, want 10", len(entries), err)
	}
	for _, key := range m.Keys() {
		if m.TTL(key) <= 0 {
			t.Errorf("%s does not expire", key)
		}
	}
	c.Close()
	eventually(t, func() bool { return !m.Exists("grouphub:leases:{g:all}") }, "the lease is still there")
	if groups := hub.Stats().Groups; groups != 0 {
		t.Errorf("%d groups", groups)
	}
	m.FastForward(time.Minute)
	if m.Exists("grouphub:stream:{g:all}") {
		t.Error("the history is still there")
	}
	m.FastForward(25 * time.Hour)
	if keys := m.Keys(); len(keys) != 0 {
		t.Errorf("%q are left", keys)
	}
}

func TestEveryKeyInRedisExpires(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	proxy := startProxy(t, s.url())
	options := func(layer grouphub.Layer) *grouphub.Options {
		return &grouphub.Options{Layer: layer, Logger: quiet(), Consumer: noteConsumer,
			Policy: func(string) grouphub.GroupPolicy {
				return grouphub.GroupPolicy{History: 10, HistoryTTL: time.Second, Presence: true}
			}}
	}
	hub, taker := newHub(t, options(redisLayer(t, s.url(), nil))), newHub(t, options(proxy.layer()))
	client := s.client()
	// keys returns the kinds of the keys that there are, each of which expires.
	keys := func() map[string]bool {
		t.Helper()
		names, err := client.Do(t.Context(), client.B().Keys().Pattern("*").Build()).AsStrSlice()
		if err != nil {
			t.Fatal(err)
		}
		kinds := make(map[string]bool)
		for _, name := range names {
			kinds[strings.Split(name, ":")[1]] = true
			left, err := client.Do(t.Context(), client.B().Ttl().Key(name).Build()).AsInt64()
			if err != nil || left == -1 || left > 25*60*60 { // -2: it has just expired
				t.Errorf("%s expires in %d s, %v", name, left, err)
			}
		}
		return kinds
	}
	c := hubtest.Dial(t, hub, "/")
	for i := range 20 {
		send(t, hub, "all", "note", i, grouphub.Once(fmt.Sprint(i)))
		c.ExpectEvent("note")
	}
	if err := errors.Join(hub.GroupClose(background, "nobody", 1000, ""), hub.Send(background, "stranger!1", "n", 1)); err != nil {
		t.Fatal(err)
	}
	// One message waits, and another was taken by a process that never knew.
	if err := hub.Send(background, "others", "n", 1); err != nil {
		t.Fatal(err)
	}
	if err := second(hub.Receive(background, "others")); err != nil { // and the server knows the script
		t.Fatal(err)
	}
	if err := errors.Join(hub.Send(background, "others", "n", 1), hub.Send(background, "jobs", "n", 1)); err != nil {
		t.Fatal(err)
	}
	proxy.loseReply("grouphub:taken:{jobs}")
	receiving, stop := context.WithCancel(background)
	var waiting sync.WaitGroup
	defer waiting.Wait()
	defer stop()
	waiting.Go(func() { taker.Receive(receiving, "jobs") })
	all := []string{"count", "stream", "once", "leases", "leaseends", "messages", "waiting", "taken"}
	eventually(t, func() bool {
		kinds := keys()
		return !slices.ContainsFunc(all, func(kind string) bool { return !kinds[kind] })
	}, "not all kinds of keys are there, but %v", keys())
	c.Close()
	eventually(t, func() bool { return !keys()["leases"] && !keys()["leaseends"] }, "the lease is still there")
	eventually(t, func() bool { return s.cli("EXISTS", "grouphub:stream:{g:all}") == "0" }, "the history is still there")
	if groups := hub.Stats().Groups; groups != 0 {
		t.Errorf("%d groups", groups)
	}
}

// A redisMonitor sees the commands that clients send to a server.
type redisMonitor struct {
	s     *redisServer
	lines *bufio.Scanner
	marks int
}

func (s *redisServer) monitor() *redisMonitor {
	s.t.Helper()
	conn, err := net.Dial("tcp", "127.0.0.1:"+s.port)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { conn.Close() })
	fmt.Fprint(conn, "MONITOR\r\n")
	m := &redisMonitor{s: s, lines: bufio.NewScanner(conn)}
	m.lines.Buffer(nil, 64<<20)
	m.commands()
	return m
}

// A line is: time, database and client, the command and its arguments, each in quotes.
var monitored = regexp.MustCompile(`^\+[0-9.]+ \[\d+ ([^\]]*)\] "([^"]*)" ?(.*)`)

// commands returns the names of the commands since the last call: not those that
// scripts ran, and not what is sent all the time, heartbeats and keepalives.
func (m *redisMonitor) commands() (names []string) {
	m.s.t.Helper()
	m.marks++
	mark := fmt.Sprint("mark", m.marks)
	m.s.cli("ECHO", mark)
	for m.lines.Scan() {
		line := monitored.FindStringSubmatch(m.lines.Text())
		switch {
		case line == nil, line[1] == "lua", line[2] == "PING", strings.HasPrefix(line[3], `"grouphub:beat:`):
		case line[2] == "ECHO" && strings.Contains(line[3], mark):
			return names
		default:
			names = append(names, line[2])
		}
	}
	m.s.t.Fatalf("MONITOR ended: %v", m.lines.Err())
	return nil
}

func TestResumeTakesOneRoundTripAtMost(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	var hubs []*grouphub.Hub
	for range 2 {
		hubs = append(hubs, newHub(t, followed(redisLayer(t, s.url(), nil))))
	}
	if err := hubs[1].Ping(background); err != nil { // it has its own subscriptions
		t.Fatal(err)
	}
	c := hubtest.Dial(t, hubs[0], "/?resume=")
	position := c.ExpectEvent("grouphub.position").ID
	sendNumbers(t, hubs[0], "g", 1, 1000)
	expectNumbers(t, c, 1, 1000)
	monitor := s.monitor()
	for i, step := range []struct {
		hub  *grouphub.Hub
		want []string
	}{{hubs[0], nil}, {hubs[0], nil}, {hubs[1], []string{"SUBSCRIBE", "EVALSHA"}}, {hubs[1], nil}} {
		again := hubtest.Dial(t, step.hub, "/"+resumeQuery("g", position))
		expectNumbers(t, again, 1, 1000)
		if commands := monitor.commands(); !slices.Equal(commands, step.want) {
			t.Errorf("resume %d: commands %q, want %q", i, commands, step.want)
		}
	}
}

func TestLogoutReachesAHubThatWasCutOff(t *testing.T) {
	onRedis(t, func(t *testing.T, url string) {
		proxy := startProxy(t, url)
		authenticate := grouphub.Authenticate(func(r *http.Request) (grouphub.User, error) {
			return grouphub.User{ID: r.URL.Query().Get("user")}, nil
		})
		cutOff := newHub(t, &grouphub.Options{Layer: proxy.layer(), Logger: quiet()})
		other := newHub(t, &grouphub.Options{Layer: redisLayer(t, url, nil), Logger: quiet()})
		ann, bob := hubtest.Dial(t, authenticate(cutOff), "/?user=ann"), hubtest.Dial(t, authenticate(cutOff), "/?user=bob")
		proxy.cut()
		eventually(t, func() bool { return !cutOff.Stats().LayerUp }, "the hub notices nothing")
		if err := other.GroupClose(background, grouphub.UserGroup("ann"), 4401, "logged out"); err != nil {
			t.Fatal(err)
		}
		proxy.mend()
		ann.Expect(`{"type":"resync","group":"!user/ann"}`) // a group without history
		ann.ExpectClose(4401)
		eventually(t, func() bool { return cutOff.Stats().LayerUp }, "the hub is not back")
		bob.Expect(`{"type":"resync","group":"!user/bob"}`)
		if err := other.GroupClose(background, grouphub.UserGroup("bob"), 4402, ""); err != nil {
			t.Fatal(err)
		}
		bob.ExpectClose(4402)
	})
}

func TestMembersAcrossHubsOnRedis(t *testing.T) {
	m := miniredis.RunT(t)
	now := time.Now()
	m.SetTime(now)
	options := func(layer grouphub.Layer) *grouphub.Options {
		return &grouphub.Options{Layer: layer, Consumer: noteConsumer, Logger: quiet(),
			Policy: func(string) grouphub.GroupPolicy { return grouphub.GroupPolicy{Presence: true} }}
	}
	proxy := startProxy(t, "redis://"+m.Addr())
	one, two := newHub(t, options(redisLayer(t, "redis://"+m.Addr(), nil))), newHub(t, options(proxy.layer()))
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
	proxy.cut() // as if the process were gone
	m.SetTime(now.Add(61 * time.Second))
	m.FastForward(61 * time.Second)
	if n := count(one); n != 1 {
		t.Errorf("%d members, want the own one", n)
	}
	here.Close()
	eventually(t, func() bool { return count(one) == 0 }, "the own one is still there")
}
