//go:build linux

package main

import (
	"context"
	"errors"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/bench/internal/measure"
)

const (
	// maxSenders is how many goroutines send at the same time. Each has rooms of its own, so that
	// a room's events have an order.
	maxSenders = 32
	// sendPatience is how long a call that failed is repeated, and sendPause the time in between.
	sendPatience = time.Minute
	sendPause    = 20 * time.Millisecond
)

// A sender sends numbered events at a rate. Its events are due at times that do not depend on how
// long the calls take, so that one that is late counts as late.
type sender struct {
	stopping atomic.Bool

	mu      sync.Mutex
	numbers map[int]uint32 // of the last event of each room
}

func (s *sender) stop() { s.stopping.Store(true) }

func (s *sender) send(hub *grouphub.Hub, p Publication, result *Sending) error {
	s.stopping.Store(false)
	senders := min(maxSenders, p.Groups)
	results := make([]Sending, senders)
	errs := make([]error, senders)
	begin := measure.Now()
	var running sync.WaitGroup
	for i := range senders {
		running.Go(func() { errs[i] = s.sendPart(hub, p, begin, i, senders, &results[i]) })
	}
	running.Wait()
	for _, r := range results {
		result.Uncertain = append(result.Uncertain, r.Uncertain...)
		result.Unavailable += r.Unavailable
	}
	for room := p.First; room < p.First+p.Groups; room++ {
		result.Numbers = append(result.Numbers, s.last(room))
	}
	return errors.Join(errs...)
}

// sendPart sends the events of every n-th room, from the part's own on.
func (s *sender) sendPart(hub *grouphub.Hub, p Publication, begin int64, part, n int, result *Sending) error {
	for i := 0; (p.Events == 0 || i < p.Events) && !s.stopping.Load(); i++ {
		room := i % p.Groups
		if room%n != part {
			continue
		}
		due := begin + int64(float64(i)*float64(time.Second)/p.Rate)
		if wait := due - measure.Now(); wait > 0 {
			time.Sleep(time.Duration(wait))
		}
		if err := s.sendOne(hub, p.First+room, due, result); err != nil {
			return err
		}
	}
	return nil
}

// sendOne sends the room's next event. What did not go out is sent again, and what may have is
// noted and not repeated: a server that comes back empty would not know that it is a repetition.
func (s *sender) sendOne(hub *grouphub.Hub, room int, due int64, result *Sending) error {
	number := s.next(room)
	for {
		err := hub.GroupSend(context.Background(), roomName(room), "event", event(due, number))
		switch {
		case errors.Is(err, grouphub.ErrUncertain):
			result.Uncertain = append(result.Uncertain, Event{room, number})
			return nil
		case errors.Is(err, grouphub.ErrUnavailable) && measure.Now() < due+int64(sendPatience):
			result.Unavailable++
			time.Sleep(sendPause)
		default:
			return err
		}
	}
}

func (s *sender) next(room int) uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.numbers == nil {
		s.numbers = make(map[int]uint32)
	}
	s.numbers[room]++
	return s.numbers[room]
}

// sent returns the last numbers of all rooms.
func (s *sender) sent() map[int]uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.numbers)
}

func (s *sender) last(room int) uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.numbers[room]
}
