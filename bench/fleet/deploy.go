//go:build linux

package main

import (
	"fmt"
	"slices"
	"time"

	"github.com/seed-29c60982/grouphub/bench/internal/measure"
)

const (
	// stopLimit is how much time a hub has to shut down, half of which its closes may be spread over.
	stopLimit = 20 * time.Second
	// liveTimeout is how long clients may take to come back.
	liveTimeout = time.Minute
	// evenEnough is the part by which a hub may have more clients than it should.
	evenEnough = 0.1
)

// A crowdSize is that of a fleet to which something happens.
type crowdSize struct {
	hubs, clients, rooms int     // clients of each hub
	rate                 float64 // events per second
}

func (z crowdSize) String() string {
	return fmt.Sprintf("%d hubs with %d clients each in %d rooms with history, and %s events a second.", z.hubs, z.clients, z.rooms, measure.Figure(z.rate))
}

// places spreads the clients over the hubs and rooms, so that each room has members on all hubs.
func (z crowdSize) places() (places []Place) {
	for i := range z.hubs * z.clients {
		places = append(places, Place{Hub: i % z.hubs, First: i / z.hubs % z.rooms, Count: 1})
	}
	return places
}

// crowdFleet starts a fleet with history on one Redis that has its clients, and what it is sent.
func (d *driver) crowdFleet(z crowdSize, fewest bool) (*fleet, Publication, error) {
	redis, err := startRedis(d.ctx)
	if err != nil {
		return nil, Publication{}, err
	}
	return d.crowdFleetOn(redis, z, fewest)
}

// crowdFleetOn does so on a store, which the fleet closes.
func (d *driver) crowdFleetOn(on store, z crowdSize, fewest bool) (*fleet, Publication, error) {
	f, err := newFleetOn(d.ctx, on, z.hubs, hubSetup{History: kept}, Crowd{History: true, Fewest: fewest})
	if err == nil {
		if err = f.enter(z.places()); err != nil {
			f.close()
		}
	}
	return f, Publication{Groups: z.rooms, Rate: z.rate}, err
}

// deploy replaces the hubs one after another, under load. It does so twice: with a load balancer that
// sends clients anywhere, and with one that sends them where there are fewest.
func (d *driver) deploy() (section, error) {
	s := section{Name: "deploy", Title: "A deploy under load", Head: []string{"", "back to any hub", "back to the hub with the fewest"}}
	for _, fewest := range []bool{false, true} {
		if err := d.deployOnce(&s, fewest); err != nil {
			return s, err
		}
	}
	s.Notes = append(s.Notes, fmt.Sprintf("%s A new hub starts, clients are led away from an old one, and that shuts down with %s to do it; then comes the next. Clients come back within %s, at random moments.",
		d.size.deploy, stopLimit, comeBackWithin))
	return s, nil
}

func (d *driver) deployOnce(s *section, fewest bool) error {
	f, publication, err := d.crowdFleet(d.size.deploy, fewest)
	if err != nil {
		return err
	}
	defer f.close()
	call := f.begin(publication)
	recording := f.record()
	time.Sleep(d.size.calm)
	before, err := f.store.usage()
	if err != nil {
		return err
	}
	began := time.Now()
	var stops []float64
	for _, old := range slices.Clone(f.hubs) {
		took, err := f.replace(old, recording)
		if err != nil {
			return err
		}
		stops = append(stops, took.Seconds())
	}
	took := time.Since(began)
	after, err := f.store.usage()
	if err != nil {
		return err
	}
	time.Sleep(d.size.calm)
	frames := recording.stop()
	found, err := f.find()
	if err != nil {
		return err
	}
	uneven, err := f.spread()
	if err != nil {
		return err
	}
	rounds, err := f.even()
	if err != nil {
		return err
	}
	even, err := f.spread()
	if err != nil {
		return err
	}
	if _, err := f.finish(call); err != nil {
		return err
	}
	v, err := f.judge(found)
	if err != nil {
		return err
	}
	name := "Deploy, back to any hub"
	if fewest {
		name = "Deploy, back to the fewest"
	}
	usual, highest := peak(frames, "hubs", d.size.calm.Seconds())
	usualRedis, highestRedis := peak(frames, "Redis", d.size.calm.Seconds())
	back := found.Back.Total
	reads := float64(after.Reads - before.Reads)
	s.column(
		[2]string{"events delivered", measure.Figure(float64(found.Tally.Received))},
		[2]string{"lost", fmt.Sprint(v.lost)},
		[2]string{"doubled", fmt.Sprint(v.doubled)},
		[2]string{"clients with a Resync", fmt.Sprint(v.resynced())},
		[2]string{"connections that came back", measure.Figure(float64(back))},
		[2]string{"attempts that a full hub refused", fmt.Sprint(found.Refused)},
		[2]string{"from a loss to live, p50 and p99, ms", measure.Figure(float64(found.Back.Quantile(.5))/1e6) + ", " + measure.Figure(float64(found.Back.Quantile(.99))/1e6)},
		[2]string{"one hub, until all are live, median, s", measure.Figure(median(stops))},
		[2]string{"the whole deploy, s", measure.Figure(took.Seconds())},
		[2]string{"GroupSend to client, p50 and p99, ms", measure.Figure(float64(found.Latency.Quantile(.5))/1e6) + ", " + measure.Figure(float64(found.Latency.Quantile(.99))/1e6)},
		[2]string{"the longest, replays included, ms", measure.Figure(float64(found.Longest) / 1e6)},
		[2]string{"CPU of the hubs before, and at its peak, cores", measure.Figure(usual) + ", " + measure.Figure(highest)},
		[2]string{"CPU of Redis before, and at its peak, cores", measure.Figure(usualRedis) + ", " + measure.Figure(highestRedis)},
		[2]string{"history reads, per room and hub that was replaced", measure.Figure(reads / float64(d.size.deploy.rooms*d.size.deploy.hubs))},
		[2]string{"history reads, per connection that came back", measure.Figure(reads / float64(back))},
		[2]string{"clients on a hub afterwards, fewest and most", fmt.Sprintf("%d, %d", slices.Min(uneven), slices.Max(uneven))},
		[2]string{"after shedding, rounds", fmt.Sprintf("%d, %d, %d", slices.Min(even), slices.Max(even), rounds)},
	)
	s.Charts = append(s.Charts, chartOf(name, frames, f.clients)...)
	if v.lost+v.doubled+v.resynced() > 0 {
		s.Failures = append(s.Failures, fmt.Sprintf("%s: %d lost, %d doubled, %d clients with a Resync", name, v.lost, v.doubled, v.resynced()))
	}
	return nil
}

// replace starts a hub and shuts an old one down, and returns how long it took until all clients were live.
func (f *fleet) replace(old *process, recording *recorder) (time.Duration, error) {
	if err := f.addHub(f.setup.URL); err != nil {
		return 0, err
	}
	if recording != nil {
		recording.follow("hubs", f.hubs[len(f.hubs)-1].PID())
	}
	if err := f.tellServers(old); err != nil {
		return 0, err
	}
	began := time.Now()
	if err := old.control.Call("Hub.Stop", stopLimit, new(time.Duration)); err != nil {
		return 0, fmt.Errorf("a hub does not shut down: %w", err)
	}
	old.kill()
	if err := f.awaitLive(liveTimeout); err != nil {
		return 0, err
	}
	return time.Since(began), nil
}

// spread returns how many clients each hub has.
func (f *fleet) spread() (conns []int, err error) {
	s, err := f.stand()
	for i, n := range s.Conns {
		if !f.hubs[i].ended {
			conns = append(conns, n)
		}
	}
	return conns, err
}

// even has hubs with more than their part close what they have too much, round after round, and
// returns how many it took.
func (f *fleet) even() (rounds int, err error) {
	for ; rounds < 10; rounds++ {
		s, err := f.stand()
		if err != nil {
			return rounds, err
		}
		hubs := 0
		for _, hub := range f.hubs {
			if !hub.ended {
				hubs++
			}
		}
		part, shed := float64(f.clients)/float64(hubs), false
		for i, hub := range f.hubs {
			if n := float64(s.Conns[i]); !hub.ended && n > part*(1+evenEnough) {
				if err := hub.control.Call("Hub.Shed", int(n-part), new(int)); err != nil {
					return rounds, err
				}
				shed = true
			}
		}
		if !shed {
			break
		}
		if err := f.awaitLive(liveTimeout); err != nil {
			return rounds, err
		}
	}
	return rounds, nil
}

// column adds a column to a table whose first one has the names of the figures.
func (s *section) column(cells ...[2]string) {
	for i, cell := range cells {
		if i == len(s.Rows) {
			s.Rows = append(s.Rows, []string{cell[0]})
		}
		s.Rows[i] = append(s.Rows[i], cell[1])
	}
}

// resynced returns how many clients have had a Resync.
func (v *verdict) resynced() (n int) {
	for i, clients := range v.resyncs {
		if i > 0 {
			n += clients
		}
	}
	return n
}
