//go:build linux

package main

import (
	"fmt"
	"time"

	"github.com/seed-29c60982/grouphub/bench/internal/measure"
)

const (
	// redisAway is how long Redis is away after its crash.
	redisAway = 2 * time.Second
	// noticeTimeout is how long a hub may take to notice that its Redis is away, or back.
	noticeTimeout = time.Minute
)

// A crashResult is what became of a crash.
type crashResult struct {
	name     string
	noticed  time.Duration // after it happened
	promoted time.Duration // after it happened, until the replica of a Cluster's master was one itself; 0: there was none
	whole    time.Duration // after it happened, until all clients are live, and have what was sent to them, or a Resync
	due      resyncsDue
	found    Found
	verdict
	sending *Sending
}

// resyncsDue says which clients should have a Resync. No client should have two.
type resyncsDue struct {
	all     bool
	rooms   map[int]bool // whose clients should all have one, if not all
	perhaps map[int]bool // rooms whose clients may all have one
}

// kept reports whether the clients of all rooms have had what was due.
func (due resyncsDue) kept(rooms map[int]RoomResyncs) bool {
	for room, r := range rooms {
		must := due.all || due.rooms[room]
		may := must || due.perhaps[room]
		if must && r.Resynced < r.Clients || !may && r.Resynced > 0 {
			return false
		}
	}
	return true
}

// crash kills a hub, kills Redis, which comes back without its data, and freezes the path between a hub
// and Redis.
func (d *driver) crash() (section, error) {
	s := section{Name: "crash", Title: "What breaks under load", Head: []string{"", "a hub is killed", "Redis comes back empty", "a hub's path to Redis is frozen"}}
	for _, crash := range []func(*driver) (crashResult, error){(*driver).crashHub, (*driver).crashRedis, (*driver).freezePath} {
		r, err := crash(d)
		if err != nil {
			return s, err
		}
		s.crashed(r)
	}
	s.Notes = append(s.Notes, d.size.crowdNote()+fmt.Sprintf(" Redis comes back after %s. The frozen path stays open and lets nothing through; new connections get through.", redisAway))
	return s, nil
}

// crowdNote says what a crash happens to.
func (z *size) crowdNote() string {
	return fmt.Sprintf("%s Clients come back within %s, at random moments.",
		z.crash, comeBackWithin)
}

// crashed adds a column for a crash.
func (s *section) crashed(r crashResult) {
	cells := [][2]string{{"until it is noticed, s", measure.Figure(r.noticed.Seconds())}}
	if r.promoted > 0 {
		cells = append(cells, [2]string{"until the replica is the master, s", measure.Figure(r.promoted.Seconds())})
	}
	s.column(append(cells,
		[2]string{"until all is whole, s", measure.Figure(r.whole.Seconds())},
		[2]string{"events delivered", measure.Figure(float64(r.found.Tally.Received))},
		[2]string{"lost", fmt.Sprint(r.lost)},
		[2]string{"doubled", fmt.Sprint(r.doubled)},
		[2]string{"missing, as a Resync has told", fmt.Sprint(r.told)},
		[2]string{"clients with no, one and more Resyncs", resyncsOf(r.resyncs)},
		[2]string{"connections that came back", fmt.Sprint(r.found.Back.Total)},
		[2]string{"GroupSend that failed and was repeated", fmt.Sprint(r.sending.Unavailable)},
		[2]string{"GroupSend of which it is not known", fmt.Sprint(len(r.sending.Uncertain))},
		[2]string{"GroupSend to client, p50 and p99, ms", measure.Figure(float64(r.found.Latency.Quantile(.5))/1e6) + ", " + measure.Figure(float64(r.found.Latency.Quantile(.99))/1e6)},
		[2]string{"the longest, s", measure.Figure(float64(r.found.Longest) / 1e9)},
	)...)
	if r.lost+r.doubled > 0 || len(r.resyncs) > 2 || !r.due.kept(r.rooms) {
		s.Failures = append(s.Failures, fmt.Sprintf("%s: %d lost, %d doubled, Resyncs %s, which are not those that are due", r.name, r.lost, r.doubled, resyncsOf(r.resyncs)))
	}
}

func resyncsOf(counts []int) string {
	var n [3]int
	for i, clients := range counts {
		n[min(i, 2)] += clients
	}
	return fmt.Sprintf("%d, %d, %d", n[0], n[1], n[2])
}

// underLoad has something happen to a fleet that is sent events, and judges what became of them.
func (d *driver) underLoad(name string, f *fleet, p Publication, happen func(*crashResult) error) (r crashResult, err error) {
	r.name = name
	call := f.begin(p)
	time.Sleep(d.size.calm)
	began := time.Now()
	if err := happen(&r); err != nil {
		return r, fmt.Errorf("%s: %w", name, err)
	}
	r.whole = time.Since(began)
	time.Sleep(d.size.calm)
	if r.found, err = f.find(); err != nil {
		return r, err
	}
	if r.sending, err = f.finish(call); err != nil {
		return r, err
	}
	if r.verdict, err = f.judge(r.found); err != nil {
		return r, fmt.Errorf("%s: %w", name, err)
	}
	return r, nil
}

// crashHub kills a hub. Its clients come back to the others.
func (d *driver) crashHub() (r crashResult, err error) {
	f, publication, err := d.crowdFleet(d.size.crash, false)
	if err != nil {
		return r, err
	}
	defer f.close()
	return d.underLoad("a hub is killed", f, publication, func(r *crashResult) error {
		began := time.Now()
		f.hubs[0].kill()
		if err := f.tellServers(); err != nil {
			return err
		}
		err := f.await(noticeTimeout, func(s Standing) (bool, string) {
			return s.Conns[0] == 0, fmt.Sprintf("%d clients have not noticed", s.Conns[0])
		})
		if err != nil {
			return err
		}
		r.noticed = time.Since(began)
		return f.awaitLive(liveTimeout)
	})
}

// crashRedis kills Redis, which comes back without its data. Every client has a Resync due, since events
// of its room may have been lost.
func (d *driver) crashRedis() (r crashResult, err error) {
	redis, err := startRedis(d.ctx)
	if err != nil {
		return r, err
	}
	f, publication, err := d.crowdFleetOn(redis, d.size.crash, false)
	if err != nil {
		return r, err
	}
	defer f.close()
	return d.underLoad("Redis comes back empty", f, publication, func(r *crashResult) error {
		r.due.all = true
		began := time.Now()
		redis.kill()
		if err := f.awaitLayer(f.hubs, false); err != nil {
			return err
		}
		r.noticed = time.Since(began)
		time.Sleep(redisAway)
		if err := redis.start(); err != nil {
			return err
		}
		if err := f.awaitLayer(f.hubs, true); err != nil {
			return err
		}
		return f.awaitResyncs(f.clients)
	})
}

// freezePath freezes the connections between one hub and Redis. Nothing is lost, since the rooms have
// history.
func (d *driver) freezePath() (r crashResult, err error) {
	redis, err := startRedis(d.ctx)
	if err != nil {
		return r, err
	}
	f, publication, err := d.crowdFleetOn(redis, d.size.crash, false)
	if err != nil {
		return r, err
	}
	defer f.close()
	path, err := startProxy(redis.address())
	if err != nil {
		return r, err
	}
	defer path.close()
	if err := f.addHub("redis://" + path.address()); err != nil {
		return r, err
	}
	frozen := f.hubs[len(f.hubs)-1:]
	if err := f.tellServers(); err != nil {
		return r, err
	}
	var places []Place
	for i := range d.size.crash.clients {
		places = append(places, Place{Hub: len(f.hubs) - 1, First: i % d.size.crash.rooms, Count: 1})
	}
	if err := f.enter(places); err != nil {
		return r, err
	}
	return d.underLoad("a path is frozen", f, publication, func(r *crashResult) error {
		began := time.Now()
		path.freeze()
		if err := f.awaitLayer(frozen, false); err != nil {
			return err
		}
		r.noticed = time.Since(began)
		return f.awaitLayer(frozen, true)
	})
}

// awaitLayer waits until all of these hubs say that their layer is up, or down.
func (f *fleet) awaitLayer(hubs []*process, up bool) error {
	for deadline := time.Now().Add(noticeTimeout); ; time.Sleep(watchInterval) {
		n := 0
		for _, hub := range hubs {
			var u Usage
			if err := hub.control.Call("Hub.Usage", 0, &u); err != nil {
				return err
			}
			if u.Stats.LayerUp == up {
				n++
			}
		}
		switch {
		case n == len(hubs):
			return nil
		case time.Now().After(deadline):
			return fmt.Errorf("%s later only %d of %d hubs say that their layer is up: %t", noticeTimeout, n, len(hubs), up)
		}
	}
}

// awaitResyncs waits until so many clients have had a Resync, and then for one too many.
func (f *fleet) awaitResyncs(clients int) error {
	for deadline := time.Now().Add(noticeTimeout); ; time.Sleep(watchInterval) {
		l, err := f.lack()
		if err != nil {
			return err
		}
		v := verdict{resyncs: l.Resyncs}
		switch n := v.resynced(); {
		case n >= clients:
			return nil
		case time.Now().After(deadline):
			return fmt.Errorf("%s later only %d of %d clients have had a Resync", noticeTimeout, n, clients)
		}
	}
}
