package track

import (
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
// since, on a goroutine of Group that lives while there are some. The fields are set
// before the first Add.
type Changes struct {
	Group  *Group
	Handle func(name string) (ok bool) // false: again, later
	Pause  time.Duration               // between two rounds
	Ended  <-chan struct{}             // no more pauses

	mu    sync.Mutex
	names map[string]struct{}
	busy  bool // there is a goroutine
}

// Add notes that a name has changed. It never blocks.
func (c *Changes) Add(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.names == nil {
		c.names = make(map[string]struct{})
	}
	c.names[name] = struct{}{}
	if !c.busy {
		c.busy = true
		c.Group.Go(c.run)
	}
}

func (c *Changes) run() {
	for {
		c.mu.Lock()
		names := c.names
		c.names = nil
		if len(names) == 0 {
			c.busy = false
			c.mu.Unlock()
			return
		}
		c.mu.Unlock()
		for name := range names {
			if !c.Handle(name) {
				c.Add(name)
			}
		}
		select {
		case <-time.After(c.Pause):
		case <-c.Ended:
		}
	}
}
