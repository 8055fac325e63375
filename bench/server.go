//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/rpc"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/seed-29c60982/grouphub/bench/internal/measure"
	"github.com/seed-29c60982/grouphub/bench/internal/wire"
)

// A contender is a server under test. Its ServeHTTP answers GET /ws/{group}: it
// upgrades, or begins an event stream, makes the connection a member of the group until it ends, and counts both
// in joined and left.
type contender interface {
	http.Handler
	// publish sends n events to the members of a group. It calls next for each.
	publish(group string, n int, next func() []byte) error
}

// entries are all contenders, in the order of the tables.
var entries = []entry{
	{name: "grouphub", start: newGrouphub, redis: true, history: true, state: true},
	{name: "grouphub stream", start: newGrouphub, redis: true, history: true, state: true, stream: true},
	{name: "gorilla hub", start: newGorilla},
	{name: "melody", start: newMelody},
	{name: "coder", start: newCoder},
	{name: "gws", start: newGWS},
	{name: "centrifuge", start: newCentrifuge, redis: true, hello: centrifugeHello},
	{name: "centrifuge SSE", start: newCentrifugeSSE, redis: true, stream: true, query: centrifugeQuery},
	{name: limitName, start: newLimit},
}

type entry struct {
	name    string
	start   func(setup) (contender, error)
	redis   bool   // start can do something with a Redis URL
	history bool   // and with history
	state   bool   // and with Latest keys and Snapshots
	stream  bool   // clients ask for an event stream, not for a WebSocket
	hello   string // what a client must send first; it then waits for an answer
	query   string // of the request's URL, with its question mark
}

// A setup is what a server process is told.
type setup struct {
	Redis    string // the URL; empty for one process
	History  bool   // groups keep history
	Latest   int    // keys that events have in turn
	Snapshot bool   // groups have one
	Groups   int    // that a connection joins, besides the one that is published to
}

// takesPart reports whether a contender can do what a scenario asks for. A stream can't say
// goodbye, as clients do in churn.
func (e entry) takesPart(s scenario) bool {
	if e.name == limitName {
		return !s.Redis && s.Kind != snapshots
	}
	if (s.Kind == snapshots || s.Latest > 0) && !e.state {
		return false
	}
	goodbye := s.Kind == churn || s.Kind == snapshots
	return (!s.Redis || e.redis) && (!s.History || e.history) && (!goodbye || !e.stream)
}

// joined and left count the memberships of this process that have begun and ended.
var joined, left atomic.Int64

// loads counts the calls of Snapshot.
var loads atomic.Int64

// address is where a server process listens; it prints this when it is ready.
type address struct{ WebSocket, Control string }

// serve is the server process. It ends when its standard input does.
func serve(name, told string) error {
	var s setup
	if err := json.Unmarshal([]byte(told), &s); err != nil {
		return err
	}
	c, err := startContender(name, s)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("GET /ws/{group}", c)
	ws, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	control, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	commands := rpc.NewServer()
	if err := commands.RegisterName("Control", &Control{contender: c}); err != nil {
		return err
	}
	failed := make(chan error, 3)
	go func() { failed <- http.Serve(ws, mux) }()
	go func() { failed <- http.Serve(control, commands) }()
	go func() { _, err := io.Copy(io.Discard, os.Stdin); failed <- err }()
	if err := json.NewEncoder(os.Stdout).Encode(address{ws.Addr().String(), control.Addr().String()}); err != nil {
		return err
	}
	return <-failed
}

func startContender(name string, s setup) (contender, error) {
	for _, e := range entries {
		if e.name == name {
			return e.start(s)
		}
	}
	return nil, fmt.Errorf("no contender %q", name)
}

// Control is the server process's second listener: the same commands for every
// contender, so that nothing but fan-out differs.
type Control struct {
	contender contender
	numbers   [20000]uint32 // of the last event, per group; one publish per group at a time
}

// Publication asks for a burst of Events to each of Groups, from First on, in turn.
type Publication struct{ First, Groups, Events int }

// Usage is what the process has used and done.
type Usage struct {
	CPU          time.Duration
	Joined, Left int64
	Loads        int64
}

// Memory is what the process holds, in bytes.
type Memory struct{ Resident, Heap, Stacks int64 }

// Publish returns when the contender has accepted all events.
func (c *Control) Publish(p Publication, _ *int) error {
	for g := p.First; g < p.First+p.Groups; g++ {
		due := measure.Now() // all of the burst: who takes long to send it delays its last event
		next := func() []byte {
			c.numbers[g]++
			return wire.NewEvent(due, c.numbers[g])
		}
		if err := c.contender.publish(groupName(g), p.Events, next); err != nil {
			return err
		}
	}
	return nil
}

// Usage reports without side effects.
func (c *Control) Usage(_ int, u *Usage) (err error) {
	u.Joined, u.Left, u.Loads = joined.Load(), left.Load(), loads.Load()
	u.CPU, err = measure.CPUTime()
	return err
}

// Memory collects garbage, shrinks stacks and gives free memory back before it looks.
func (c *Control) Memory(_ int, m *Memory) (err error) {
	for range 3 { // each collection halves a stack at most
		runtime.GC()
	}
	debug.FreeOSMemory()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	m.Heap, m.Stacks = int64(s.HeapAlloc), int64(s.StackInuse)
	m.Resident, err = measure.ResidentMemory()
	return err
}

func groupName(i int) string { return "g" + strconv.Itoa(i) }

// A roster keeps the members of groups, for contenders that leave it to their user.
type roster[C comparable] struct {
	mu     sync.RWMutex
	groups map[string][]C
	places map[C]int // in its group's slice
}

func newRoster[C comparable]() *roster[C] {
	return &roster[C]{groups: make(map[string][]C), places: make(map[C]int)}
}

func (r *roster[C]) join(group string, c C) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.places[c] = len(r.groups[group])
	r.groups[group] = append(r.groups[group], c)
	joined.Add(1)
}

func (r *roster[C]) leave(group string, c C) {
	r.mu.Lock()
	defer r.mu.Unlock()
	members, place := r.groups[group], r.places[c]
	last := members[len(members)-1]
	members[place], r.places[last] = last, place
	delete(r.places, c)
	if members = members[:len(members)-1]; len(members) == 0 {
		delete(r.groups, group)
	} else {
		r.groups[group] = members
	}
	left.Add(1)
}

// each calls fn for every member; nobody joins or leaves meanwhile.
func (r *roster[C]) each(group string, fn func(C)) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, c := range r.groups[group] {
		fn(c)
	}
}
