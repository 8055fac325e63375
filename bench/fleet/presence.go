//go:build linux

package main

import (
	"fmt"
	"time"

	"github.com/seed-29c60982/grouphub/bench/internal/measure"
)

const (
	// comings is how many clients lose their connection to a large room and come back, and
	// comingsPause the time between two of them.
	comings      = 50
	comingsPause = 50 * time.Millisecond
	// tellTime is what it takes until who is in a room has been told.
	tellTime = 2 * time.Second
	// counts is how often Count is asked.
	counts = 20
)

// presence measures what coming back to one large room with Announce costs, and what Count does. Who is
// away for less than five seconds has not left, so that nobody is told of it.
func (d *driver) presence() (s section, err error) {
	z := d.size
	hubs := z.costHubs[len(z.costHubs)-1]
	f, err := newFleet(d.ctx, hubs, hubSetup{Announce: true}, Crowd{})
	if err != nil {
		return s, err
	}
	defer f.close()
	var places []Place
	for i := range z.present {
		places = append(places, Place{Hub: i % hubs, First: 0, Count: 1, User: fmt.Sprint("user", i)})
	}
	if err := f.enter(places); err != nil {
		return s, err
	}
	time.Sleep(tellTime)
	entered, err := f.find()
	if err != nil {
		return s, err
	}
	idle, err := f.quietest(z.costLength)
	if err != nil {
		return s, err
	}
	begin, err := f.snap()
	if err != nil {
		return s, err
	}
	for range comings {
		if err := f.loads[0].control.Call("Load.Leave", Leaving{Clients: 1}, new(int)); err != nil {
			return s, err
		}
		time.Sleep(comingsPause)
	}
	if err := f.awaitLive(liveTimeout); err != nil {
		return s, err
	}
	time.Sleep(tellTime)
	end, err := f.snap()
	if err != nil {
		return s, err
	}
	found, err := f.find()
	if err != nil {
		return s, err
	}
	var took measure.Histogram
	for range counts {
		var n int
		began := measure.Now()
		if err := f.worker.control.Call("Hub.Count", 0, &n); err != nil {
			return s, err
		}
		took.Record(measure.Now() - began)
		if n != z.present {
			s.Failures = append(s.Failures, fmt.Sprintf("Count is %d, and not %d", n, z.present))
		}
	}
	back := int(found.Back.Total)
	// A newcomer is told who is there, in at most two events.
	if most := 2 * back; found.Tally.Presence > most {
		s.Failures = append(s.Failures, fmt.Sprintf("%d clients came back at once, and %d presence events were told, and not at most %d", back, found.Tally.Presence, most))
	}
	seconds, n := end.hubs.at.Sub(begin.hubs.at).Seconds(), float64(max(back, 1))
	used := end.hubs.store.minus(begin.hubs.store)
	s.Name, s.Title = "presence", "Who is in a large room"
	s.Head = []string{"hubs", "members", "presence events for all to enter", "for each that came back", "hubs' CPU for it, µs", "Redis' CPU, µs", "bytes to Redis", "from Redis", "Count, p50, ms"}
	s.Rows = [][]string{{
		fmt.Sprint(hubs), fmt.Sprint(z.present), fmt.Sprint(entered.Tally.Presence), measure.Figure(float64(found.Tally.Presence) / n),
		measure.Figure(((end.hubs.hubs - begin.hubs.hubs).Seconds() - idle.hubs*seconds) * 1e6 / n),
		measure.Figure((used.CPU.Seconds() - idle.store*seconds) * 1e6 / n),
		measure.Figure(float64(used.In) / n), measure.Figure(float64(used.Out) / n), measure.Figure(float64(took.Quantile(.5)) / 1e6),
	}}
	s.Notes = []string{fmt.Sprintf("One room with Announce; %d of its members lose their connection, one every %s, and come back within %s, to any hub.", back, comingsPause, comeBackWithin)}
	return s, nil
}
