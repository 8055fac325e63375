// Package strand runs a connection's callbacks one at a time.
package strand

import "sync"

// overhead is what a waiting event counts for besides its size, in bytes: its job, its
// callback, and what that holds.
const overhead = 200

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
	jobLast                   // Disconnect
)

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
	taken    chan struct{} // closed when a message has left the queue, or no more are taken; nil if the reader does not wait
	queue    []job
	bytes    int   // of the events in the queue
	messages int32 // messages in the queue
	busy     bool  // a goroutine runs jobs, or Connect has not returned
	shut     bool  // only the last job is taken
	full     bool  // an event was refused for the limit
	draining bool  // no events are taken, and idle is called once nothing is left
}

// An Owner is whose callbacks a strand runs. It is not called with a lock held, except for
// Spawn and Limit.
type Owner interface {
	Spawn(f func())             // starts a goroutine that the owner waits for
	Wait(taken <-chan struct{}) // returns when the channel is closed
	Idle()                      // nothing is left after Drain
	Limit() int                 // bytes of events that may wait
}

// Init makes the strand busy until Release.
func (s *Strand) Init(owner Owner) { s.owner, s.busy = owner, true }

// Message queues a client's message and reports false when no more are taken. It
// waits, as its owner does, while another one is waiting. It is not called concurrently.
func (s *Strand) Message(run func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.messages > 0 && !s.shut {
		taken := make(chan struct{})
		s.taken = taken
		s.mu.Unlock()
		s.owner.Wait(taken)
		s.mu.Lock()
	}
	if s.shut {
		return false
	}
	s.addLocked(job{kind: jobMessage, run: run})
	return true
}

func (s *Strand) signalLocked() {
	if s.taken != nil {
		close(s.taken)
		s.taken = nil
	}
}

// Event queues an event's callback without waiting. It reports whether it was
// queued, and whether that failed because too much is waiting, or was when the strand
// was closed: it would have had this event, had it kept up.
func (s *Strand) Event(size int, run func()) (ok, full bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.shut || s.draining {
		return false, s.full
	}
	// As in the outbox, an event of any size must be deliverable.
	if s.bytes > s.owner.Limit() {
		s.full = true
		return false, true
	}
	s.addLocked(job{kind: jobEvent, size: size + overhead, run: run})
	return true, false
}

// Close drops what waits and takes no more but the last job. It returns the number
// of events that were dropped.
func (s *Strand) Close() (dropped int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.shut = true
	s.signalLocked()
	return s.keepLocked(jobLast)
}

// Drain drops waiting events and takes no more, and calls idle once the messages
// that are here have been handled, or dropped by Close. On a closed strand it does
// nothing and reports false.
func (s *Strand) Drain() (dropped int, ok bool) {
	s.mu.Lock()
	if s.shut {
		s.mu.Unlock()
		return 0, false
	}
	dropped = s.keepLocked(jobMessage)
	s.draining = true
	idle := !s.busy
	s.mu.Unlock()
	if idle {
		s.owner.Idle()
	}
	return dropped, true
}

// Last closes the strand and queues the job that ends it, behind the one that runs.
func (s *Strand) Last(run func()) (dropped int) {
	dropped = s.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.draining = false
	s.addLocked(job{kind: jobLast, run: run})
	return dropped
}

// Release ends Connect's turn.
func (s *Strand) Release() {
	s.mu.Lock()
	if len(s.queue) > 0 {
		s.mu.Unlock()
		s.owner.Spawn(s.run)
		return
	}
	s.restAndUnlock()
}

func (s *Strand) addLocked(j job) {
	s.queue = append(s.queue, j)
	s.countLocked(j, 1)
	if !s.busy {
		s.busy = true
		s.owner.Spawn(s.run)
	}
}

func (s *Strand) countLocked(j job, sign int) {
	switch j.kind {
	case jobMessage:
		s.messages += int32(sign)
	case jobEvent:
		s.bytes += sign * j.size
	}
}

// keepLocked drops the jobs that are of another kind, and counts events among them.
func (s *Strand) keepLocked(kind jobKind) (events int) {
	kept := s.queue[:0]
	for _, j := range s.queue {
		if j.kind == kind {
			kept = append(kept, j)
			continue
		}
		s.countLocked(j, -1)
		if j.kind == jobEvent {
			events++
		}
	}
	clear(s.queue[len(kept):])
	s.queue = kept
	return events
}

// restAndUnlock marks the strand as not busy.
func (s *Strand) restAndUnlock() {
	s.busy = false
	s.queue = nil // an idle connection keeps no buffer
	idle := s.draining
	s.mu.Unlock()
	if idle {
		s.owner.Idle()
	}
}

// run takes jobs until there are none. Jobs recover from panics themselves; one that
// ends its goroutine, as a test's Fatal does, must not end the strand.
func (s *Strand) run() {
	finished := false
	defer func() {
		if !finished {
			s.owner.Spawn(s.run)
		}
	}()
	for {
		s.mu.Lock()
		if len(s.queue) == 0 {
			finished = true
			s.restAndUnlock()
			return
		}
		j := s.queue[0]
		s.queue[0] = job{}
		s.queue = s.queue[1:]
		s.countLocked(j, -1)
		if j.kind == jobMessage {
			s.signalLocked()
		}
		s.mu.Unlock()
		j.run()
	}
}
