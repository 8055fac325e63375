//go:build linux

package main

import (
	"fmt"
	"time"

	"github.com/seed-29c60982/grouphub/bench/internal/measure"
)

const (
	// logoutPause is the time between two logouts, which do not wait for each other.
	logoutPause = 10 * time.Millisecond
	// logoutTimeout is how long the last connection of a user may stay open.
	logoutTimeout = 10 * time.Second
)

// logout logs out users who have a connection on each hub, beside others who stay.
func (d *driver) logout() (s section, err error) {
	z := d.size
	hubs := z.costHubs[len(z.costHubs)-1]
	f, err := newFleet(d.ctx, hubs, hubSetup{}, Crowd{})
	if err != nil {
		return s, err
	}
	defer f.close()
	var places []Place
	user := func(i int) string { return fmt.Sprint("user", i) }
	for i := range z.users {
		for hub := range hubs {
			places = append(places, Place{Hub: hub, User: user(i)})
		}
	}
	if err := f.enter(places); err != nil {
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
	logouts := z.users / 2
	asked := make(map[string]int64)
	for i := range logouts {
		var at int64
		if err := f.worker.control.Call("Hub.Logout", user(i), &at); err != nil {
			return s, err
		}
		asked[user(i)] = at
		time.Sleep(logoutPause)
	}
	left := f.clients - logouts*hubs
	err = f.await(logoutTimeout, func(s Standing) (bool, string) {
		return s.Live <= left, fmt.Sprintf("%d connections are open, and not %d", s.Live, left)
	})
	if err != nil {
		return s, err
	}
	end, err := f.snap()
	if err != nil {
		return s, err
	}
	found, err := f.find()
	if err != nil {
		return s, err
	}
	var took measure.Histogram
	for name, at := range asked {
		took.Record(found.Logouts[name].Last - at)
		if n := found.Logouts[name].Closed; n != hubs {
			s.Failures = append(s.Failures, fmt.Sprintf("%d of %d connections of %s were closed", n, hubs, name))
		}
	}
	if len(found.Closes) != 1 {
		s.Failures = append(s.Failures, fmt.Sprintf("connections were closed with other codes: %v", found.Closes))
	}
	seconds, n := end.hubs.at.Sub(begin.hubs.at).Seconds(), float64(logouts)
	used := end.hubs.store.minus(begin.hubs.store)
	s.Name, s.Title = "logout", "A logout in a fleet"
	s.Head = []string{"hubs", "connections of the user", "until the last is closed, p50, ms", "p99, ms", "hubs' CPU, µs", "Redis' CPU, µs", "bytes to Redis", "from Redis"}
	s.Rows = [][]string{{
		fmt.Sprint(hubs), fmt.Sprint(hubs), measure.Figure(float64(took.Quantile(.5)) / 1e6), measure.Figure(float64(took.Quantile(.99)) / 1e6),
		measure.Figure(((end.hubs.hubs - begin.hubs.hubs).Seconds() - idle.hubs*seconds) * 1e6 / n),
		measure.Figure((used.CPU.Seconds() - idle.store*seconds) * 1e6 / n),
		measure.Figure(float64(used.In) / n), measure.Figure(float64(used.Out) / n),
	}}
	s.Notes = []string{fmt.Sprintf("%d users with one connection on each hub, half of whom are logged out by GroupClose, one every %s.", z.users, logoutPause)}
	return s, nil
}
