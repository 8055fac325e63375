// Package strand runs a connection's callbacks one at a time.
package strand

import (
	"sync"

	"github.com/seed-29c60982/grouphub/internal/latest"
)

// Overhead is what a waiting event counts for besides its size, in bytes: its job, its
// callback, and what that holds.
const Overhead = 200

// A Strand runs one connection's callbacks one at a time, in order, on a goroutine
// that lives while there is work. Nobody waits for it but the connection's reader,
// which keeps one message ahead, so that pongs, the end of the connection and the
// cancellation of its context are noticed while a callback blocks.
//
// A Strand begins busy, with Connect, which runs on the handler's goroutine; Release
// hands it over.
type Strand struct {
	// Static after Init.
	owner Owner

	mu       sync.Mutex
	room     chan struct{} // closed when the reader need not wait any longer; nil if it does not wait
	queue    latest.Queue[any, job]
	bytes    int   // of the events, and of the messages that TryMessage has queued
	messages int32 // messages in the queue
	state    state
	busy     bool // a goroutine runs jobs, or Connect has not returned
	full     bool // an event was refused for the limit
}

// A state says what a strand accepts, and what happens when its queue is empty:
//
//	open ──Drain──▶ draining ──Close──▶ dropped
//	  │                 │                  │
//	Close, Last        Last               Last
//	  │                 ▼                  │
//	  └────────────▶ closed ◀──────────────┘
type state uint8

const (
	open     state = iota // everything is accepted
	draining              // no events are accepted; Idle is called when the queue is empty
	dropped               // only the last job is accepted; Idle is called when the queue is empty
	closed                // only the last job is accepted
)

func (s state) acceptsMessages() bool { return s == open || s == draining }

func (s state) tellsIdle() bool { return s == draining || s == dropped }

// An Owner is whose callbacks a strand runs. It is not called with a lock held, except for
// Spawn and Limit.
type Owner interface {
	Spawn(f func())            // starts a goroutine that the owner waits for
	Wait(room <-chan struct{}) // returns when the channel is closed
	Idle()                     // nothing is left after Drain
	Limit() int                // bytes of events that may wait, and as many of replaceable ones
}

// A job is one callback that waits for its turn.
type job struct {
	kind jobKind
	size int // bytes it holds
	run  func()
}

type jobKind uint8

const (
	jobMessage jobKind = iota // a client's message: the reader waits for room
	jobEvent                  // an event or a Resync: bounded in bytes
	jobLatest                 // an event that a later one replaces: bounded apart from the others
	jobLast                   // Disconnect
)

// Init makes the strand busy until Release.
func (s *Strand) Init(owner Owner) { s.owner, s.busy = owner, true }

// Message queues a client's message. It reports false if messages are no longer
// accepted. It waits, as its owner does, while another one is waiting. It is not called
// concurrently.
func (s *Strand) Message(run func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.messages > 0 && s.state.acceptsMessages() {
		room := make(chan struct{})
		s.room = room
		s.mu.Unlock()
		s.owner.Wait(room)
		s.mu.Lock()
	}
	if !s.state.acceptsMessages() {
		return false
	}
	s.addLocked(job{kind: jobMessage, run: run})
	return true
}

// TryMessage queues a client's message of so many bytes without waiting. It reports whether it
// was queued and, if not, whether too much is waiting; otherwise messages are no longer
// accepted.
func (s *Strand) TryMessage(size int, run func()) (ok, full bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.state.acceptsMessages() {
		return false, false
	}
	if s.fullLocked() {
		return false, true
	}
	s.addLocked(job{kind: jobMessage, size: size + Overhead, run: run})
	return true, false
}

// signalRoomLocked wakes the reader, if it waits.
func (s *Strand) signalRoomLocked() {
	if s.room != nil {
		close(s.room)
		s.room = nil
	}
}

// Event queues an event's callback without waiting. It reports whether it was queued. If
// it was not, it reports whether the limit is the cause: too much is waiting, or an event
// was refused for that before the strand was closed, which without this would still be
// open.
func (s *Strand) Event(size int, run func()) (ok, full bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state != open {
		return false, s.full
	}
	// As in the outbox, an event of any size must be deliverable.
	if s.fullLocked() {
		s.full = true
		return false, true
	}
	s.addLocked(job{kind: jobEvent, size: size + Overhead, run: run})
	return true, false
}

// Latest is Event for an event that takes the place of the one with the same key, if that
// still waits, which it reports. However much of these waits, the strand stays open.
func (s *Strand) Latest(key any, size int, run func()) (ok, replaced, full bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state != open {
		return false, false, s.full
	}
	old, replaced := s.queue.Get(key)
	// Only where much waits are the jobs looked at one by one.
	if limit := s.owner.Limit(); s.bytes > limit && s.latestLocked()-old.size > limit {
		return false, false, true
	}
	if replaced {
		s.countLocked(old, -1)
	}
	j := job{kind: jobLatest, size: size + Overhead, run: run}
	s.queue.Replace(key, j)
	s.startLocked(j)
	return true, replaced, false
}

// fullLocked reports whether too much waits that nothing replaces.
func (s *Strand) fullLocked() bool {
	limit := s.owner.Limit()
	return s.bytes > limit && s.bytes-s.latestLocked() > limit
}

// latestLocked returns how many bytes the replaceable events have.
func (s *Strand) latestLocked() (bytes int) {
	for j := range s.queue.All() {
		if j.kind == jobLatest {
			bytes += j.size
		}
	}
	return bytes
}

// Continue queues a callback past the limit, for an event that was queued before and goes on. It
// reports false if events are no longer accepted.
func (s *Strand) Continue(run func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state != open {
		return false
	}
	s.addLocked(job{kind: jobEvent, size: Overhead, run: run})
	return true
}

// HasRoom reports whether Event would take so many events of so many bytes in all without
// coming to the limit. A strand with nothing but replaceable events has room for anything.
func (s *Strand) HasRoom(events, bytes int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	waiting := s.bytes - s.latestLocked()
	return waiting == 0 || waiting+bytes+events*Overhead <= s.owner.Limit()
}

// Close drops what waits and accepts nothing more but the last job. It returns the number
// of events that were dropped.
func (s *Strand) Close() (events int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state.tellsIdle() {
		return s.closeLocked(dropped)
	}
	return s.closeLocked(closed)
}

func (s *Strand) closeLocked(to state) (events int) {
	s.state = to
	s.signalRoomLocked()
	return s.dropAllButLocked(jobLast)
}

// Drain drops waiting events and accepts no more. The owner's Idle is called once the
// messages that wait have been handled, or dropped by Close. On a closed strand Drain does
// nothing and reports false.
func (s *Strand) Drain() (events int, ok bool) {
	s.mu.Lock()
	if !s.state.acceptsMessages() {
		s.mu.Unlock()
		return 0, false
	}
	s.state = draining
	events = s.dropAllButLocked(jobMessage)
	idle := !s.busy
	s.mu.Unlock()
	if idle {
		s.owner.Idle()
	}
	return events, true
}

// Last closes the strand and queues the job that ends it, behind the one that runs.
func (s *Strand) Last(run func()) (events int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	events = s.closeLocked(closed)
	s.addLocked(job{kind: jobLast, run: run})
	return events
}

// Release ends Connect's turn.
func (s *Strand) Release() {
	s.mu.Lock()
	if s.queue.Front() != nil {
		s.mu.Unlock()
		s.owner.Spawn(s.run)
		return
	}
	s.restAndUnlock()
}

func (s *Strand) addLocked(j job) {
	s.queue.Add(j)
	s.startLocked(j)
}

// startLocked counts a job that was queued, and sees to it that it is run.
func (s *Strand) startLocked(j job) {
	s.countLocked(j, 1)
	if !s.busy {
		s.busy = true
		s.owner.Spawn(s.run)
	}
}

func (s *Strand) countLocked(j job, sign int) {
	s.bytes += sign * j.size
	if j.kind == jobMessage {
		s.messages += int32(sign)
	}
}

// dropAllButLocked drops the jobs that are of another kind. It returns how many of them
// were events.
func (s *Strand) dropAllButLocked(kind jobKind) (events int) {
	s.queue.Filter(func(j job) bool {
		if j.kind == kind {
			return true
		}
		s.countLocked(j, -1)
		if j.kind == jobEvent || j.kind == jobLatest {
			events++
		}
		return false
	})
	return events
}

// restAndUnlock ends the work of this goroutine, since the queue is empty.
func (s *Strand) restAndUnlock() {
	s.busy = false
	s.queue.Clear() // an idle connection keeps no buffer
	idle := s.state.tellsIdle()
	s.mu.Unlock()
	if idle {
		s.owner.Idle()
	}
}

// run runs jobs until there are none. Jobs recover from panics themselves. One that ends
// its goroutine, as a test's Fatal does, must not end the strand.
func (s *Strand) run() {
	finished := false
	defer func() {
		if !finished {
			s.owner.Spawn(s.run)
		}
	}()
	for {
		s.mu.Lock()
		if s.queue.Front() == nil {
			finished = true
			s.restAndUnlock()
			return
		}
		j := s.queue.Remove()
		s.countLocked(j, -1)
		if j.kind == jobMessage {
			s.signalRoomLocked()
		}
		s.mu.Unlock()
		j.run()
	}
}
