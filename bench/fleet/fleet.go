//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/rpc"
	"slices"
	"time"

	"github.com/seed-29c60982/grouphub/bench/internal/measure"
)

const (
	// loadClients is how many clients a load generator has at the most. Each is a file.
	loadClients = 15_000
	// watchInterval is how often it is looked whether something has come about.
	watchInterval = 20 * time.Millisecond
)

// A process is a hub, or a load generator.
type process struct {
	*measure.Child
	address address
	control *rpc.Client
	ended   bool
}

// A fleet is some hubs on one store, a worker that sends, and load generators with the clients.
// It belongs to one goroutine, which is locked to its thread.
type fleet struct {
	ctx     context.Context
	store   store // the fleet closes it
	setup   hubSetup
	crowd   Crowd
	hubs    []*process // a hub keeps its place when it has ended
	worker  *process   // a hub without clients
	loads   []*process
	clients int
	sent    map[int]uint32 // last numbers, by room
	unsure  map[Event]bool // events of which it is not known whether they went out
}

// newFleet starts a fleet on one Redis.
func newFleet(ctx context.Context, hubs int, setup hubSetup, crowd Crowd) (*fleet, error) {
	redis, err := startRedis(ctx)
	if err != nil {
		return nil, err
	}
	return newFleetOn(ctx, redis, hubs, setup, crowd)
}

// newFleetOn starts a fleet on a store, which it closes also if it fails.
func newFleetOn(ctx context.Context, on store, hubs int, setup hubSetup, crowd Crowd) (f *fleet, err error) {
	f = &fleet{ctx: ctx, store: on, setup: setup, crowd: crowd, sent: make(map[int]uint32), unsure: make(map[Event]bool)}
	defer func() {
		if err != nil {
			f.close()
		}
	}()
	f.setup.Store, f.setup.URL = on.kind(), on.url()
	if f.worker, err = f.startHub(f.setup.URL); err != nil {
		return f, err
	}
	f.setup.Database = f.worker.address.Control
	for range hubs {
		if err := f.addHub(f.setup.URL); err != nil {
			return f, err
		}
	}
	return f, nil
}

// close ends all processes.
func (f *fleet) close() {
	for _, p := range slices.Concat(f.loads, f.hubs, []*process{f.worker}) {
		if p != nil && !p.ended {
			p.kill()
		}
	}
	f.store.close()
}

func (p *process) kill() {
	p.control.Close()
	p.Kill()
	p.ended = true
}

func (f *fleet) start(what, told string) (*process, error) {
	p := new(process)
	var err error
	if p.Child, err = measure.StartServer(f.ctx, &p.address, what, told); err != nil {
		return nil, err
	}
	if p.control, err = rpc.DialHTTP("tcp", p.address.Control); err != nil {
		p.Kill()
		return nil, err
	}
	return p, nil
}

// startHub starts a hub that finds its store at a URL.
func (f *fleet) startHub(url string) (*process, error) {
	setup := f.setup
	setup.URL = url
	told, err := json.Marshal(setup)
	if err != nil {
		return nil, err
	}
	return f.start("hub", string(told))
}

// addHub starts a hub. Clients hear of it with tellServers.
func (f *fleet) addHub(url string) error {
	hub, err := f.startHub(url)
	if err == nil {
		f.hubs = append(f.hubs, hub)
	}
	return err
}

// tellServers tells the clients which hubs they can go to: all that have not ended, but for those
// that are named.
func (f *fleet) tellServers(except ...*process) error {
	addresses := make([]string, len(f.hubs))
	for i, hub := range f.hubs {
		if !hub.ended && !slices.Contains(except, hub) {
			addresses[i] = hub.address.WebSocket
		}
	}
	for _, load := range f.loads {
		if err := load.control.Call("Load.Servers", addresses, new(int)); err != nil {
			return err
		}
	}
	return nil
}

// enter has clients connect, and returns when all are live.
func (f *fleet) enter(places []Place) error {
	for len(places) > 0 {
		room := len(f.loads)*loadClients - f.clients
		if room == 0 {
			if err := f.addLoad(); err != nil {
				return err
			}
			continue
		}
		part := places[:min(room, len(places))]
		if err := f.loads[len(f.loads)-1].control.Call("Load.Enter", part, new(int)); err != nil {
			return err
		}
		places = places[len(part):]
		f.clients += len(part)
	}
	return f.awaitLive(2 * time.Minute)
}

func (f *fleet) addLoad() error {
	load, err := f.start("load", "")
	if err != nil {
		return err
	}
	f.loads = append(f.loads, load)
	if err := load.control.Call("Load.Behave", f.crowd, new(int)); err != nil {
		return err
	}
	return f.tellServers()
}

// awaitLive returns when all clients are live.
func (f *fleet) awaitLive(limit time.Duration) error {
	return f.await(limit, func(s Standing) (bool, string) {
		return s.Live+s.Away == f.clients, fmt.Sprintf("%d of %d clients are live", s.Live, f.clients-s.Away)
	})
}

// await waits until the clients stand as they should.
func (f *fleet) await(limit time.Duration, done func(Standing) (bool, string)) error {
	for deadline := time.Now().Add(limit); ; time.Sleep(watchInterval) {
		s, err := f.stand()
		if err != nil {
			return err
		}
		ok, state := done(s)
		switch {
		case ok:
			return nil
		case f.ctx.Err() != nil:
			return f.ctx.Err()
		case time.Now().After(deadline):
			return fmt.Errorf("%v later only %s", limit, state)
		}
	}
}

// stand adds up where the load generators stand.
func (f *fleet) stand() (sum Standing, err error) {
	for _, load := range f.loads {
		var s Standing
		if err := load.control.Call("Load.Stand", 0, &s); err != nil {
			return sum, err
		}
		if s.Failure != "" {
			return sum, errors.New(s.Failure)
		}
		sum.Live += s.Live
		sum.Away += s.Away
		sum.Received += s.Received
		for len(sum.Conns) < len(s.Conns) {
			sum.Conns = append(sum.Conns, 0)
		}
		for i, n := range s.Conns {
			sum.Conns[i] += n
		}
	}
	return sum, nil
}

// find adds up what the load generators have found since the last call.
func (f *fleet) find() (sum Found, err error) {
	sum.reset()
	for _, load := range f.loads {
		var found Found
		if err := load.control.Call("Load.Find", 0, &found); err != nil {
			return sum, err
		}
		sum.add(&found)
	}
	return sum, nil
}

// begin has the worker send. The result comes from the channel of the call.
func (f *fleet) begin(p Publication) *rpc.Call {
	return f.worker.control.Go("Hub.Send", p, new(Sending), nil)
}

// finish waits for a worker that sends, and for the clients to have what it has sent.
func (f *fleet) finish(call *rpc.Call) (*Sending, error) {
	if call.Args.(Publication).Events == 0 {
		if err := f.worker.control.Call("Hub.StopSending", 0, new(int)); err != nil {
			return nil, err
		}
	}
	<-call.Done
	if call.Error != nil {
		return nil, call.Error
	}
	sending := call.Reply.(*Sending)
	for i, number := range sending.Numbers {
		f.sent[call.Args.(Publication).First+i] = number
	}
	for _, e := range sending.Uncertain {
		f.unsure[e] = true
	}
	return sending, nil
}

// lacking waits until the clients lack nothing that was sent, for so long at the most, and returns
// what they lack then.
func (f *fleet) lacking(limit time.Duration) (Lacking, error) {
	for deadline := time.Now().Add(limit); ; time.Sleep(watchInterval) {
		l, err := f.lack()
		if err != nil || len(l.Missing) == 0 || time.Now().After(deadline) {
			return l, err
		}
	}
}

// lack returns what the clients lack of what was sent.
func (f *fleet) lack() (sum Lacking, err error) {
	sum.Rooms = make(map[int]RoomResyncs)
	for _, load := range f.loads {
		var l Lacking
		if err := load.control.Call("Load.Lack", f.sent, &l); err != nil {
			return sum, err
		}
		sum.Missing = append(sum.Missing, l.Missing...)
		sum.Told += l.Told
		for len(sum.Resyncs) < len(l.Resyncs) {
			sum.Resyncs = append(sum.Resyncs, 0)
		}
		for i, n := range l.Resyncs {
			sum.Resyncs[i] += n
		}
		for room, of := range l.Rooms {
			of.Clients += sum.Rooms[room].Clients
			of.Resynced += sum.Rooms[room].Resynced
			sum.Rooms[room] = of
		}
	}
	sum.Missing = f.sure(sum.Missing)
	return sum, nil
}

// sure leaves out events of which it is not known whether they went out.
func (f *fleet) sure(missing []Missing) []Missing {
	return slices.DeleteFunc(missing, func(m Missing) bool { return f.unsure[m.Event] })
}

// A usage is what the fleet has used.
type usage struct {
	at             time.Time
	hubs           time.Duration // CPU
	sent, received int64         // bytes of the hubs to and from a store that does not count them
	store          storeUsage
}

// usage adds up what these hubs have used, and what the store has.
func (f *fleet) usage(processes ...*process) (u usage, err error) {
	for _, hub := range processes {
		var used Usage
		if err := hub.control.Call("Hub.Usage", 0, &used); err != nil {
			return u, err
		}
		u.hubs += used.CPU
		u.sent += used.Sent
		u.received += used.Received
	}
	u.store, err = f.store.usage()
	u.at = time.Now()
	return u, err
}
