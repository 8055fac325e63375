//go:build linux

package main

import (
	"fmt"
	"time"

	"github.com/seed-29c60982/grouphub/bench/internal/measure"
)

// largeEvents are how many events the large room is sent, one every second.
const largeEvents = 3

// connections fills a fleet with as many connections as its processes have files for, and measures what
// that takes, and how long an event takes to a room, and to half of all.
func (d *driver) connections() (s section, err error) {
	z := d.size
	hubs := z.costHubs[len(z.costHubs)-1]
	f, err := newFleet(d.ctx, hubs, hubSetup{}, Crowd{})
	if err != nil {
		return s, err
	}
	defer f.close()
	empty, err := f.heaps()
	if err != nil {
		return s, err
	}
	var places []Place
	for i := range hubs * z.filled {
		place := Place{Hub: i % hubs, Count: 1} // in the large room
		if i/hubs%2 == 1 {
			place.First = 1 + i/hubs/2%z.filledRooms
		}
		places = append(places, place)
	}
	before, err := f.snap()
	if err != nil {
		return s, err
	}
	began := time.Now()
	if err := f.enter(places); err != nil {
		return s, err
	}
	entered := time.Since(began)
	after, err := f.snap()
	if err != nil {
		return s, err
	}
	full, err := f.heaps()
	if err != nil {
		return s, err
	}
	idle, err := f.idle(z.idleLength)
	if err != nil {
		return s, err
	}
	small, err := f.sample(Publication{First: 1, Groups: z.filledRooms, Rate: z.costRate, Events: int(z.costRate * z.costLength.Seconds())}, idle)
	if err != nil {
		return s, err
	}
	large, err := f.sample(Publication{Groups: 1, Rate: 1, Events: largeEvents}, idle)
	if err != nil {
		return s, err
	}
	n := float64(f.clients)
	s = section{Name: "connections", Title: "As many connections as there are files for", Head: []string{"", ""}}
	s.column(
		[2]string{"connections, hubs", measure.Figure(n) + ", " + fmt.Sprint(hubs)},
		[2]string{"until all are connected, s", measure.Figure(entered.Seconds())},
		[2]string{"hubs' CPU for each connection, µs", measure.Figure((after.hubs.hubs - before.hubs.hubs).Seconds() * 1e6 / n)},
		[2]string{"hubs' live heap for each connection, KiB", measure.Figure(float64(full-empty) / 1024 / n)},
		[2]string{"quiet: hubs' and Redis' CPU, ms/s", measure.Figure(idle.hubs*1e3) + ", " + measure.Figure(idle.store*1e3)},
		[2]string{fmt.Sprintf("an event to one of %d rooms on all hubs: hubs' CPU, ms", z.filledRooms), measure.Figure(small.hubs / 1e3)},
		[2]string{"from GroupSend to client, p50 and p99, ms", measure.Figure(small.p50) + ", " + measure.Figure(small.p99)},
		[2]string{"an event to half of all connections: hubs' CPU, ms", measure.Figure(large.hubs / 1e3)},
		[2]string{"CPU for each member, µs", measure.Figure(large.hubs / (n / 2))},
		[2]string{"from GroupSend to client, p50 and p99 (half of all), ms", measure.Figure(large.p50) + ", " + measure.Figure(large.p99)},
	)
	s.Notes = []string{fmt.Sprintf("%d connections on each hub, half of them in one room, the others in rooms with members on all hubs. The events to rooms are %s a second, those to half of all one a second. Clients and hubs share the machine, so that the latter latencies are as much the clients'.",
		z.filled, measure.Figure(z.costRate))}
	return s, nil
}

// heaps adds up the live heaps of the hubs.
func (f *fleet) heaps() (sum int64, err error) {
	for _, hub := range f.hubs {
		var bytes int64
		if err := hub.control.Call("Hub.Heap", 0, &bytes); err != nil {
			return 0, err
		}
		sum += bytes
	}
	return sum, nil
}
