package track

import (
	"sync"
	"time"
)

// A Queue hands items to Handle, one at a time and in order, on a goroutine of Group
// that lives while there are some. Group and Handle are set before the first Add.
type Queue[T any] struct {
	Group  *Group
	Handle func(T)

	mu    sync.Mutex
	items []T
	busy  bool // there is a goroutine
}

// Add queues an item. It never blocks.
func (q *Queue[T]) Add(item T) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.items = append(q.items, item)
	if !q.busy {
		q.busy = true
		q.Group.Go(q.run)
	}
}

func (q *Queue[T]) run() {
	for {
		q.mu.Lock()
		if len(q.items) == 0 {
			q.busy, q.items = false, nil
			q.mu.Unlock()
			return
		}
		item := q.items[0]
		q.items = q.items[1:]
		q.mu.Unlock()
		q.Handle(item)
	}
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
