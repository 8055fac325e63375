//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"net/rpc"
	"time"

	"golang.org/x/sys/unix"

	"github.com/seed-29c60982/grouphub/bench/internal/measure"
	"github.com/seed-29c60982/grouphub/bench/internal/wire"
)

const (
	openAtOnce   = 128             // handshakes in flight
	stallTimeout = 5 * time.Second // without a frame that is due: it will not come

	// settleTimeout is how long a server has to see all clients as members, or gone.
	settleTimeout = 10 * time.Second
)

var errStalled = errors.New("frames are missing")

// A lane is one epoll loop of the load generator with its connections. The sockets
// are blocking, and read once when epoll says so: that is two system calls for many
// frames, and little else, so that the machine is busy with the server above all.
// A lane belongs to one goroutine.
type lane struct {
	job     *job
	control []*rpc.Client // of each server; shared by lanes

	epoll   int
	events  [128]unix.EpollEvent
	buf     []byte
	clients []*client
	dialled int

	opened func(*client) error // the handshake is done
	ended  func(*client) error // the server closed, or the connection broke

	members   map[int]int // by group
	published map[int]int // events by group
	open      int
	received  int // events, all clients
	latency   measure.Histogram
	faults    faults
}

type client struct {
	fd       int
	index    int // in its lane
	server   int
	group    int
	stage    stage
	began    int64 // dialled at
	sequence sequence
	rest     []byte // the head of a frame whose end has not come yet
}

type stage int

const (
	inHandshake stage = iota
	inGreeting        // the contender's hello is sent, its answer not yet here; or the snapshot is not
	isOpen
)

func newLane(j *job, control []*rpc.Client) (*lane, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	l := &lane{
		job: j, control: control, epoll: epoll, buf: make([]byte, 256<<10),
		members: make(map[int]int), published: make(map[int]int),
	}
	l.opened = func(*client) error { l.open++; return nil }
	l.ended = func(c *client) error { l.faults.Closed++; return unix.Close(c.fd) }
	return l, nil
}

// connect opens n connections, of which each has the group that groupOf says.
func (l *lane) connect(n int, groupOf func(i int) int) error {
	deadline := measure.Now() + int64(30*time.Second)
	for i := 0; l.open < n; {
		for ; i < n && i-l.open < openAtOnce; i++ {
			c := &client{index: len(l.clients), server: i % len(l.job.Servers), group: groupOf(i)}
			l.clients = append(l.clients, c)
			l.members[c.group]++
			if err := l.dial(c); err != nil {
				return err
			}
		}
		if err := l.poll(100 * time.Millisecond); err != nil {
			return err
		}
		if l.faults.Closed > 0 || measure.Now() > deadline {
			return fmt.Errorf("%d of %d connections opened, %d closed again", l.open, n, l.faults.Closed)
		}
	}
	return nil
}

// dial connects and sends the request that a browser would send, because some servers
// keep it in memory.
func (l *lane) dial(c *client) error {
	server, err := netip.ParseAddrPort(l.job.Servers[c.server].WebSocket)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	// An address has 28,000 ports, and a closed one rests for a minute. The kernel
	// picks the port at connect, when it knows the whole pair.
	l.dialled++
	source := unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, byte(2 + l.dialled%16)}}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1),
		unix.Bind(fd, &source),
	)
	c.fd, c.stage, c.began, c.rest = fd, inHandshake, measure.Now(), c.rest[:0]
	if err == nil {
		err = unix.Connect(fd, &unix.SockaddrInet4{Addr: server.Addr().As4(), Port: int(server.Port())})
	}
	request := upgradeRequest
	if l.job.Stream {
		request = streamRequest
	}
	if err == nil {
		_, err = unix.Write(fd, fmt.Appendf(nil, request, groupName(c.group), l.job.Query, server, server))
	}
	if err == nil {
		err = unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(c.index)})
	}
	if err != nil {
		return fmt.Errorf("connection %d: %w", l.dialled, err)
	}
	return nil
}

const upgradeRequest = "GET /ws/%s%s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nPragma: no-cache\r\nCache-Control: no-cache\r\n" +
	"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36\r\n" +
	"Upgrade: websocket\r\nOrigin: http://%s\r\nSec-WebSocket-Version: 13\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n" +
	"Accept-Language: en-US,en;q=0.9\r\nCookie: session=0123456789abcdef0123456789abcdef\r\n" +
	"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"

// streamRequest has a lower version for those who would put chunks around the blocks otherwise.
const streamRequest = "GET /ws/%s%s HTTP/1.0\r\nHost: %s\r\nConnection: keep-alive\r\nPragma: no-cache\r\nCache-Control: no-cache\r\n" +
	"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36\r\n" +
	"Accept: text/event-stream\r\nReferer: http://%s/\r\nSec-Fetch-Mode: cors\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n" +
	"Accept-Language: en-US,en;q=0.9\r\nCookie: session=0123456789abcdef0123456789abcdef\r\n\r\n"

func (l *lane) poll(timeout time.Duration) error {
	n, err := unix.EpollWait(l.epoll, l.events[:], int(timeout.Milliseconds()))
	if err == unix.EINTR {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range l.events[:n] {
		if err := l.read(l.clients[e.Fd]); err != nil {
			return err
		}
	}
	return nil
}

func (l *lane) read(c *client) error {
	n := copy(l.buf, c.rest)
	m, err := unix.Read(c.fd, l.buf[n:])
	if err == unix.EINTR {
		return nil
	}
	if err != nil || m == 0 {
		return l.ended(c)
	}
	arrived, b := measure.Now(), l.buf[:n+m]
	if c.stage == inHandshake {
		head, rest, ok := bytes.Cut(b, []byte("\r\n\r\n"))
		if !ok {
			c.rest = append(c.rest[:0], b...)
			return nil
		}
		want := "101"
		if l.job.Stream {
			want = "200"
		}
		if fields := bytes.Fields(head); len(fields) < 2 || string(fields[1]) != want {
			return fmt.Errorf("handshake answered with %.60q", head)
		}
		b = rest
		if err := l.shakenHands(c); err != nil {
			return err
		}
	}
	next := wire.NextFrame
	if l.job.Stream {
		next = wire.NextBlock
	}
	for {
		opcode, payload, size, err := next(b)
		if err != nil {
			return err
		}
		if size == 0 {
			break
		}
		b = b[size:]
		if c.stage == inGreeting {
			c.stage = isOpen
			if err := l.opened(c); err != nil {
				return err
			}
		} else if opcode < wire.OpClose {
			wire.EachEvent(payload, func(sent int64, number uint32) {
				l.received++
				l.latency.Record(arrived - sent)
				c.sequence.check(number, &l.faults)
			})
		}
	}
	c.rest = append(c.rest[:0], b...)
	return nil
}

func (l *lane) shakenHands(c *client) error {
	if l.job.Scenario.Kind == snapshots {
		c.stage = inGreeting // which is the snapshot
		return nil
	}
	if l.job.Hello == "" {
		c.stage = isOpen
		return l.opened(c)
	}
	c.stage = inGreeting
	_, err := unix.Write(c.fd, wire.MaskedFrame(wire.OpText, []byte(l.job.Hello)))
	return err
}

// publish asks the first server for a burst of events to each of these groups, and
// returns when all members have all of them.
func (l *lane) publish(first, groups, events int) error {
	call := l.control[0].Go("Control.Publish", Publication{first, groups, events}, new(int), nil)
	want := l.received
	for g := first; g < first+groups; g++ {
		l.published[g] += events
		want += events * l.members[g]
	}
	for quiet := measure.Now(); l.received < want; {
		before := l.received
		if err := l.poll(100 * time.Millisecond); err != nil {
			return err
		}
		switch at := measure.Now(); {
		case l.received > before:
			quiet = at
		case l.faults.Closed > 0 || at-quiet > int64(stallTimeout):
			return errStalled
		}
	}
	select {
	case <-call.Done:
		return call.Error
	case <-time.After(stallTimeout):
		return errors.New("publish does not return")
	}
}

// usage adds up what the servers say.
func (l *lane) usage() (sum Usage, err error) {
	for _, s := range l.control {
		var u Usage
		if err := s.Call("Control.Usage", 0, &u); err != nil {
			return sum, err
		}
		sum.CPU += u.CPU
		sum.Joined += u.Joined
		sum.Left += u.Left
		sum.Loads += u.Loads
	}
	return sum, nil
}

// settle waits until the servers' memberships are as they should be.
func (l *lane) settle(done func(Usage) bool) error {
	for deadline := measure.Now() + int64(settleTimeout); ; {
		u, err := l.usage()
		if err != nil || done(u) {
			return err
		}
		if measure.Now() > deadline {
			return fmt.Errorf("%v later only %d have joined and %d left", settleTimeout, u.Joined, u.Left)
		}
		if err := l.poll(5 * time.Millisecond); err != nil {
			return err
		}
	}
}

// tally adds the events that never came to the faults.
func (l *lane) tally() faults {
	f := l.faults
	for _, c := range l.clients {
		f.Missing += max(0, l.published[c.group]-int(c.sequence.last))
	}
	return f
}
