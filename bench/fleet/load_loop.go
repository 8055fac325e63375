//go:build linux

package main

import (
	"bytes"
	"container/heap"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/seed-29c60982/grouphub/bench/internal/measure"
	"github.com/seed-29c60982/grouphub/bench/internal/wire"
)

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
	if c.away {
		c.away = false
		l.away--
	}
	c.fd, c.stage, c.rest = fd, greets, c.rest[:0]
	c.asked, c.answered = 0, 0
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
		if len(fields) < 2 || string(fields[1]) != "101" && string(fields[1]) != "200" {
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
		next := wire.NextFrame
		if c.Stream {
			next = nextBlock
		}
		opcode, payload, size, err := next(b)
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

// welcome notes that a client is connected. With history it is live when it has been told where, and
// with a dashboard when it shows that.
func (l *Load) welcome(c *client) {
	l.opening--
	c.left = 0
	if l.crowd.History {
		c.left = c.Count
	} else {
		for i := range c.rooms { // what came meanwhile is gone
			c.rooms[i].known = c.lost == 0
		}
	}
	if c.page.shown = false; c.Board > 0 {
		c.left++
	}
	if c.stage = catches; c.left == 0 {
		l.goLive(c)
	}
}

func (l *Load) goLive(c *client) {
	c.stage, c.since = live, measure.Now()
	l.live++
	if c.lost != 0 {
		l.found.Back.Record(max(c.since-c.lost, 0))
	}
}

// take takes a frame, and reports whether it was the last one.
func (l *Load) take(index int, opcode byte, payload []byte, arrived int64) (ended bool, err error) {
	c := l.clients[index]
	switch opcode {
	case wire.OpClose:
		code := streamCode(payload)
		if !c.Stream {
			code = closeCode(payload)
			unix.Write(c.fd, wire.MaskedFrame(wire.OpClose, payload[:min(2, len(payload))]))
		}
		l.end(index, code)
		return true, nil
	case wire.OpPing:
		unix.Write(c.fd, wire.MaskedFrame(wire.OpPong, payload))
		return false, nil
	case 0: // of a stream, and says nothing that matters here
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
	l.lose(index, code)
	if l.clients[index].stage == waits {
		l.comeBack(index)
	}
}

// comeBack has a client connect within a second from when it lost its connection.
func (l *Load) comeBack(index int) {
	due := max(l.clients[index].lost, measure.Now()) + rand.Int64N(int64(comeBackWithin))
	heap.Push(&l.waiting, turn{due, index})
}

// lose ends a client's connection.
func (l *Load) lose(index, code int) {
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
