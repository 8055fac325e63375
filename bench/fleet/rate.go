//go:build linux

package main

import (
	"fmt"

	"github.com/seed-29c60982/grouphub/bench/internal/measure"
)

// rateRooms is how many rooms the events of one measurement go to in turn.
const rateRooms = 64

// full is the latency in ms at which the machine is taken to have no CPU left. What an event costs
// then says how much is done at once, and is not compared.
const full = 10

// rates measures what an event costs against how many there are per second, and how many hubs get it. Each
// room has a member on each of the hubs, so that every hub gets every event.
func (d *driver) rates() (section, error) {
	s := section{
		Name: "rate", Title: "What an event costs when there are many",
		Head: []string{"hubs", "events/s", "CPU of each hub, µs per event", "of the worker", "of Redis", "of all hubs, cores", "p50, ms", "p99, ms"},
	}
	each := chart{Title: s.Title + ": each hub", X: "events per second", Y: "CPU, µs per event"}
	redis := chart{Title: s.Title + ": Redis", X: "events per second", Y: "CPU, µs per event"}
	xs, ys := make(map[float64][][]float64), make(map[float64][]float64) // of Redis, by rate
	for _, hubs := range d.size.rateHubs {
		samples, err := d.ratesOf(hubs)
		if err != nil {
			return s, err
		}
		for i, c := range samples {
			rate := d.size.rates[i]
			s.Rows = append(s.Rows, []string{
				fmt.Sprint(hubs), measure.Figure(rate), measure.Figure(c.hubs / float64(hubs)), measure.Figure(c.worker), measure.Figure(c.redis),
				measure.Figure(c.hubs * c.rate / 1e6), measure.Figure(c.p50), measure.Figure(c.p99),
			})
			each.add(fmt.Sprintf("%d hubs", hubs), rate, c.hubs/float64(hubs))
			redis.add(fmt.Sprintf("%d hubs", hubs), rate, c.redis)
			if c.p50 > full {
				continue
			}
			xs[rate], ys[rate] = append(xs[rate], []float64{1, float64(hubs)}), append(ys[rate], c.redis)
		}
	}
	s.Charts = []chart{each, redis}
	for _, rate := range d.size.rates {
		if len(xs[rate]) < 2 {
			continue
		}
		k := fit(xs[rate], ys[rate])
		s.Notes = append(s.Notes, fmt.Sprintf("At %s events a second, Redis' CPU, µs = %s + %s·hubs.", measure.Figure(rate), signed(k[0]), signed(k[1])))
	}
	s.Notes = append(s.Notes, fmt.Sprintf("All hubs have one member in each of %d rooms, without history. Where p50 is above %d ms, the machine had no CPU left; that is in no fit.", rateRooms, full))
	return s, nil
}

// ratesOf measures an event at each of the rates, on so many hubs.
func (d *driver) ratesOf(hubs int) (samples []costSample, err error) {
	z := d.size
	f, err := newFleet(d.ctx, hubs, hubSetup{}, Crowd{})
	if err != nil {
		return nil, err
	}
	defer f.close()
	var places []Place
	for room := range rateRooms {
		for hub := range hubs {
			places = append(places, Place{Hub: hub, First: room, Count: 1})
		}
	}
	if err := f.enter(places); err != nil {
		return nil, err
	}
	idle, err := f.idle(z.costLength)
	if err != nil {
		return nil, err
	}
	for _, rate := range z.rates {
		c, err := f.sample(Publication{Groups: rateRooms, Rate: rate, Events: int(rate * z.costLength.Seconds())}, idle)
		if err != nil {
			return nil, err
		}
		samples = append(samples, c)
	}
	return samples, nil
}
