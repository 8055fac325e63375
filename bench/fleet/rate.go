//go:build linux

package main

import (
	"fmt"

	"github.com/seed-29c60982/grouphub/bench/internal/measure"
)

// rateRooms is how many rooms the events of one measurement go to in turn.
const rateRooms = 64

// rates measures what an event costs against how many there are per second. Each room has a member on
// each hub, so that every hub gets every event.
func (d *driver) rates() (s section, err error) {
	z := d.size
	f, err := newFleet(d.ctx, z.deployHubs, hubSetup{}, Crowd{})
	if err != nil {
		return s, err
	}
	defer f.close()
	var places []Place
	for room := range rateRooms {
		for hub := range z.deployHubs {
			places = append(places, Place{Hub: hub, First: room, Count: 1})
		}
	}
	if err := f.enter(places); err != nil {
		return s, err
	}
	idle, err := f.idle(z.costLength)
	if err != nil {
		return s, err
	}
	s = section{
		Name: "rate", Title: "What an event costs when there are many",
		Head: []string{"events/s", "CPU of each hub, µs per event", "of the worker", "of Redis", "of all hubs, cores", "p50, ms", "p99, ms"},
	}
	cpu := chart{Title: s.Title, X: "events per second", Y: "µs per event"}
	for _, rate := range z.rates {
		c, err := f.sample(Publication{Groups: rateRooms, Rate: rate, Events: int(rate * z.costLength.Seconds())}, idle)
		if err != nil {
			return s, err
		}
		each := c.hubs / float64(z.deployHubs)
		s.Rows = append(s.Rows, []string{
			measure.Figure(rate), measure.Figure(each), measure.Figure(c.worker), measure.Figure(c.redis),
			measure.Figure(c.hubs * c.rate / 1e6), measure.Figure(c.p50), measure.Figure(c.p99),
		})
		cpu.add("each hub", rate, each)
		cpu.add("worker", rate, c.worker)
		cpu.add("Redis", rate, c.redis)
	}
	s.Charts = []chart{cpu}
	s.Notes = []string{fmt.Sprintf("%d hubs, all with one member in each of %d rooms; no history.", z.deployHubs, rateRooms)}
	return s, nil
}
