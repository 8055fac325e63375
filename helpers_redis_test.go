package grouphub_test

import (
	"bufio"
	"bytes"
	"fmt"
	"log/slog"
	"net"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/rueidis"

	"github.com/seed-29c60982/grouphub"
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

// A redisMonitor sees the commands that clients send to a server.
type redisMonitor struct {
	s     *redisServer
	lines *bufio.Scanner
	marks int
}

// commands returns the names of the commands since the last call: not those that
// scripts ran, and not what is sent all the time, heartbeats and keepalives.
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

// A line is: time, database and client, the command and its arguments, each in quotes.
var monitored = regexp.MustCompile(`^\+[0-9.]+ \[\d+ ([^\]]*)\] "([^"]*)" ?(.*)`)

// redisHubOn returns a hub on a Redis layer of its own, as in a process of its own, once
// its subscription is in force.
func redisHubOn(t *testing.T, s *redisServer, options grouphub.Options) *grouphub.Hub {
	t.Helper()
	layer := redisLayer(t, s.url(), nil)
	options.Layer = layer
	hub := newHub(t, &options)
	eventually(t, func() bool { return hub.Stats().LayerUp }, "the layer is not up")
	return hub
}

// redisHubs returns two hubs that share nothing but the server, and serve one consumer.
func redisHubs(t *testing.T, s *redisServer, c grouphub.Consumer) (a, b *grouphub.Hub) {
	t.Helper()
	options := grouphub.Options{Consumer: c, Logger: slog.New(slog.DiscardHandler)}
	return redisHubOn(t, s, options), redisHubOn(t, s, options)
}
