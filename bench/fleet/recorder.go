//go:build linux

package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// recordInterval is the time between two points of a recording.
	recordInterval = 250 * time.Millisecond
	// clockTick is the unit in which the kernel gives other processes' CPU.
	clockTick = 10 * time.Millisecond
)

// A recorder follows a fleet over time.
type recorder struct {
	loads []*process
	done  chan struct{}
	ended sync.WaitGroup
	began time.Time

	mu     sync.Mutex
	groups map[string][]int // numbers of processes, whose CPU is added up
	frames []frame
}

// A frame is one moment of a recording.
type frame struct {
	at    float64            // seconds since the recording began
	cores map[string]float64 // CPU per time, by group
	live  int
}

// record begins to follow the fleet.
func (f *fleet) record() *recorder {
	r := &recorder{loads: f.loads, done: make(chan struct{}), began: time.Now(), groups: make(map[string][]int)}
	for _, hub := range f.hubs {
		r.follow("hubs", hub.PID())
	}
	for _, pid := range f.store.processes() {
		r.follow("Redis", pid)
	}
	for _, load := range f.loads {
		r.follow("clients", load.PID())
	}
	r.ended.Go(r.run)
	return r
}

// follow adds a process.
func (r *recorder) follow(group string, pid int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.groups[group] = append(r.groups[group], pid)
}

// stop ends the recording and returns it.
func (r *recorder) stop() []frame {
	close(r.done)
	r.ended.Wait()
	return r.frames
}

func (r *recorder) run() {
	before, at := r.times(), time.Now()
	for {
		select {
		case <-r.done:
			return
		case <-time.After(recordInterval):
		}
		times, now := r.times(), time.Now()
		point := frame{at: now.Sub(r.began).Seconds(), cores: make(map[string]float64)}
		r.mu.Lock()
		for group, pids := range r.groups {
			for _, pid := range pids {
				if used := times[pid] - before[pid]; used > 0 && before[pid] > 0 {
					point.cores[group] += used.Seconds() / now.Sub(at).Seconds()
				}
			}
		}
		r.mu.Unlock()
		before, at = times, now
		for _, load := range r.loads {
			var s Standing
			if load.control.Call("Load.Stand", 0, &s) == nil {
				point.live += s.Live
			}
		}
		r.frames = append(r.frames, point)
	}
}

// times returns the CPU that each process has used. One that has ended is not among them.
func (r *recorder) times() map[int]time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	times := make(map[int]time.Duration)
	for _, pids := range r.groups {
		for _, pid := range pids {
			if used, err := processTime(pid); err == nil {
				times[pid] = used
			}
		}
	}
	return times
}

// processTime returns what another process has used, user and system.
func processTime(pid int) (time.Duration, error) {
	fields, err := processFields(pid)
	if err != nil {
		return 0, err
	}
	user, err := strconv.Atoi(fields[11])
	if err != nil {
		return 0, err
	}
	system, err := strconv.Atoi(fields[12])
	return time.Duration(user+system) * clockTick, err
}

// processFields returns what the kernel says of a process, from the third field on: the second is its
// name, which may have anything in it.
func processFields(pid int) ([]string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, err
	}
	return strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:])), nil
}

// chartOf draws a recording.
func chartOf(title string, frames []frame, clients int) []chart {
	cpu := chart{Title: title + ": CPU", X: "seconds", Y: "cores"}
	alive := chart{Title: title + ": clients that are live", X: "seconds", Y: "% of all"}
	for _, p := range frames {
		for _, group := range []string{"hubs", "Redis", "clients"} {
			cpu.add(group, p.at, p.cores[group])
		}
		alive.add("live", p.at, 100*float64(p.live)/float64(clients))
	}
	return []chart{cpu, alive}
}

// peak returns the mean of the first frames, before something happens, and the highest frame.
func peak(frames []frame, group string, before float64) (usual, highest float64) {
	n := 0
	for _, p := range frames {
		if p.at < before {
			usual, n = usual+p.cores[group], n+1
		}
		highest = max(highest, p.cores[group])
	}
	return usual / float64(max(n, 1)), highest
}
