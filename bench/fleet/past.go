//go:build linux

package main

import "github.com/seed-29c60982/grouphub/bench/internal/measure"

// A Past is what had been sent at a moment, and what clients should have had a while later.
type Past struct {
	At      int64          // of the machine's monotonic clock
	Rooms   map[int]uint32 // last numbers
	Boards  [][]uint32     // values, from dashboard 1 on
	Members map[int]int    // of rooms, as they have been told; nil: not to be compared
}

// Behind says how many clients, which have been live since a moment, lack what had been sent by then.
type Behind struct {
	Events, Values int
	Members        int // clients that were told another number of members last
	Answers        int // clients that lack one
}

// Sum adds up.
func (b *Behind) Sum() int { return b.Events + b.Values + b.Members + b.Answers }

func (b *Behind) add(c Behind) {
	b.Events += c.Events
	b.Values += c.Values
	b.Members += c.Members
	b.Answers += c.Answers
}

// Behind compares all clients that have been live since then.
func (l *Load) Behind(p Past, b *Behind) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.clients {
		if c.stage != live || c.since > p.At {
			continue
		}
		for i := range c.rooms {
			r := &c.rooms[i]
			if r.known && !r.told && r.last < p.Rooms[c.First+i] {
				b.Events++
			}
			if p.Members != nil && r.members != p.Members[c.First+i] {
				b.Members++
			}
		}
		if c.Board > 0 && c.Board <= len(p.Boards) && c.page.behind(p.Boards[c.Board-1]) {
			b.Values++
		}
		if c.asked != c.answered && c.askedAt < p.At {
			b.Answers++
		}
	}
	return l.failure
}

// Past says what has been sent by now to so many dashboards, and to all rooms.
func (h *Hub) Past(boards int, p *Past) error {
	p.Rooms = h.sender.sent()
	for board := range boards {
		p.Boards = append(p.Boards, h.database.read(board+1))
	}
	p.At = measure.Now()
	return nil
}

// past asks the worker what it has sent.
func (f *fleet) past(boards int) (p Past, err error) {
	err = f.worker.control.Call("Hub.Past", boards, &p)
	return p, err
}

// behind adds up what the load generators' clients lack.
func (f *fleet) behind(p Past) (sum Behind, err error) {
	for _, load := range f.loads {
		var b Behind
		if err := load.control.Call("Load.Behind", p, &b); err != nil {
			return sum, err
		}
		sum.add(b)
	}
	return sum, nil
}
