//go:build linux

package main

import (
	"fmt"
	"math"
	"time"

	"github.com/seed-29c60982/grouphub/bench/internal/measure"
)

// What happens in a soak, and how often.
const (
	soakStep    = time.Second      // one client in a hundred loses its connection
	soakLogout  = 5 * time.Second  // a user is logged out, and logs in again
	soakSample  = 10 * time.Second // memory and goroutines are looked at
	soakReplace = 30 * time.Second // a hub is replaced, in every second turn by a crash
	soakGrowth  = 0.05             // by which the memory may grow from the first third to the last
	soakJudged  = 15 * time.Minute // memory is judged only if the soak takes no less: rooms have to have filled their histories
	soakHistory = 50               // events that rooms keep
)

// presenceTimeout is how long the members of a hub that has crashed may still be listed.
const presenceTimeout = 90 * time.Second

// A soak has everything happen to a fleet for a long time. The first hub lives throughout.
type soak struct {
	*driver
	fleet   *fleet
	found   Found
	turns   int // hubs that were replaced
	logouts int
	began   time.Time
	heaps   []float64 // of the first hub, KiB for each of its connections
	extra   []float64 // goroutines of the first hub, without one for each connection
	memory  chart
}

// soaking returns the scenario that lasts so long.
func soaking(length time.Duration) scenario {
	return scenario{"soak", func(d *driver) (section, error) {
		s := &soak{driver: d, memory: chart{Title: "Soak: memory of the hub that lives throughout", X: "seconds", Y: "KiB per connection"}}
		return s.run(length)
	}}
}

func (s *soak) run(length time.Duration) (result section, err error) {
	z := s.size
	if s.fleet, err = newFleet(s.ctx, z.deployHubs, hubSetup{History: soakHistory, Announce: true}, Crowd{History: true, Return: true}); err != nil {
		return result, err
	}
	f := s.fleet
	defer f.close()
	places := z.crowdPlaces()
	for i := range places {
		places[i].User = fmt.Sprint("user", i)
	}
	if err := f.enter(places); err != nil {
		return result, err
	}
	s.found.reset()
	s.began = time.Now()
	call := f.begin(Publication{Groups: z.deployRooms, Rate: z.deployRate})
	ticks := int(length / soakStep)
	for tick := range ticks {
		time.Sleep(time.Until(s.began.Add(time.Duration(tick) * soakStep)))
		if err := s.step(time.Duration(tick) * soakStep); err != nil {
			return result, fmt.Errorf("after %s: %w", time.Since(s.began).Round(time.Second), err)
		}
	}
	if err := f.awaitLive(liveTimeout); err != nil {
		return result, err
	}
	if _, err := f.finish(call); err != nil {
		return result, err
	}
	v, err := f.judge(s.found)
	if err != nil {
		return result, err
	}
	wrong, err := s.miscounted(places)
	if err != nil {
		return result, err
	}
	return s.section(v, wrong), nil
}

// step does what is due.
func (s *soak) step(at time.Duration) error {
	f := s.fleet
	for _, load := range f.loads {
		if err := load.control.Call("Load.Leave", f.clients/len(f.loads)/100, new(int)); err != nil {
			return err
		}
	}
	if at%soakLogout == 0 {
		s.logouts++
		if err := f.worker.control.Call("Hub.Logout", fmt.Sprint("user", s.logouts%f.clients), new(int64)); err != nil {
			return err
		}
	}
	if at%soakSample == 0 {
		if err := s.sample(); err != nil {
			return err
		}
	}
	if at%soakReplace == soakReplace-soakStep {
		return s.replace()
	}
	return nil
}

// replace replaces a hub, but never the first, and has the clients spread again.
func (s *soak) replace() error {
	f := s.fleet
	s.turns++
	old := f.hubs[0]
	for _, hub := range f.hubs[1:] {
		if !hub.ended { // the one that was started first
			old = hub
			break
		}
	}
	if s.turns%2 == 1 {
		if _, err := f.replace(old, nil); err != nil {
			return err
		}
	} else {
		if err := f.addHub(f.setup.Redis); err != nil {
			return err
		}
		old.kill()
		if err := f.tellServers(); err != nil {
			return err
		}
	}
	if err := f.await(liveTimeout, func(st Standing) (bool, string) {
		return st.Live > f.clients*95/100, fmt.Sprintf("%d of %d clients are live", st.Live, f.clients)
	}); err != nil {
		return err
	}
	_, err := f.even()
	return err
}

// sample looks at the first hub, and at what the clients have found.
func (s *soak) sample() error {
	found, err := s.fleet.find()
	if err != nil {
		return err
	}
	s.found.add(&found)
	hub := s.fleet.hubs[0].control
	var bytes int64
	var u Usage
	if err := hub.Call("Hub.Heap", 0, &bytes); err != nil {
		return err
	}
	if err := hub.Call("Hub.Usage", 0, &u); err != nil {
		return err
	}
	conns := float64(max(u.Stats.Conns, 1))
	s.heaps = append(s.heaps, float64(bytes)/1024/conns)
	s.extra = append(s.extra, float64(u.Goroutines)-conns)
	s.memory.add("live heap", time.Since(s.began).Seconds(), float64(bytes)/1024/conns)
	return nil
}

// miscounted returns how many rooms have another Count than they should, once that has had its time.
func (s *soak) miscounted(places []Place) (wrong int, err error) {
	want := make(map[int]int)
	for _, p := range places {
		want[p.First]++
	}
	for deadline := time.Now().Add(presenceTimeout); ; time.Sleep(time.Second) {
		wrong = 0
		for room, members := range want {
			var n int
			if err := s.fleet.worker.control.Call("Hub.Count", room, &n); err != nil {
				return 0, err
			}
			if n != members {
				wrong++
			}
		}
		if wrong == 0 || time.Now().After(deadline) {
			return wrong, nil
		}
	}
}

func (s *soak) section(v verdict, wrong int) section {
	z, third := s.size, len(s.heaps)/3
	first, last := median(s.heaps[:max(third, 1)]), median(s.heaps[len(s.heaps)-max(third, 1):])
	firstExtra, lastExtra := median(s.extra[:max(third, 1)]), median(s.extra[len(s.extra)-max(third, 1):])
	took := time.Since(s.began)
	r := section{
		Name: "soak", Title: "Everything at once, for a while", Head: []string{"", ""}, Charts: []chart{s.memory},
		Notes: []string{fmt.Sprintf("%d hubs with %d clients each in %d rooms with history and Announce, and %s events a second; every second one client in a hundred loses its connection, every %s a user is logged out, and every %s a hub is replaced, every other time by a crash. The memory is that of the hub that lives throughout.",
			z.deployHubs, z.deployClients, z.deployRooms, measure.Figure(z.deployRate), soakLogout, soakReplace)},
	}
	r.column(
		[2]string{"seconds", measure.Figure(took.Seconds())},
		[2]string{"events delivered", measure.Figure(float64(s.found.Tally.Received))},
		[2]string{"lost", fmt.Sprint(v.lost)},
		[2]string{"doubled", fmt.Sprint(v.doubled)},
		[2]string{"clients with a Resync", fmt.Sprint(v.resynced())},
		[2]string{"connections that came back", measure.Figure(float64(s.found.Back.Total))},
		[2]string{"hubs replaced", fmt.Sprint(s.turns)},
		[2]string{"users logged out", fmt.Sprint(s.logouts)},
		[2]string{"rooms with a wrong Count at the end", fmt.Sprint(wrong)},
		[2]string{"GroupSend to client, p50 and p99, ms", measure.Figure(float64(s.found.Latency.Quantile(.5))/1e6) + ", " + measure.Figure(float64(s.found.Latency.Quantile(.99))/1e6)},
		[2]string{"live heap per connection, first and last third, KiB", measure.Figure(first) + ", " + measure.Figure(last)},
		[2]string{"goroutines beside one per connection, first and last third", measure.Figure(firstExtra) + ", " + measure.Figure(lastExtra)},
	)
	if v.lost+v.doubled+v.resynced()+wrong > 0 {
		r.Failures = append(r.Failures, fmt.Sprintf("%d lost, %d doubled, %d clients with a Resync, %d rooms with a wrong Count", v.lost, v.doubled, v.resynced(), wrong))
	}
	if took > soakJudged && math.Abs(last/first-1) > soakGrowth {
		r.Failures = append(r.Failures, fmt.Sprintf("the memory went from %.1f to %.1f KiB per connection", first, last))
	}
	return r
}
