//go:build linux

package main

import (
	"fmt"
	"net/rpc"
	"time"

	"github.com/seed-29c60982/grouphub/bench/internal/measure"
)

// snapshotRate is how many values change per second while pages load.
const snapshotRate = 50

// A loading is what it took until all pages were up to date again.
type loading struct {
	whole     time.Duration
	loads     int64 // of the hubs
	snapshots int   // that pages got
	hubs      usage // used
	store     storeUsage
	back      measure.Histogram
}

// snapshots has all clients of dashboards without history need their state at once: first since all
// have lost their connection, and then since Redis came back empty.
func (d *driver) snapshots() (s section, err error) {
	z := d.size
	hubs := z.costHubs[len(z.costHubs)-1]
	redis, err := startRedis(d.ctx)
	if err != nil {
		return s, err
	}
	f, err := newFleetOn(d.ctx, redis, hubs, hubSetup{}, Crowd{})
	if err != nil {
		return s, err
	}
	defer f.close()
	var places []Place
	for i := range z.pages {
		places = append(places, Place{Hub: i % hubs, Board: 1 + 2*(i/hubs%z.boards)}) // those with even numbers have history
	}
	if err := f.enter(places); err != nil {
		return s, err
	}
	changes := f.worker.control.Go("Hub.Change", Changes{Boards: 2 * z.boards, Rate: snapshotRate}, new(int), nil)
	lost, err := f.loading(z, func() error {
		for _, load := range f.loads {
			if err := load.control.Call("Load.Leave", Leaving{Clients: f.clients}, new(int)); err != nil {
				return err
			}
		}
		return f.awaitLive(liveTimeout)
	})
	if err != nil {
		return s, err
	}
	empty, err := f.loading(z, func() error {
		redis.kill()
		if err := f.awaitLayer(f.hubs, false); err != nil {
			return err
		}
		if err := redis.start(); err != nil {
			return err
		}
		return f.awaitLayer(f.hubs, true)
	})
	if err != nil {
		return s, err
	}
	if err := f.stopChanges(changes); err != nil {
		return s, err
	}
	s = section{Name: "snapshots", Title: "Pages that need their state at once", Head: []string{"", "all lost their connection", "Redis came back empty"}}
	for _, l := range []loading{lost, empty} {
		n := float64(f.clients)
		s.column(
			[2]string{"clients, hubs, dashboards", fmt.Sprintf("%d, %d, %d", f.clients, hubs, z.boards)},
			[2]string{"snapshots that clients got", fmt.Sprint(l.snapshots)},
			[2]string{"loads, for each dashboard and hub", measure.Figure(float64(l.loads) / float64(z.boards*hubs))},
			[2]string{"until all pages are up to date, s", measure.Figure(l.whole.Seconds())},
			[2]string{"from a loss until the page is up to date, p50 and p99, ms", measure.Figure(float64(l.back.Quantile(.5))/1e6) + ", " + measure.Figure(float64(l.back.Quantile(.99))/1e6)},
			[2]string{"hubs' CPU for each client, µs", measure.Figure(l.hubs.hubs.Seconds() * 1e6 / n)},
			[2]string{"Redis' CPU for each client, µs", measure.Figure(l.store.CPU.Seconds() * 1e6 / n)},
		)
		if l.snapshots != f.clients {
			s.Failures = append(s.Failures, fmt.Sprintf("%d clients got %d snapshots", f.clients, l.snapshots))
		}
	}
	s.Notes = []string{fmt.Sprintf("Dashboards of %d values without history, each with members on all hubs; %d values change every second, and loading one takes %s. Clients come back within %s. A page is up to date when it has had all changes that were made before.", boardKeys, snapshotRate, queryTime, comeBackWithin)}
	return s, nil
}

// loading has something happen after which every page needs a snapshot, and waits until each has had
// one, and has what had changed by then.
func (f *fleet) loading(z size, happen func() error) (l loading, err error) {
	time.Sleep(z.calm)
	if _, err := f.find(); err != nil {
		return l, err
	}
	loads, err := f.loadsOfHubs()
	if err != nil {
		return l, err
	}
	before, err := f.usage(f.hubs...)
	if err != nil {
		return l, err
	}
	began := time.Now()
	if err := happen(); err != nil {
		return l, err
	}
	past, err := f.past(2 * z.boards)
	if err != nil {
		return l, err
	}
	past.At = measure.Now() // whoever is live by now
	for deadline := began.Add(liveTimeout); ; time.Sleep(watchInterval) {
		found, err := f.find()
		if err != nil {
			return l, err
		}
		l.snapshots += found.Tally.Snapshots
		l.back.Add(&found.Back)
		b, err := f.behind(past)
		if err != nil {
			return l, err
		}
		if l.snapshots >= f.clients && b.Values == 0 || time.Now().After(deadline) {
			break
		}
	}
	l.whole = time.Since(began)
	after, err := f.usage(f.hubs...)
	if err != nil {
		return l, err
	}
	l.hubs = usage{hubs: after.hubs - before.hubs}
	l.store = after.store.minus(before.store)
	if after.store.CPU < before.store.CPU { // it is another process
		l.store = after.store
	}
	time.Sleep(z.calm) // for one too many
	found, err := f.find()
	if err != nil {
		return l, err
	}
	l.snapshots += found.Tally.Snapshots
	now, err := f.loadsOfHubs()
	l.loads = now - loads
	return l, err
}

// loadsOfHubs adds up how often the hubs have loaded a dashboard.
func (f *fleet) loadsOfHubs() (sum int64, err error) {
	for _, hub := range f.hubs {
		var u Usage
		if err := hub.control.Call("Hub.Usage", 0, &u); err != nil {
			return 0, err
		}
		sum += u.Loads
	}
	return sum, nil
}

// stopChanges ends what changes dashboards.
func (f *fleet) stopChanges(changes *rpc.Call) error {
	if err := f.worker.control.Call("Hub.StopChanging", 0, new(int)); err != nil {
		return err
	}
	<-changes.Done
	return changes.Error
}
