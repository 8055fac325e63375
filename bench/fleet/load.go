//go:build linux

package main

import (
	"container/heap"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
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
	away    int   // clients that are meant to be
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
	f.Tally.Snapshots += g.Tally.Snapshots
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

// A Leaving asks for clients that lose their connections, as phones do that change networks.
type Leaving struct {
	Clients int           // how many, any of them
	Away    time.Duration // how long they are away before they try to come back
}

// Leave has clients lose their connections.
func (l *Load) Leave(leaving Leaving, _ *int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, index := range rand.Perm(len(l.clients))[:min(leaving.Clients, len(l.clients))] {
		c := l.clients[index]
		if c.stage != live {
			continue
		}
		l.lose(index, 0)
		c.lost += int64(leaving.Away)
		if c.away = leaving.Away > 0; c.away {
			l.away++
		}
		l.comeBack(index)
	}
	return nil
}

// Ask has n clients, any of them that have a WebSocket, send a message that is answered.
func (l *Load) Ask(n int, _ *int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for ; n > 0; n-- {
		c := l.clients[rand.IntN(len(l.clients))]
		if c.stage == live && !c.Stream {
			if c.asked == c.answered {
				c.askedAt = measure.Now()
			}
			c.asked++
			unix.Write(c.fd, wire.MaskedFrame(wire.OpText, strconv.AppendUint(nil, uint64(c.asked), 10)))
		}
	}
	return nil
}

// Standing is where a load generator stands.
type Standing struct {
	Live     int
	Away     int   // clients that are meant to be
	Conns    []int // of each hub
	Received int
	Failure  string
}

// Stand reports without side effects.
func (l *Load) Stand(_ int, s *Standing) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	*s = Standing{Live: l.live, Away: l.away, Conns: slices.Clone(l.conns), Received: l.found.Tally.Received}
	if l.failure != nil {
		s.Failure = l.failure.Error()
	}
	return nil
}

// Find returns what was found since the last call, and begins anew. An event is not missing if a Resync
// has come since: a hub that was cut off can deliver the next event before it has read what the store
// has kept, and finds then that numbers were given anew.
func (l *Load) Find(_ int, f *Found) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := &l.found.Tally
	all := len(t.Missing)
	t.Missing = slices.DeleteFunc(t.Missing, func(m Missing) bool {
		c := l.clients[m.Client]
		return c.rooms[m.Room-c.First].resyncs > m.Resyncs
	})
	t.Told += all - len(t.Missing)
	*f = l.found
	l.found.reset()
	return l.failure
}

// Lacking are the events that have not come yet, and so may be missing.
type Lacking struct {
	Missing []Missing
	Told    int // of which a Resync has told
	Resyncs []int
	Rooms   map[int]RoomResyncs
}

// RoomResyncs says how many clients are in a room, and how many of them have had a Resync of it.
type RoomResyncs struct{ Clients, Resynced int }

// Lack compares the rooms with the last numbers that were sent. It also says how many clients
// have had how many Resyncs, and in which rooms.
func (l *Load) Lack(sent map[int]uint32, lacking *Lacking) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	lacking.Rooms = make(map[int]RoomResyncs)
	for index, c := range l.clients {
		resyncs := 0
		for i := range c.rooms {
			r := &c.rooms[i]
			resyncs += r.resyncs
			of := lacking.Rooms[c.First+i]
			of.Clients++
			of.Resynced += min(r.resyncs, 1)
			lacking.Rooms[c.First+i] = of
			for number := r.last + 1; r.known && number <= sent[c.First+i]; number++ {
				if r.told {
					lacking.Told++
				} else {
					lacking.Missing = append(lacking.Missing, Missing{Event{c.First + i, number}, index, r.resyncs})
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
