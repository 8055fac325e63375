//go:build linux

package main

import (
	"fmt"
	"strings"
	"syscall"
	"time"
)

const (
	// behindFor is how long a replica gets nothing from its master before that is killed.
	behindFor = 300 * time.Millisecond
	// onItsWay is longer than a GroupSend takes where nothing has failed.
	onItsWay = 50 * time.Millisecond
)

// crashCluster kills a master of a Cluster, twice: once with a replica that is up to date, or nearly so,
// and once with one that lacks what the master has accepted last.
func (d *driver) crashCluster() (section, error) {
	s := section{Name: aCluster.scenario("crash"), Title: "What breaks under load" + aCluster.where(), Head: []string{"", "a master is killed", "one whose replica is behind"}}
	for _, behind := range []bool{false, true} {
		r, err := d.crashMaster(behind)
		if err != nil {
			return s, err
		}
		s.crashed(r)
	}
	s.Notes = append(s.Notes, d.size.crowdNote()+fmt.Sprintf(" Three masters have a replica each, and cluster-node-timeout is %s. The replica that is behind has got nothing for %s. What it lacks has reached the hubs before, so that it is not missing; but its rooms' numbers are given anew, and its clients have a Resync due.",
		d.size.nodeTimeout, behindFor))
	return s, nil
}

// crashMaster kills a master, whose replica becomes one. Replication is asynchronous: a replica that lacks
// what its master has accepted is behind what hubs and clients have.
func (d *driver) crashMaster(behind bool) (r crashResult, err error) {
	nodes, err := startCluster(d.ctx, d.size.nodeTimeout, true)
	if err != nil {
		return r, err
	}
	f, publication, err := d.crowdFleetOn(nodes, d.size.crash, false)
	if err != nil {
		return r, err
	}
	defer f.close()
	const killed = 1 // a hub's URL begins with another
	there := make(map[int]bool)
	for room := range d.size.crash.rooms {
		master, err := nodes.master(room)
		if err != nil {
			return r, err
		}
		there[room] = master == killed
	}
	name := "a master is killed"
	if behind {
		name = "a master is killed whose replica is behind"
	}
	return d.underLoad(name, f, publication, func(r *crashResult) error {
		r.due.perhaps = there
		var before map[int]uint32
		if behind {
			if before, r.due.rooms, err = f.fallBehind(nodes, killed); err != nil {
				return err
			}
		}
		began := time.Now()
		nodes.masters[killed].kill()
		if behind {
			nodes.replicas[killed].process.Process.Signal(syscall.SIGCONT)
			after, err := f.lastSent()
			if err != nil {
				return err
			}
			for room := range there {
				r.due.perhaps[room] = there[room] && after[room] > before[room]
				r.due.rooms[room] = there[room] && r.due.rooms[room]
			}
		}
		if err := f.awaitLayer(f.hubs, false); err != nil {
			return err
		}
		r.noticed = time.Since(began)
		err := await(nodes.replicas[killed:killed+1], clusterTimeout, "INFO replication", func(text string) bool { return strings.Contains(text, "role:master") })
		if err != nil {
			return err
		}
		r.promoted = time.Since(began)
		return f.awaitLayer(f.hubs, true)
	})
}

// fallBehind cuts a replica off from its master and stops it, so that it cannot connect again, and waits.
// It returns the last numbers of all rooms from before, and the rooms whose events of meanwhile have
// certainly been accepted.
func (f *fleet) fallBehind(nodes *cluster, master int) (before map[int]uint32, sent map[int]bool, err error) {
	if before, err = f.lastSent(); err != nil {
		return nil, nil, err
	}
	time.Sleep(onItsWay)
	if err := nodes.replicas[master].process.Process.Signal(syscall.SIGSTOP); err != nil {
		return nil, nil, err
	}
	if _, err := nodes.masters[master].command("CLIENT KILL TYPE replica"); err != nil {
		return nil, nil, err
	}
	from, err := f.lastSent()
	if err != nil {
		return nil, nil, err
	}
	time.Sleep(behindFor - onItsWay)
	to, err := f.lastSent()
	if err != nil {
		return nil, nil, err
	}
	time.Sleep(onItsWay)
	sent = make(map[int]bool)
	for room, number := range to {
		sent[room] = number > from[room]
	}
	return before, sent, nil
}

// lastSent returns the last number of each room that the worker sends to, which may be on its way.
func (f *fleet) lastSent() (map[int]uint32, error) {
	p, err := f.past(0)
	return p.Rooms, err
}
