//go:build linux

package main

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/seed-29c60982/grouphub/bench/internal/measure"
)

// A spot is a room whose members are on some of the hubs, equally many on each.
type spot struct {
	room, hubs, members int // members of each hub
	samples             []costSample
}

// A costSample is one measurement: per event, but for the latencies.
type costSample struct {
	worker, hubs, redis float64 // CPU, µs; the hubs are those with clients or without, but not the worker
	in, out             float64 // bytes to and from Redis
	p50, p99            float64 // ms
	rate                float64 // events per second, as it came to be
}

// x is what the cost of a spot is linear in: a constant, its hubs, and its members on all of them.
func (s *spot) x() []float64 {
	return []float64{1, float64(s.hubs), float64(s.hubs * s.members)}
}

// median returns the median of one figure of the samples.
func (s *spot) median(figure func(costSample) float64) float64 {
	var values []float64
	for _, sample := range s.samples {
		values = append(values, figure(sample))
	}
	return median(values)
}

// cost measures what an event costs against the hubs with members and the members on each, fits it,
// and compares what the smaller rooms predict with the largest.
func (d *driver) cost(history int) (s section, err error) {
	z := d.size
	f, err := newFleet(d.ctx, z.costHubs[len(z.costHubs)-1], hubSetup{History: history}, Crowd{History: history > 0})
	if err != nil {
		return s, err
	}
	defer f.close()
	var spots []*spot
	var places []Place
	for _, hubs := range z.costHubs {
		for _, members := range z.costMembers {
			p := &spot{room: len(spots), hubs: hubs, members: members}
			spots = append(spots, p)
			for i := range hubs * members {
				places = append(places, Place{Hub: i % hubs, First: p.room, Count: 1})
			}
		}
	}
	if err := f.enter(places); err != nil {
		return s, err
	}
	idle, err := f.idle(z.costLength)
	if err != nil {
		return s, err
	}
	for range z.costRounds {
		for _, i := range rand.Perm(len(spots)) {
			sample, err := f.sample(Publication{First: spots[i].room, Groups: 1, Rate: z.costRate, Events: int(z.costRate * z.costLength.Seconds())}, idle)
			if err != nil {
				return s, err
			}
			spots[i].samples = append(spots[i].samples, sample)
		}
	}
	s = costSection(spots, history)
	s.Notes = append(s.Notes, fmt.Sprintf("%d hubs with %d clients and a worker that sends %s events a second, rounds: %d. What the hubs, the worker and Redis use without events is subtracted: %s, %s and %s ms a second.",
		len(f.hubs), f.clients, measure.Figure(z.costRate), z.costRounds, measure.Figure(idle.hubs*1e3), measure.Figure(idle.worker*1e3), measure.Figure(idle.redis*1e3)))
	return s, nil
}

// An idleCost is what a fleet uses per second in which nothing is sent, in seconds of CPU.
type idleCost struct{ worker, hubs, redis, commands float64 }

// idle measures that for some time.
func (f *fleet) idle(length time.Duration) (c idleCost, err error) {
	begin, err := f.snap()
	if err != nil {
		return c, err
	}
	time.Sleep(length)
	end, err := f.snap()
	if err != nil {
		return c, err
	}
	seconds := end.hubs.at.Sub(begin.hubs.at).Seconds()
	return idleCost{
		worker:   (end.worker.hubs - begin.worker.hubs).Seconds() / seconds,
		hubs:     (end.hubs.hubs - begin.hubs.hubs).Seconds() / seconds,
		redis:    (end.hubs.redis.CPU - begin.hubs.redis.CPU).Seconds() / seconds,
		commands: float64(end.hubs.redis.Commands-begin.hubs.redis.Commands) / seconds,
	}, nil
}

// A snap is what a fleet has used at one moment.
type snap struct{ worker, hubs usage }

func (f *fleet) snap() (s snap, err error) {
	if s.worker, err = f.usage(f.worker); err != nil {
		return s, err
	}
	s.hubs, err = f.usage(f.hubs...)
	return s, err
}

// sample has the worker send, waits until all clients have it all, and says what that cost.
func (f *fleet) sample(p Publication, idle idleCost) (c costSample, err error) {
	begin, err := f.snap()
	if err != nil {
		return c, err
	}
	if _, err := f.finish(f.begin(p)); err != nil {
		return c, err
	}
	if err := f.complete(); err != nil {
		return c, err
	}
	end, err := f.snap()
	if err != nil {
		return c, err
	}
	found, err := f.find()
	if err != nil {
		return c, err
	}
	if n := len(found.Tally.Missing) + found.Tally.Doubled; n > 0 {
		return c, fmt.Errorf("%d events were lost or doubled", n)
	}
	events, seconds := float64(p.Events), end.hubs.at.Sub(begin.hubs.at).Seconds()
	used := end.hubs.redis.minus(begin.hubs.redis)
	return costSample{
		worker: ((end.worker.hubs - begin.worker.hubs).Seconds() - idle.worker*seconds) * 1e6 / events,
		hubs:   ((end.hubs.hubs - begin.hubs.hubs).Seconds() - idle.hubs*seconds) * 1e6 / events,
		redis:  (used.CPU.Seconds() - idle.redis*seconds) * 1e6 / events,
		in:     float64(used.In) / events, out: float64(used.Out) / events,
		rate: events / seconds,
		p50:  float64(found.Latency.Quantile(0.5)) / 1e6, p99: float64(found.Latency.Quantile(0.99)) / 1e6,
	}, nil
}

// The figures of a spot that are fitted, each with the constants that it has: the first, that of the
// hubs, and that of the members.
var costFigures = []struct {
	name      string
	constants int
	value     func(costSample) float64
}{
	{"hubs' CPU, µs", 3, func(c costSample) float64 { return c.hubs }},
	{"worker's CPU, µs", 1, func(c costSample) float64 { return c.worker }},
	{"Redis' CPU, µs", 2, func(c costSample) float64 { return c.redis }},
	{"bytes from Redis", 2, func(c costSample) float64 { return c.out }},
}

// costSection fits the figures to all spots but those with the most hubs, and compares these.
func costSection(spots []*spot, history int) section {
	s := section{
		Name: "cost", Title: "What an event costs",
		Head: []string{"hubs", "members on each", "hubs' CPU, µs", "predicted", "off", "worker's CPU, µs", "Redis' CPU, µs", "predicted", "off", "bytes to Redis", "from Redis", "p50, ms", "p99, ms"},
	}
	if history > 0 {
		s.Name, s.Title = "cost-history", "What an event costs in a room with history"
	}
	most := spots[len(spots)-1].hubs
	var constants [][]float64
	for _, figure := range costFigures {
		var xs [][]float64
		var ys []float64
		for _, p := range spots {
			if p.hubs < most {
				xs, ys = append(xs, p.x()[:figure.constants]), append(ys, p.median(figure.value))
			}
		}
		k := fit(xs, ys)
		constants = append(constants, k)
		terms := []string{signed(k[0])}
		for i, of := range []string{"hubs", "members"}[:len(k)-1] {
			terms = append(terms, signed(k[i+1])+"·"+of)
		}
		s.Notes = append(s.Notes, fmt.Sprintf("%s = %s, fitted to the rooms on fewer than %d hubs.", figure.name, strings.Join(terms, " + "), most))
	}
	charts := map[int]*chart{}
	for _, p := range spots {
		value := func(i int) float64 { return p.median(costFigures[i].value) }
		hubs, redis := predict(constants[0], p.x()), predict(constants[2], p.x())
		s.Rows = append(s.Rows, []string{
			fmt.Sprint(p.hubs), fmt.Sprint(p.members), measure.Figure(value(0)), measure.Figure(hubs), percent(hubs/value(0) - 1),
			measure.Figure(value(1)), measure.Figure(value(2)), measure.Figure(redis), percent(redis/value(2) - 1),
			measure.Figure(p.median(func(c costSample) float64 { return c.in })), measure.Figure(value(3)),
			measure.Figure(p.median(func(c costSample) float64 { return c.p50 })), measure.Figure(p.median(func(c costSample) float64 { return c.p99 })),
		})
		for i, at := range []float64{value(0), value(2)} {
			if charts[i] == nil {
				charts[i] = &chart{Title: s.Title + ": " + []string{"all hubs", "Redis"}[i], X: "hubs with members (dashed: predicted from those below the most)", Y: "CPU, µs per event"}
			}
			charts[i].add(fmt.Sprintf("%d on each", p.members), float64(p.hubs), at)
			charts[i].add(fmt.Sprintf("%d on each"+dashes, p.members), float64(p.hubs), []float64{hubs, redis}[i])
		}
	}
	s.Charts = []chart{*charts[0], *charts[1]}
	return s
}

// groups measures what an event costs, and what a quiet fleet costs, against the number of rooms. Each
// room has one member on each of so many hubs, and each client is in many rooms.
func (d *driver) groups(history int) (s section, err error) {
	z := d.size
	hubs := z.costHubs[len(z.costHubs)-1]
	f, err := newFleet(d.ctx, hubs, hubSetup{History: history}, Crowd{History: history > 0})
	if err != nil {
		return s, err
	}
	defer f.close()
	s = section{
		Name: "groups", Title: "What many rooms cost",
		Head: []string{"rooms", "subscriptions", "hubs' CPU, µs per event", "worker's", "Redis'", "p50, ms", "p99, ms", "quiet: hubs' CPU, ms/s", "Redis' CPU, ms/s", "commands/s"},
	}
	if history > 0 {
		s.Name, s.Title = "groups-history", "What many rooms with history cost"
	}
	have := 0
	for _, rooms := range z.groups {
		var places []Place
		for first := have; first < rooms; first += z.groupsEach {
			for i := range z.groupsHubs { // the first room is on these hubs, the next client's on the next ones
				places = append(places, Place{Hub: (first/z.groupsEach + i) % hubs, First: first, Count: min(z.groupsEach, rooms-first)})
			}
		}
		have = rooms
		if err := f.enter(places); err != nil {
			return s, err
		}
		idle, err := f.idle(z.idleLength)
		if err != nil {
			return s, err
		}
		c, err := f.sample(Publication{Groups: rooms, Rate: z.costRate, Events: int(z.costRate * 2 * z.costLength.Seconds())}, idle)
		if err != nil {
			return s, err
		}
		s.Rows = append(s.Rows, []string{
			measure.Figure(float64(rooms)), measure.Figure(float64(rooms * z.groupsHubs)),
			measure.Figure(c.hubs), measure.Figure(c.worker), measure.Figure(c.redis), measure.Figure(c.p50), measure.Figure(c.p99),
			measure.Figure(idle.hubs * 1e3), measure.Figure(idle.redis * 1e3), measure.Figure(idle.commands),
		})
	}
	s.Notes = append(s.Notes, fmt.Sprintf("%d hubs; each room has one member on each of %d of them, and each client is in up to %d rooms. Events go to all rooms in turn, %s a second.",
		hubs, z.groupsHubs, z.groupsEach, measure.Figure(z.costRate)))
	return s, nil
}

func signed(v float64) string {
	if v < 0 {
		return "−" + measure.Figure(-v)
	}
	return measure.Figure(v)
}

func percent(v float64) string { return fmt.Sprintf("%+.0f %%", v*100) }
