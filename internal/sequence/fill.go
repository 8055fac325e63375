package sequence

import "github.com/seed-29c60982/grouphub/layer"

// fill brings the sequence to where the history ends that a round has read. Nobody else
// delivers meanwhile.
func (s *Sequence[T]) fill(h layer.History, r round) error {
	s.beginFill(h, r)
	for _, p := range h.Kept {
		if err := s.waitForRoom(); err != nil {
			return err
		}
		s.deliverMissing(p)
	}
	s.mu.Lock()
	if h.Last > s.last.Number {
		s.skipLocked(layer.Position{Epoch: h.Epoch, Number: h.Last, Nonce: h.Nonce})
	}
	s.mu.Unlock()
	return s.waitForRoom() // for what is held
}

// beginFill decides which publications of a history are yet to be delivered: those after
// the sequence's last one.
func (s *Sequence[T]) beginFill(h layer.History, r round) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.phase == phaseStarting:
		if s.last = start(h); !s.New {
			s.adoptLocked(h)
		}
		s.phase = phaseFilling
		close(s.ready)
	case r.precedes(h):
		s.learnNonceLocked(h)
	case h.Epoch == s.last.Epoch: // the layer has lost some of what was delivered
		s.skipLocked(start(h))
		s.adoptLocked(h)
		s.reading.from = s.last
	case !r.interrupted:
		s.beginEpochLocked(start(h))
	default:
		s.loseEpochLocked(s.last, start(h))
		if !s.Commands {
			s.adoptLocked(h)
		}
	}
}

// adoptLocked makes a history's publications the past, which is for replays alone.
// Commands that have arrived are not the past, and a topic that is new has none.
func (s *Sequence[T]) adoptLocked(h layer.History) {
	past := h.Last
	if s.Commands && len(s.held.queue) > 0 && s.held.queue[0].At.Epoch == h.Epoch {
		past = min(past, s.held.queue[0].At.Number-1)
	}
	s.last = start(h)
	s.window.clear()
	for _, p := range h.Kept {
		if p.At.Number > past {
			break
		}
		if p.At.Number != s.nextLocked() { // what is before it is not kept any more
			s.last = before(p)
			s.window.clear()
		}
		s.rememberLocked(p)
	}
	if s.last.Number < past { // the end of it is not kept any more
		s.last = layer.Position{Epoch: h.Epoch, Number: past, Nonce: nonceOf(h, past)}
		s.window.clear()
	}
}

// start returns the position before a history's first publication.
func start(h layer.History) layer.Position {
	return layer.Position{Epoch: h.Epoch, Nonce: h.Start}
}

// before returns the position before a publication. Its nonce is unknown.
func before(p layer.Publication) layer.Position {
	return layer.Position{Epoch: p.At.Epoch, Number: p.At.Number - 1}
}

// deliverMissing delivers a publication of the history, unless it was delivered before.
func (s *Sequence[T]) deliverMissing(p layer.Publication) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.At.Number <= s.last.Number {
		return
	}
	if p.At.Number > s.nextLocked() { // what is before it is not kept any more
		s.skipLocked(before(p))
	}
	s.deliverLocked(p)
	if s.Recovered != nil {
		s.Recovered()
	}
}
