//go:build linux

package main

import (
	"fmt"
	"math"
	"net/rpc"
	"time"

	"github.com/seed-29c60982/grouphub/bench/internal/measure"
)

// What happens in a soak, and how often.
const (
	soakStep    = time.Second      // some clients lose their connection, and as many ask something
	soakLosses  = 300              // one client in so many does, each time
	soakLogout  = 5 * time.Second  // a user is logged out and logs in again, and some clients go away for a while
	soakAway    = 30 * time.Second // how long they are away, at the most: rooms have to keep more than that
	soakSample  = 10 * time.Second // memory and goroutines are looked at, and what all clients have
	soakReplace = 30 * time.Second // a hub is replaced, in every second turn by a crash
	soakGrowth  = 0.05             // by which the memory may grow from the first third to the last
	soakJudged  = 15 * time.Minute // memory is judged only if the soak takes no less: rooms have to have filled their histories
	soakHistory = 50               // events that rooms keep
	soakStreams = 5                // one client in so many has an event stream
)

// presenceTimeout is how long the members of a hub that has crashed may still be listed.
const presenceTimeout = 90 * time.Second

// A soak has everything happen to a fleet for a long time. The first hub lives throughout.
type soak struct {
	*driver
	fleet   *fleet
	every   time.Duration // between two replacements
	found   Found
	turns   int // hubs that were replaced
	logouts int
	began   time.Time
	past    Past      // of the last sample
	behind  Behind    // clients that lacked something for a whole sample, all samples together
	heaps   []float64 // of the first hub, KiB for each of its connections
	extra   []float64 // goroutines of the first hub, without one for each connection
	memory  chart
}

// soaking returns the scenario that lasts so long.
func soaking(length, every time.Duration) scenario {
	return scenario{"soak", oneRedis, func(d *driver) (section, error) {
		s := &soak{driver: d, every: every, memory: chart{Title: "Soak: memory of the hub that lives throughout", X: "seconds", Y: "KiB per connection"}}
		return s.run(length)
	}}
}

// boards is how many dashboards there are: one for three rooms.
func (s *soak) boards() int { return (s.size.soakRooms + 2) / 3 }

// away is how long clients are away, half of what rooms keep at the most.
func (s *soak) away() time.Duration {
	kept := soakHistory / (s.size.soakRate / float64(s.size.soakRooms))
	return min(soakAway, time.Duration(kept/2*float64(time.Second)))
}

// places spreads the clients over the hubs, and gives each a room, a dashboard and a user.
func (s *soak) places() (places []Place) {
	z := s.size
	for i := range z.soakClients {
		places = append(places, Place{
			Hub: i % z.soakHubs, First: i / z.soakHubs % z.soakRooms, Count: 1, Board: 1 + i%s.boards(),
			User: fmt.Sprint("user", i), Stream: i%soakStreams == 0,
		})
	}
	return places
}

func (s *soak) run(length time.Duration) (result section, err error) {
	z := s.size
	if s.fleet, err = newFleet(s.ctx, z.soakHubs, hubSetup{History: soakHistory, Announce: true}, Crowd{History: true, Return: true, Fewest: true}); err != nil {
		return result, err
	}
	f := s.fleet
	defer f.close()
	places := s.places()
	if err := f.enter(places); err != nil {
		return result, err
	}
	s.found.reset()
	s.began = time.Now()
	call := f.begin(Publication{Groups: z.soakRooms, Rate: z.soakRate})
	changes := f.worker.control.Go("Hub.Change", Changes{Boards: s.boards(), Rate: z.soakRate / 2}, new(int), nil)
	for tick, due := 0, s.began; time.Since(s.began) < length; tick++ {
		time.Sleep(time.Until(due))
		due = time.Now().Add(soakStep) // what a step has taken longer is not made up for
		if err := s.step(time.Duration(tick) * soakStep); err != nil {
			return result, fmt.Errorf("after %s: %w", time.Since(s.began).Round(time.Second), err)
		}
	}
	members, err := s.end(changes, call, places)
	if err != nil {
		return result, err
	}
	v, err := f.judge(s.found)
	if err != nil {
		return result, err
	}
	wrong, err := s.miscounted(members)
	if err != nil {
		return result, err
	}
	return s.section(v, wrong), nil
}

// end has all clients come back, ends the sending, and waits until everybody has been told what is
// true. It returns the members of each room.
func (s *soak) end(changes, call *rpc.Call, places []Place) (members map[int]int, err error) {
	f := s.fleet
	err = f.await(soakAway+liveTimeout, func(s Standing) (bool, string) {
		return s.Live == f.clients, fmt.Sprintf("%d of %d clients are live", s.Live, f.clients)
	})
	if err != nil {
		return nil, err
	}
	if err := f.stopChanges(changes); err != nil {
		return nil, err
	}
	if _, err := f.finish(call); err != nil {
		return nil, err
	}
	members = make(map[int]int)
	for _, p := range places {
		members[p.First]++
	}
	past, err := f.past(s.boards())
	if err != nil {
		return nil, err
	}
	past.Members = members
	for deadline := time.Now().Add(presenceTimeout); ; time.Sleep(time.Second) {
		b, err := f.behind(past)
		if err != nil {
			return nil, err
		}
		if b.Sum() == 0 || time.Now().After(deadline) {
			s.behind.add(b)
			return members, nil
		}
	}
}

// step does what is due.
func (s *soak) step(at time.Duration) error {
	f := s.fleet
	for _, load := range f.loads {
		some := max(f.clients/len(f.loads)/soakLosses, 1)
		if err := load.control.Call("Load.Leave", Leaving{Clients: some}, new(int)); err != nil {
			return err
		}
		if err := load.control.Call("Load.Ask", some, new(int)); err != nil {
			return err
		}
		if at%soakLogout == 0 {
			if err := load.control.Call("Load.Leave", Leaving{Clients: max(some/2, 1), Away: s.away()}, new(int)); err != nil {
				return err
			}
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
	if at%s.every == s.every-soakStep {
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
		if err := f.addHub(f.setup.URL); err != nil {
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

// sample looks at the first hub, at what the clients have found, and whether those that have been live
// since the last sample have all that had been sent by then.
func (s *soak) sample() error {
	found, err := s.fleet.find()
	if err != nil {
		return err
	}
	s.found.add(&found)
	b, err := s.fleet.behind(s.past)
	if err != nil {
		return err
	}
	s.behind.add(b)
	if s.past, err = s.fleet.past(s.boards()); err != nil {
		return err
	}
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
	if len(s.heaps)%6 == 1 || b.Sum() > 0 {
		fmt.Fprintf(s.log, "soak, %s: %.1f KiB for each of %.0f connections, %d goroutines beside them, %d missing, %d doubled, %d Resyncs, behind %+v\n",
			time.Since(s.began).Round(time.Second), float64(bytes)/1024/conns, conns, u.Goroutines-int(conns), len(s.found.Tally.Missing), s.found.Tally.Doubled, s.found.Tally.Resyncs, s.behind)
	}
	return nil
}

// miscounted returns how many rooms have another Count than they should, once that has had its time.
func (s *soak) miscounted(members map[int]int) (wrong int, err error) {
	for deadline := time.Now().Add(presenceTimeout); ; time.Sleep(time.Second) {
		wrong = 0
		for room, want := range members {
			var n int
			if err := s.fleet.worker.control.Call("Hub.Count", room, &n); err != nil {
				return 0, err
			}
			if n != want {
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
		Notes: []string{fmt.Sprintf("%d clients on %d hubs, each in one of %d rooms with history and Announce and on one of %d dashboards with Snapshot and Latest, half of which have history, too; one in %d has an event stream, the others WebSockets. %s events and %s changes a second. Every second one client in %d loses its connection, and as many ask something; every %s a user is logged out, and half as many are away for %s; every %s a hub is replaced, every other time by a crash. The memory is that of the hub that lives throughout. Every %s it is compared what all clients have that were live since the last time with what had been sent by then.",
			z.soakClients, z.soakHubs, z.soakRooms, s.boards(), soakStreams, measure.Figure(z.soakRate), measure.Figure(z.soakRate/2), soakLosses, soakLogout, s.away(), s.every, soakSample)},
	}
	r.column(
		[2]string{"seconds", measure.Figure(took.Seconds())},
		[2]string{"events delivered", measure.Figure(float64(s.found.Tally.Received))},
		[2]string{"lost", fmt.Sprint(v.lost)},
		[2]string{"doubled", fmt.Sprint(v.doubled)},
		[2]string{"clients with a Resync", fmt.Sprint(v.resynced())},
		[2]string{"clients that lacked an event, a value or an answer for 10 s, or were told another count at the end", fmt.Sprintf("%d, %d, %d, %d", s.behind.Events, s.behind.Values, s.behind.Answers, s.behind.Members)},
		[2]string{"connections that came back", measure.Figure(float64(s.found.Back.Total))},
		[2]string{"hubs replaced", fmt.Sprint(s.turns)},
		[2]string{"users logged out", fmt.Sprint(s.logouts)},
		[2]string{"rooms with a wrong Count at the end", fmt.Sprint(wrong)},
		[2]string{"GroupSend to client, p50 and p99, ms", measure.Figure(float64(s.found.Latency.Quantile(.5))/1e6) + ", " + measure.Figure(float64(s.found.Latency.Quantile(.99))/1e6)},
		[2]string{"live heap per connection, first and last third, KiB", measure.Figure(first) + ", " + measure.Figure(last)},
		[2]string{"goroutines beside one per connection, first and last third", measure.Figure(firstExtra) + ", " + measure.Figure(lastExtra)},
	)
	if v.lost+v.doubled+v.resynced()+wrong+s.behind.Sum() > 0 {
		r.Failures = append(r.Failures, fmt.Sprintf("%d lost, %d doubled, %d clients with a Resync, %d rooms with a wrong Count, clients behind: %+v", v.lost, v.doubled, v.resynced(), wrong, s.behind))
	}
	if took > soakJudged && math.Abs(last/first-1) > soakGrowth {
		r.Failures = append(r.Failures, fmt.Sprintf("the memory went from %.1f to %.1f KiB per connection", first, last))
	}
	return r
}
