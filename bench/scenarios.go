//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/rpc"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/seed-29c60982/grouphub/bench/internal/measure"
	"github.com/seed-29c60982/grouphub/bench/internal/wire"
)

var scenarios = []scenario{
	{Name: "single", Title: "Single events, 1,000 members", Kind: fanout, Conns: 1000, GroupSize: 1000, Burst: 1},
	{Name: "burst", Title: "Bursts of 64 events, 1,000 members", Kind: fanout, Conns: 1000, GroupSize: 1000, Burst: 64},
	{Name: "rooms", Title: "Bursts of 100 events to one room of 10 after another, 9,000 connections in 900 rooms",
		Kind: fanout, Conns: 9000, GroupSize: 10, Burst: 100, Turn: 10},
	{Name: "fairness", Title: "Single events to a group of 10 while a group of 5,000 is flooded",
		Kind: fairness, Conns: 5010, GroupSize: 10, Burst: 64},
	{Name: "members-10", Title: "Single events to groups of 10, 15,000 connections", Kind: fanout,
		Conns: 15000, GroupSize: 10, Burst: 1, Turn: 1},
	{Name: "members-400", Title: "Single events to groups of 400, 15,000 connections", Kind: fanout,
		Conns: 15000, GroupSize: 400, Burst: 1, Turn: 1},
	{Name: "members-15000", Title: "Single events to a group of 15,000, 15,000 connections", Kind: fanout,
		Conns: 15000, GroupSize: 15000, Burst: 1, Turn: 1},
	{Name: "idle-9000", Title: "Memory of 9,000 idle connections in rooms of 10", Kind: idle, Conns: 9000, GroupSize: 10},
	{Name: "idle-15000", Title: "Memory of 15,000 idle connections in rooms of 10", Kind: idle, Conns: 15000, GroupSize: 10},
	{Name: "churn", Title: "Connect, join, leave, disconnect: 64 at a time", Kind: churn, Conns: 64, GroupSize: 10},
	{Name: "history-single", Title: "Single events, 1,000 members, history", Kind: fanout,
		Conns: 1000, GroupSize: 1000, Burst: 1, History: true},
	{Name: "history-burst", Title: "Bursts of 64 events, 1,000 members, history", Kind: fanout,
		Conns: 1000, GroupSize: 1000, Burst: 64, History: true},
	{Name: "groups-single", Title: "Single events, 1,000 members, each in ten groups with history", Kind: fanout,
		Conns: 1000, GroupSize: 1000, Burst: 1, History: true, Groups: 9},
	{Name: "groups-burst", Title: "Bursts of 64 events, 1,000 members, each in ten groups with history", Kind: fanout,
		Conns: 1000, GroupSize: 1000, Burst: 64, History: true, Groups: 9},
	{Name: "latest", Title: "Bursts of 64 events with 10 Latest keys, 1,000 members", Kind: fanout,
		Conns: 1000, GroupSize: 1000, Burst: 64, Latest: 10},
	{Name: "snapshot", Title: "Connect, join, receive a Snapshot of 4 KiB, disconnect: 64 at a time", Kind: snapshots,
		Conns: 64, GroupSize: 10},
	{Name: "redis-single", Title: "Redis, two hubs: single events, 1,000 members", Kind: fanout,
		Conns: 1000, GroupSize: 1000, Burst: 1, Redis: true},
	{Name: "redis-burst", Title: "Redis, two hubs: bursts of 64 events, 1,000 members", Kind: fanout,
		Conns: 1000, GroupSize: 1000, Burst: 64, Redis: true},
}

// capped returns the scenario with at most so many connections.
func (s scenario) capped(conns int) scenario {
	if conns > 0 && conns < s.Conns {
		s.Title += fmt.Sprintf(" — capped at %d connections", conns)
		s.Conns = conns
		s.GroupSize = min(s.GroupSize, max(conns/2, 1))
		if s.Kind == fanout && s.Turn == 0 {
			s.GroupSize = conns
		}
	}
	return s
}

// A job is what the driver asks of the load generator, which answers with a sample.
type job struct {
	Scenario scenario
	Servers  []address
	Hello    string
	Query    string // of the request's URL
	Stream   bool   // the connections are event streams
	Length   time.Duration
}

// generate is the load generator's process.
func generate() error {
	var j job
	if err := json.NewDecoder(os.Stdin).Decode(&j); err != nil {
		return err
	}
	if err := measure.CheckFiles(j.Scenario.Conns); err != nil {
		return err
	}
	var control []*rpc.Client
	for _, s := range j.Servers {
		c, err := rpc.DialHTTP("tcp", s.Control)
		if err != nil {
			return err
		}
		defer c.Close()
		control = append(control, c)
	}
	l, err := newLane(&j, control)
	if err != nil {
		return err
	}
	var s sample
	switch j.Scenario.Kind {
	case fanout:
		s, err = l.fanout()
	case fairness:
		s, err = l.fairness()
	case idle:
		s, err = l.idle()
	case churn, snapshots:
		s, err = l.churn()
	}
	if errors.Is(err, errStalled) { // the faults tell
		err = nil
	}
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(s)
}

// join opens the scenario's connections, in groups of its size.
func (l *lane) join(conns int, groupOf func(i int) int) error {
	before, err := l.usage()
	if err != nil {
		return err
	}
	if err := l.connect(conns, groupOf); err != nil {
		return err
	}
	return l.settle(func(u Usage) bool { return u.Joined >= before.Joined+int64(conns) })
}

// during repeats step for so long, at least three times, and then accounts for it:
// the servers' CPU time and the lane's events, without what came before.
func (l *lane) during(length time.Duration, step func() error) (sample, error) {
	before, err := l.usage()
	if err != nil {
		return sample{}, err
	}
	l.latency = measure.Histogram{}
	began, had := measure.Now(), l.received
	for n := 0; err == nil && (n < 3 || measure.Now()-began < int64(length)); n++ {
		err = step()
	}
	took, got := measure.Now()-began, float64(l.received-had)
	after, usageErr := l.usage()
	s := sample{Faults: l.tally()}
	if got > 0 {
		s.CPU = float64((after.CPU - before.CPU).Nanoseconds()) / 1e3 / got
		s.Rate = got / (float64(took) / 1e9)
		s.P50, s.P99 = l.quantiles()
		s.Loads = float64(after.Loads-before.Loads) / got
	}
	return s, errors.Join(err, usageErr)
}

// quantiles returns p50 and p99 in microseconds.
func (l *lane) quantiles() (p50, p99 float64) {
	return float64(l.latency.Quantile(0.5)) / 1e3, float64(l.latency.Quantile(0.99)) / 1e3
}

// fanout publishes in a closed loop: the next burst when all members have the last.
func (l *lane) fanout() (sample, error) {
	s := l.job.Scenario
	if err := l.join(s.Conns, func(i int) int { return i / s.GroupSize }); err != nil {
		return sample{}, err
	}
	turn, groups, first := max(s.Turn, 1), s.Conns/s.GroupSize, 0
	turn = min(turn, groups)
	step := func() error {
		if first+turn > groups {
			first = 0
		}
		err := l.publish(first, turn, s.Burst)
		first += turn
		return err
	}
	if warm, err := l.during(l.job.Length/4, step); err != nil {
		return warm, err
	}
	return l.during(l.job.Length, step)
}

// fairness floods group 0, bursts in a closed loop, and at the same time sends single
// events to group 1, one every five milliseconds, or when the last has arrived. Latency
// is that of the single events, all else is the flood's. Each has a lane, so that the
// load generator's own backlog is not taken for the server's.
func (l *lane) fairness() (sample, error) {
	s := l.job.Scenario
	if err := l.join(s.Conns-s.GroupSize, func(int) int { return 0 }); err != nil {
		return sample{}, err
	}
	quiet, err := newLane(l.job, l.control)
	if err != nil {
		return sample{}, err
	}
	if err := quiet.join(s.GroupSize, func(int) int { return 1 }); err != nil {
		return sample{}, err
	}
	flood := func() error { return l.publish(0, 1, s.Burst) }
	if warm, err := l.during(l.job.Length/4, flood); err != nil {
		return warm, err
	}
	stop, probed := make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			select {
			case <-stop:
				probed <- nil
				return
			case <-time.After(5 * time.Millisecond):
				if err := quiet.publish(1, 1, 1); err != nil {
					probed <- err
					return
				}
			}
		}
	}()
	// Long enough for a 99th percentile of two hundred events a second.
	result, err := l.during(2*l.job.Length, flood)
	close(stop)
	err = errors.Join(err, <-probed)
	result.P50, result.P99 = quiet.quantiles()
	result.Faults.add(quiet.tally())
	return result, err
}

// idle compares the server's memory with what it was before the connections came,
// then sends every group an event to see that all are alive.
func (l *lane) idle() (sample, error) {
	s, server := l.job.Scenario, l.control[0]
	var before, after Memory
	if err := server.Call("Control.Memory", 0, &before); err != nil {
		return sample{}, err
	}
	if err := l.join(s.Conns, func(i int) int { return i / s.GroupSize }); err != nil {
		return sample{}, err
	}
	// Wait, because memory that a server gives back once a connection has been idle for a
	// while is not to be counted.
	for end := measure.Now() + int64(l.job.Length); measure.Now() < end; {
		if err := l.poll(100 * time.Millisecond); err != nil {
			return sample{}, err
		}
	}
	if err := server.Call("Control.Memory", 0, &after); err != nil {
		return sample{}, err
	}
	err := l.publish(0, len(l.members), 1)
	each := func(before, after int64) float64 { return float64(after-before) / float64(s.Conns) }
	return sample{
		Resident: each(before.Resident, after.Resident),
		Heap:     each(before.Heap, after.Heap),
		Stacks:   each(before.Stacks, after.Stacks),
		Faults:   l.tally(),
	}, err
}

// churn keeps a number of clients busy that connect, become members, say goodbye, wait
// for the server to close, and begin again. Each such life counts as one received event,
// and its duration as the latency. Where groups have a Snapshot, a client waits for it
// before it says goodbye.
func (l *lane) churn() (sample, error) {
	goodbye := wire.MaskedFrame(wire.OpClose, []byte{0x03, 0xe8})
	again, busy := true, 0
	l.opened = func(c *client) error {
		_, err := unix.Write(c.fd, goodbye)
		return err
	}
	l.ended = func(c *client) error {
		if c.stage != isOpen {
			return fmt.Errorf("connection %d was closed in its handshake", l.dialled)
		}
		l.received++
		l.latency.Record(measure.Now() - c.began)
		// A reset leaves no port waiting on this side; the server has closed already.
		err := errors.Join(unix.SetsockoptLinger(c.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}), unix.Close(c.fd))
		if err == nil && again {
			return l.dial(c)
		}
		busy--
		return err
	}
	for ; busy < l.job.Scenario.Conns; busy++ {
		c := &client{index: busy, group: busy / l.job.Scenario.GroupSize}
		l.clients = append(l.clients, c)
		if err := l.dial(c); err != nil {
			return sample{}, err
		}
	}
	step := func() error { return l.poll(100 * time.Millisecond) }
	if warm, err := l.during(l.job.Length/4, step); err != nil {
		return warm, err
	}
	result, err := l.during(l.job.Length, step)
	if err != nil {
		return result, err
	}
	again = false
	for deadline := measure.Now() + int64(stallTimeout); busy > 0; {
		if measure.Now() > deadline {
			return result, fmt.Errorf("%d connections were not closed", busy)
		}
		if err := step(); err != nil {
			return result, err
		}
	}
	return result, l.settle(func(u Usage) bool { return u.Left == u.Joined })
}
