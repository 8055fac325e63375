package redis

import (
	"context"
	"runtime"
	"sync"
)

// lanes are for a Cluster what pipelines are for a server: one for each slot, which lives
// as long as it has jobs. A slot is always on one node, so that a node which does not
// answer holds up nothing that others have; rueidis joins again what goes to one of them.
type lanes struct {
	mu     sync.Mutex
	closed bool // no lane is opened any more
	bySlot map[uint16][]*job
}

func (ls *lanes) close() {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	ls.closed = true
}

// enqueue leaves a job to the lane of its slot.
func (l *Layer) enqueue(job *job) {
	slot := job.command.Slot()
	l.lanes.mu.Lock()
	defer l.lanes.mu.Unlock()
	waiting, open := l.lanes.bySlot[slot]
	if !open && l.lanes.closed {
		return // its caller finds the layer closed
	}
	l.lanes.bySlot[slot] = append(waiting, job)
	if !open {
		l.running.Go(func() { l.lane(slot) })
	}
}

// lane sends the jobs of a slot until there are no more.
func (l *Layer) lane(slot uint16) {
	var b batch
	for {
		runtime.Gosched() // as in pipeline
		b.reset()
		l.lanes.mu.Lock()
		waiting := l.lanes.bySlot[slot]
		for len(waiting) > 0 && len(b.jobs) < batchSize {
			b.add(waiting[0])
			waiting[0] = nil
			waiting = waiting[1:]
		}
		l.lanes.bySlot[slot] = waiting
		if len(b.jobs) == 0 {
			delete(l.lanes.bySlot, slot)
		}
		l.lanes.mu.Unlock()
		if len(b.jobs) == 0 {
			return
		}
		ctx, cancel := context.WithTimeout(l.ctx, l.callTimeout)
		b.send(ctx, l.client)
		cancel()
	}
}
