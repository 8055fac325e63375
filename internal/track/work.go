package track

import (
	"context"
	"sync"
	"time"
)

// Lanes hand items to Handle: those of one lane in order, one at a time, and those of
// different lanes at the same time. A lane has a goroutine of Group while there are some.
// Group and Handle are set before the first Add.
type Lanes[T any] struct {
	Group  *Group
	Handle func(T)

	mu      sync.Mutex
	waiting map[string][]T // by lane, if that has a goroutine
}

// Add queues an item. It never blocks.
func (l *Lanes[T]) Add(lane string, item T) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.waiting == nil {
		l.waiting = make(map[string][]T)
	}
	waiting, busy := l.waiting[lane]
	l.waiting[lane] = append(waiting, item)
	if !busy {
		l.Group.Go(func() {
			for items := l.take(lane); len(items) > 0; items = l.take(lane) {
				for _, item := range items {
					l.Handle(item)
				}
			}
		})
	}
}

// take returns all that waits in a lane, whose goroutine ends with nothing.
func (l *Lanes[T]) take(lane string) []T {
	l.mu.Lock()
	defer l.mu.Unlock()
	items := l.waiting[lane]
	if l.waiting[lane] = nil; len(items) == 0 {
		delete(l.waiting, lane)
	}
	return items
}

// Changes hands names to Handle that have changed, each once however often it changed
// since. A name has a goroutine of Group while there is something to do. The fields are
// set before the first Add.
type Changes struct {
	Group  *Group
	Handle func(name string) (ok bool) // false: again, a little later each time
	Turns  chan struct{}               // has room for as many as may be handled at the same time
	Pause  time.Duration               // for which changes of a name are gathered
	Ended  <-chan struct{}             // no more pauses

	mu      sync.Mutex
	changed map[string]bool // whether names that have a goroutine have changed since
}

// maxPause is the longest pause between two tries.
const maxPause = 5 * time.Second

// Add notes that a name has changed. It never blocks.
func (c *Changes) Add(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.changed == nil {
		c.changed = make(map[string]bool)
	}
	if _, busy := c.changed[name]; !busy {
		c.Group.Go(func() { c.run(name) })
	}
	c.changed[name] = true
}

func (c *Changes) run(name string) {
	for pause := c.Pause; c.take(name); {
		c.Turns <- struct{}{}
		ok := c.Handle(name)
		<-c.Turns
		if ok {
			pause = c.Pause
		} else {
			c.Add(name)
			pause = min(2*pause, maxPause)
		}
		select {
		case <-time.After(pause):
		case <-c.Ended:
		}
	}
}

// take reports whether a name has changed since the last time. If not, its goroutine ends.
func (c *Changes) take(name string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	changed := c.changed[name]
	if c.changed[name] = false; !changed {
		delete(c.changed, name)
	}
	return changed
}

// Spread calls f for all items, with a pause for each, but not longer than most and half
// of what ctx allows. It ends with ctx.
func Spread[T any](ctx context.Context, items []T, pause, most time.Duration, f func(T)) {
	spread := min(time.Duration(len(items))*pause, most)
	if deadline, ok := ctx.Deadline(); ok {
		spread = min(spread, max(0, time.Until(deadline)/2))
	}
	start := time.Now()
	for i, item := range items {
		due := start.Add(spread * time.Duration(i) / time.Duration(len(items)))
		// A timer is coarser than half a millisecond, and need not be finer.
		if wait := time.Until(due); wait > time.Millisecond {
			select {
			case <-time.After(wait):
			case <-ctx.Done():
				return
			}
		}
		f(item)
	}
}
