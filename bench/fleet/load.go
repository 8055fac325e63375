//go:build linux

package main

import (
	"bytes"
	"container/heap"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/seed-29c60982/grouphub/bench/internal/measure"
	"github.com/seed-29c60982/grouphub/bench/internal/wire"
)

const (
	// openAtOnce is how many handshakes a load generator has in flight.
	openAtOnce = 64
	// comeBackWithin is the time in which a client comes back that has lost its connection, at a
	// random moment, as client.js does.
	comeBackWithin = time.Second
	// pollTimeout is how late a client may be that waits for its moment.
	pollTimeout = 5 * time.Millisecond
)

// Load is a load generator: one epoll loop with the clients, and what the driver asks of it. The sockets
// are blocking, and read once when epoll says so.
type Load struct {
	epoll int // static

	mu      sync.Mutex
	crowd   Crowd
	servers []netip.AddrPort // by hub; the zero AddrPort: down
	conns   []int            // of each hub
	clients []*client
	waiting queue // clients that wait for their turn
	opening int   // handshakes in flight
	live    int   // clients
	buf     []byte
	failure error // of the loop, which has ended
	found   Found
}

// A Crowd is how the clients of a load generator behave. It is told once.
type Crowd struct {
	History bool // rooms have one: clients resume
	Fewest  bool // clients that come back go to the hub that has the fewest of them, not to any
	Return  bool // those that are logged out come back, as users who log in again
}

// Found is what a load generator has found since it was last asked.
type Found struct {
	Tally   tally
	Latency measure.Histogram // from when an event was due
	Back    measure.Histogram // from the loss of a connection until the client is live again
	Longest int64             // latency
	Closes  map[int]int       // connections by the code of their end; 0: without one
	Refused int               // attempts that were not answered with a connection
	Logouts map[string]Logout // by user
}

// A Logout is what became of a user's connections.
type Logout struct {
	Closed int
	Last   int64 // when the last one was closed
}

// add adds what another load generator has found, or the same one later. Of a user's logout it keeps
// the one that was found last.
func (f *Found) add(g *Found) {
	f.Tally.Received += g.Tally.Received
	f.Tally.Doubled += g.Tally.Doubled
	f.Tally.Told += g.Tally.Told
	f.Tally.Resyncs += g.Tally.Resyncs
	f.Tally.Presence += g.Tally.Presence
	f.Tally.Missing = append(f.Tally.Missing, g.Tally.Missing...)
	f.Latency.Add(&g.Latency)
	f.Back.Add(&g.Back)
	f.Longest = max(f.Longest, g.Longest)
	f.Refused += g.Refused
	for code, n := range g.Closes {
		f.Closes[code] += n
	}
	maps.Copy(f.Logouts, g.Logouts)
}

func (f *Found) reset() {
	*f = Found{Closes: make(map[int]int), Logouts: make(map[string]Logout)}
}

// generate is the process of a load generator. It ends when its standard input does.
func generate() error {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return err
	}
	l := &Load{epoll: epoll, buf: make([]byte, 256<<10)}
	l.found.reset()
	go l.loop()
	return serveBoth(nil, "Load", l)
}

// Behave says how the clients behave.
func (l *Load) Behave(c Crowd, _ *int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.crowd = c
	return nil
}

// Servers says where the hubs are. An empty address is that of a hub to which nobody is to go.
func (l *Load) Servers(addresses []string, _ *int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, text := range addresses {
		var at netip.AddrPort
		if text != "" {
			var err error
			if at, err = netip.ParseAddrPort(text); err != nil {
				return err
			}
		}
		if i == len(l.servers) {
			l.servers, l.conns = append(l.servers, at), append(l.conns, 0)
		}
		l.servers[i] = at
	}
	return nil
}

// Enter adds clients, which connect from now on.
func (l *Load) Enter(places []Place, _ *int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range places {
		c := &client{Place: p, hub: p.Hub, rooms: make([]room, p.Count)}
		for i := range c.rooms {
			c.rooms[i].known = true // nothing was sent yet
		}
		l.clients = append(l.clients, c)
		heap.Push(&l.waiting, turn{index: len(l.clients) - 1})
	}
	return nil
}

// Leave has n clients, any of them, lose their connections, as phones that change networks do.
func (l *Load) Leave(n int, _ *int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for ; n > 0 && l.live > 0; n-- {
		index := rand.IntN(len(l.clients))
		if l.clients[index].stage == live {
			l.end(index, 0)
		}
	}
	return nil
}

// Standing is where a load generator stands.
type Standing struct {
	Live     int
	Conns    []int // of each hub
	Received int
	Failure  string
}

// Stand reports without side effects.
func (l *Load) Stand(_ int, s *Standing) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	*s = Standing{l.live, append([]int(nil), l.conns...), l.found.Tally.Received, ""}
	if l.failure != nil {
		s.Failure = l.failure.Error()
	}
	return nil
}

// Find returns what was found since the last call, and begins anew.
func (l *Load) Find(_ int, f *Found) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	*f = l.found
	l.found.reset()
	return l.failure
}

// Lacking are the events that have not come yet, and so may be missing.
type Lacking struct {
	Missing []Missing
	Told    int // of which a Resync has told
	Resyncs []int
}

// Lack compares the rooms with the last numbers that were sent. It also says how many clients
// have had how many Resyncs.
func (l *Load) Lack(sent map[int]uint32, lacking *Lacking) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for index, c := range l.clients {
		resyncs := 0
		for i := range c.rooms {
			r := &c.rooms[i]
			resyncs += r.resyncs
			for number := r.last + 1; r.known && number <= sent[c.First+i]; number++ {
				if r.told {
					lacking.Told++
				} else {
					lacking.Missing = append(lacking.Missing, Missing{Event{c.First + i, number}, index})
				}
			}
		}
		for len(lacking.Resyncs) <= resyncs {
			lacking.Resyncs = append(lacking.Resyncs, 0)
		}
		lacking.Resyncs[resyncs]++
	}
	return nil
}

// loop serves the clients until something fails.
func (l *Load) loop() {
	var events [128]unix.EpollEvent
	for {
		n, err := unix.EpollWait(l.epoll, events[:], int(pollTimeout.Milliseconds()))
		if err == unix.EINTR {
			continue
		}
		l.mu.Lock()
		for _, e := range events[:max(n, 0)] {
			if err == nil {
				err = l.read(int(e.Fd))
			}
		}
		if err == nil {
			err = l.connect()
		}
		l.failure = err
		l.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// connect has those connect whose moment has come, if there is any hub.
func (l *Load) connect() error {
	up := slices.ContainsFunc(l.servers, netip.AddrPort.IsValid)
	for up && l.opening < openAtOnce && len(l.waiting) > 0 && l.waiting[0].due <= measure.Now() {
		if err := l.dial(heap.Pop(&l.waiting).(turn).index); err != nil {
			return err
		}
	}
	return nil
}

func (l *Load) dial(index int) error {
	c := l.clients[index]
	if c.lost != 0 || !l.servers[c.hub].IsValid() {
		c.hub = l.choose()
	}
	server := l.servers[c.hub]
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	// An address has 28,000 ports, and a closed one rests for a minute. The kernel picks the
	// port at connect, when it knows the whole pair.
	source := unix.SockaddrInet4{Addr: [4]byte{127, 0, 1, byte(1 + index%200)}}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1),
		unix.Bind(fd, &source),
		unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(index)}),
	)
	if err != nil {
		return err
	}
	c.fd, c.stage, c.rest = fd, greets, c.rest[:0]
	l.opening++
	l.conns[c.hub]++
	err = unix.Connect(fd, &unix.SockaddrInet4{Addr: server.Addr().As4(), Port: int(server.Port())})
	if err == nil {
		_, err = unix.Write(fd, c.request(server.String(), l.crowd.History))
	}
	if err != nil { // there is nobody any more
		l.end(index, 0)
	}
	return nil
}

// choose returns the hub for a client that comes back, as a load balancer does.
func (l *Load) choose() int {
	best, seen := 0, 0
	for hub, at := range l.servers {
		if !at.IsValid() {
			continue
		}
		seen++
		if l.crowd.Fewest && (seen == 1 || l.conns[hub] < l.conns[best]) || !l.crowd.Fewest && rand.IntN(seen) == 0 {
			best = hub
		}
	}
	return best
}

func (l *Load) read(index int) error {
	c := l.clients[index]
	if c.stage == waits || c.stage == gone { // Leave has ended the connection since epoll said so
		return nil
	}
	n := copy(l.buf, c.rest)
	m, err := unix.Read(c.fd, l.buf[n:])
	if err == unix.EINTR {
		return nil
	}
	if err != nil || m == 0 {
		l.end(index, 0)
		return nil
	}
	arrived, b := measure.Now(), l.buf[:n+m]
	if c.stage == greets {
		head, rest, ok := bytes.Cut(b, []byte("\r\n\r\n"))
		if !ok {
			c.rest = append(c.rest[:0], b...)
			return nil
		}
		fields := bytes.Fields(head)
		if len(fields) < 2 || string(fields[1]) != "101" {
			if len(fields) < 2 || string(fields[1]) != "503" {
				return fmt.Errorf("handshake answered with %.60q", head)
			}
			l.end(index, 0)
			return nil
		}
		b = rest
		l.welcome(c)
	}
	for {
		opcode, payload, size, err := wire.NextFrame(b)
		if err != nil {
			return err
		}
		if size == 0 {
			break
		}
		b = b[size:]
		if ended, err := l.take(index, opcode, payload, arrived); err != nil || ended {
			return err
		}
	}
	c.rest = append(c.rest[:0], b...)
	return nil
}

// welcome notes that a client is connected. With history it is live when it has been told where.
func (l *Load) welcome(c *client) {
	l.opening--
	if l.crowd.History {
		c.stage, c.left = catches, c.Count
		return
	}
	for i := range c.rooms { // what came meanwhile is gone
		c.rooms[i].known = c.lost == 0
	}
	l.goLive(c)
}

func (l *Load) goLive(c *client) {
	c.stage = live
	l.live++
	if c.lost != 0 {
		l.found.Back.Record(measure.Now() - c.lost)
	}
}

// take takes a frame, and reports whether it was the last one.
func (l *Load) take(index int, opcode byte, payload []byte, arrived int64) (ended bool, err error) {
	c := l.clients[index]
	switch opcode {
	case wire.OpClose:
		unix.Write(c.fd, wire.MaskedFrame(wire.OpClose, payload[:min(2, len(payload))]))
		l.end(index, closeCode(payload))
		return true, nil
	case wire.OpPing:
		unix.Write(c.fd, wire.MaskedFrame(wire.OpPong, payload))
		return false, nil
	}
	wasLive := c.stage == live
	due, err := c.hear(payload, index, &l.found.Tally)
	if due != 0 {
		l.found.Latency.Record(arrived - due)
		l.found.Longest = max(l.found.Longest, arrived-due)
	}
	if !wasLive && c.stage == live {
		l.goLive(c)
	}
	return false, err
}

// end ends a client's connection. It comes back, unless it was logged out.
func (l *Load) end(index, code int) {
	c := l.clients[index]
	unix.Close(c.fd)
	l.conns[c.hub]--
	now := measure.Now()
	switch c.stage {
	case greets:
		l.opening--
		l.found.Refused++
	case live:
		l.live--
	}
	if c.stage != greets {
		l.found.Closes[code]++
		c.lost = now
	} else if c.lost == 0 {
		c.lost = now
	}
	if code == closeLoggedOut {
		logout := l.found.Logouts[c.User]
		l.found.Logouts[c.User] = Logout{logout.Closed + 1, max(logout.Last, now)}
		if !l.crowd.Return {
			c.stage = gone
			return
		}
	}
	c.stage = waits
	heap.Push(&l.waiting, turn{now + rand.Int64N(int64(comeBackWithin)), index})
}

// A turn is when a client is to connect.
type turn struct {
	due   int64
	index int
}

// A queue of turns, the first of them at the head.
type queue []turn

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].due < q[j].due }
func (q queue) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(t any)        { *q = append(*q, t.(turn)) }
func (q *queue) Pop() any {
	last := (*q)[len(*q)-1]
	*q = (*q)[:len(*q)-1]
	return last
}
