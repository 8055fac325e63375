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
func (d *driver) rates(kind storeKind) (section, error) {
	s := section{
		Name: kind.scenario("rate"), Title: "What an event costs when there are many" + kind.where(),
		Head: []string{"hubs", "events/s", "CPU of each hub, µs per event", "of the worker", "of " + kind.String(), "of all hubs, cores", "p50, ms", "p99, ms"},
	}
	if kind == aCluster {
		s.Head = append(s.Head, "the busiest node, µs")
	}
	each := chart{Title: s.Title + ": each hub", X: "events per second", Y: "CPU, µs per event"}
	redis := chart{Title: s.Title + ": Redis", X: "events per second", Y: "CPU, µs per event"}
	xs, ys := make(map[float64][][]float64), make(map[float64][]float64) // of Redis, by rate
	for _, hubs := range d.size.rateHubs {
		samples, err := d.ratesOf(kind, hubs)
		if err != nil {
			return s, err
		}
		for i, c := range samples {
			rate := d.size.rates[i]
			s.Rows = append(s.Rows, []string{
				fmt.Sprint(hubs), measure.Figure(rate), measure.Figure(c.hubs / float64(hubs)), measure.Figure(c.worker), measure.Figure(c.store),
				measure.Figure(c.hubs * c.rate / 1e6), measure.Figure(c.p50), measure.Figure(c.p99),
			})
			if kind == aCluster {
				row := &s.Rows[len(s.Rows)-1]
				*row = append(*row, measure.Figure(c.busiest))
			}
			each.add(fmt.Sprintf("%d hubs", hubs), rate, c.hubs/float64(hubs))
			redis.add(fmt.Sprintf("%d hubs", hubs), rate, c.store)
			if c.p50 > full {
				continue
			}
			xs[rate], ys[rate] = append(xs[rate], []float64{1, float64(hubs)}), append(ys[rate], c.store)
		}
	}
	if kind == oneRedis {
		s.Charts = []chart{each, redis}
	}
	for _, rate := range d.size.rates {
		if len(xs[rate]) < 2 {
			continue
		}
		k := fit(xs[rate], ys[rate])
		s.Notes = append(s.Notes, fmt.Sprintf("At %s events a second, CPU of %s, µs = %s + %s·hubs.", measure.Figure(rate), kind, signed(k[0]), signed(k[1])))
	}
	s.Notes = append(s.Notes, fmt.Sprintf("All hubs have one member in each of %d rooms, without history. Where p50 is above %d ms, the machine had no CPU left; that is in no fit.", rateRooms, full))
	return s, nil
}

// ratesOf measures an event at each of the rates, on so many hubs.
func (d *driver) ratesOf(kind storeKind, hubs int) (samples []costSample, err error) {
	z := d.size
	on, err := d.start(kind)
	if err != nil {
		return nil, err
	}
	f, err := newFleetOn(d.ctx, on, hubs, hubSetup{}, Crowd{})
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
	idle, err := f.quietest(z.costLength)
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
