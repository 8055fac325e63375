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
	heard               int // hubs that hear of its events
	samples             []costSample
}

// A costSample is one measurement: per event, but for the latencies.
type costSample struct {
	worker, hubs, store float64 // CPU, µs; the hubs are those with clients or without, but not the worker
	busiest             float64 // CPU, µs, of the node of a Cluster that has used most
	in, out             float64 // bytes to and from the store
	p50, p99            float64 // ms
	rate                float64 // events per second, as it came to be
}

// x is what the cost of a spot is linear in: a constant, the hubs that hear, and the members on all of
// them.
func (s *spot) x() []float64 {
	return []float64{1, float64(s.heard), float64(s.hubs * s.members)}
}

// median returns the median of one figure of the samples.
func (s *spot) median(figure func(costSample) float64) float64 {
	var values []float64
	for _, sample := range s.samples {
		values = append(values, figure(sample))
	}
	return median(values)
}

// costStages returns the rooms to measure, in stages that have the hubs that are heard in their rooms. Redis
// has one stage, since an event is heard by hubs with members only. PostgreSQL tells all hubs, so
// that a stage has as many as one of its rooms, and the last a room on one of them in addition.
func (z *size) costStages(kind storeKind) (stages [][]*spot) {
	var all []*spot
	for _, hubs := range z.costHubs {
		var stage []*spot
		for _, members := range z.costMembers {
			stage = append(stage, &spot{room: len(all) + len(stage), hubs: hubs, members: members, heard: hubs})
		}
		all = append(all, stage...)
		stages = append(stages, stage)
	}
	if kind != postgreSQL {
		return [][]*spot{all}
	}
	last := len(stages) - 1
	stages[last] = append(stages[last], &spot{room: len(all), hubs: 1, members: 1, heard: z.costHubs[last]})
	return stages
}

// cost measures what an event costs against the hubs that hear it and the members on each, fits it, and
// compares what the smaller rooms predict with the largest.
func (d *driver) cost(kind storeKind, history int) (s section, err error) {
	z := d.size
	on, err := d.start(kind)
	if err != nil {
		return s, err
	}
	f, err := newFleetOn(d.ctx, on, 0, hubSetup{History: history}, Crowd{History: history > 0})
	if err != nil {
		return s, err
	}
	defer f.close()
	var spots []*spot
	var idle idleCost
	for _, stage := range z.costStages(kind) {
		if idle, err = d.costStage(f, stage); err != nil {
			return s, err
		}
		spots = append(spots, stage...)
	}
	s = costSection(spots, kind, history)
	s.Notes = append(s.Notes, fmt.Sprintf("%d hubs with %d clients and a worker that sends %s events a second, rounds: %d. What the hubs, the worker and %s use without events is subtracted: %s, %s and %s ms a second.",
		len(f.hubs), f.clients, measure.Figure(z.costRate), z.costRounds, kind, measure.Figure(idle.hubs*1e3), measure.Figure(idle.worker*1e3), measure.Figure(idle.store*1e3)))
	return s, nil
}

// costStage starts the hubs that a stage lacks, has its clients enter, and measures its rooms.
func (d *driver) costStage(f *fleet, stage []*spot) (idle idleCost, err error) {
	z := d.size
	var places []Place
	for _, p := range stage {
		for len(f.hubs) < p.heard {
			if err := f.addHub(f.setup.URL); err != nil {
				return idle, err
			}
		}
		for i := range p.hubs * p.members {
			places = append(places, Place{Hub: i % p.hubs, First: p.room, Count: 1})
		}
	}
	if err := f.tellServers(); err != nil {
		return idle, err
	}
	if err := f.enter(places); err != nil {
		return idle, err
	}
	if idle, err = f.quietest(z.costLength); err != nil {
		return idle, err
	}
	for range z.costRounds {
		for _, i := range rand.Perm(len(stage)) {
			sample, err := f.sample(Publication{First: stage[i].room, Groups: 1, Rate: z.costRate, Events: int(z.costRate * z.costLength.Seconds())}, idle)
			if err != nil {
				return idle, err
			}
			stage[i].samples = append(stage[i].samples, sample)
		}
	}
	return idle, nil
}

// An idleCost is what a fleet uses per second in which nothing is sent, in seconds of CPU.
type idleCost struct{ worker, hubs, store, commands float64 }

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
		store:    (end.hubs.store.CPU - begin.hubs.store.CPU).Seconds() / seconds,
		commands: float64(end.hubs.store.Commands-begin.hubs.store.Commands) / seconds,
	}, nil
}

// quietest measures that twice, and returns it of the time in which less was used: processes that have just
// started may have something to do yet.
func (f *fleet) quietest(length time.Duration) (idleCost, error) {
	first, err := f.idle(length)
	if err != nil {
		return first, err
	}
	second, err := f.idle(length)
	if first.hubs < second.hubs {
		second = first
	}
	return second, err
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
	used := end.hubs.store.minus(begin.hubs.store)
	used.In += end.worker.sent - begin.worker.sent + end.hubs.sent - begin.hubs.sent
	used.Out += end.worker.received - begin.worker.received + end.hubs.received - begin.hubs.received
	for _, node := range used.Nodes {
		c.busiest = max(c.busiest, (node.Seconds()-idle.store*seconds/float64(len(used.Nodes)))*1e6/events)
	}
	return costSample{
		busiest: c.busiest,
		worker:  ((end.worker.hubs - begin.worker.hubs).Seconds() - idle.worker*seconds) * 1e6 / events,
		hubs:    ((end.hubs.hubs - begin.hubs.hubs).Seconds() - idle.hubs*seconds) * 1e6 / events,
		store:   (used.CPU.Seconds() - idle.store*seconds) * 1e6 / events,
		in:      float64(used.In) / events, out: float64(used.Out) / events,
		rate: events / seconds,
		p50:  float64(found.Latency.Quantile(0.5)) / 1e6, p99: float64(found.Latency.Quantile(0.99)) / 1e6,
	}, nil
}

// A costFigure is a figure of a spot that is fitted, with the constants that it has: the first, that of
// the hubs, and that of the members.
type costFigure struct {
	name      string
	constants int
	value     func(costSample) float64
}

func costFigures(kind storeKind) []costFigure {
	return []costFigure{
		{"CPU of the hubs, µs", 3, func(c costSample) float64 { return c.hubs }},
		{"CPU of the worker, µs", 1, func(c costSample) float64 { return c.worker }},
		{fmt.Sprintf("CPU of %s, µs", kind), 2, func(c costSample) float64 { return c.store }},
		{fmt.Sprintf("bytes from %s", kind), 2, func(c costSample) float64 { return c.out }},
	}
}

// costSection fits the figures to all spots but those with the most hubs, and compares these.
func costSection(spots []*spot, kind storeKind, history int) section {
	figures := costFigures(kind)
	s := section{
		Name: kind.scenario("cost"), Title: "What an event costs" + kind.where(),
		Head: []string{"hubs", "members on each", figures[0].name, "predicted", "off", figures[1].name, figures[2].name, "predicted", "off", fmt.Sprintf("bytes to %s", kind), "from it", "p50, ms", "p99, ms"},
	}
	if history > 0 {
		s.Name, s.Title = kind.scenario("cost-history"), "What an event costs in a room with history"+kind.where()
	}
	most := 0
	for _, p := range spots {
		most = max(most, p.heard)
	}
	var constants [][]float64
	for _, figure := range figures {
		var xs [][]float64
		var ys []float64
		for _, p := range spots {
			if p.heard < most {
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
	if kind == oneRedis {
		for _, of := range []string{"all hubs", "Redis"} {
			s.Charts = append(s.Charts, chart{Title: s.Title + ": " + of, X: "hubs with members (dashed: predicted from those below the most)", Y: "CPU, µs per event"})
		}
	}
	for _, p := range spots {
		value := func(i int) float64 { return p.median(figures[i].value) }
		hubs, store := predict(constants[0], p.x()), predict(constants[2], p.x())
		where := fmt.Sprint(p.hubs)
		if p.heard != p.hubs {
			where = fmt.Sprintf("%d of %d", p.hubs, p.heard)
		}
		s.Rows = append(s.Rows, []string{
			where, fmt.Sprint(p.members), measure.Figure(value(0)), measure.Figure(hubs), percent(hubs/value(0) - 1),
			measure.Figure(value(1)), measure.Figure(value(2)), measure.Figure(store), percent(store/value(2) - 1),
			measure.Figure(p.median(func(c costSample) float64 { return c.in })), measure.Figure(value(3)),
			measure.Figure(p.median(func(c costSample) float64 { return c.p50 })), measure.Figure(p.median(func(c costSample) float64 { return c.p99 })),
		})
		for i := range s.Charts {
			s.Charts[i].add(fmt.Sprintf("%d on each", p.members), float64(p.hubs), []float64{value(0), value(2)}[i])
			s.Charts[i].add(fmt.Sprintf("%d on each"+dashes, p.members), float64(p.hubs), []float64{hubs, store}[i])
		}
	}
	return s
}

// groups measures what an event costs, and what a quiet fleet costs, against the number of rooms. Each
// room has one member on each of so many hubs, and each client is in many rooms.
func (d *driver) groups(kind storeKind, history int) (s section, err error) {
	z := d.size
	hubs := z.costHubs[len(z.costHubs)-1]
	on, err := d.start(kind)
	if err != nil {
		return s, err
	}
	f, err := newFleetOn(d.ctx, on, hubs, hubSetup{History: history}, Crowd{History: history > 0})
	if err != nil {
		return s, err
	}
	defer f.close()
	s = section{
		Name: kind.scenario("groups"), Title: "What many rooms cost" + kind.where(),
		Head: []string{"rooms", "subscriptions", "CPU of the hubs, µs per event", "of the worker", "of " + kind.String(), "p50, ms", "p99, ms", "quiet: CPU of the hubs, ms/s", "of " + kind.String(), "commands/s"},
	}
	if history > 0 {
		s.Name, s.Title = kind.scenario("groups-history"), "What many rooms with history cost"+kind.where()
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
			measure.Figure(c.hubs), measure.Figure(c.worker), measure.Figure(c.store), measure.Figure(c.p50), measure.Figure(c.p99),
			measure.Figure(idle.hubs * 1e3), measure.Figure(idle.store * 1e3), measure.Figure(idle.commands),
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
