package sequence

import "github.com/seed-29c60982/grouphub/layer"

// fill brings the sequence to where the history ends. Goes on says whether that goes on
// from what was delivered. Nobody else delivers meanwhile.
func (s *Sequence[T]) fill(h layer.History, goesOn bool) error {
	s.beginFill(h, goesOn)
	for _, p := range h.Kept {
		if err := s.waitForRoom(); err != nil {
			return err
		}
		s.deliverMissing(p)
	}
	s.mu.Lock()
	if h.Last > s.last.Number {
		s.skipLocked(layer.Position{Epoch: h.Epoch, Number: h.Last})
	}
	s.mu.Unlock()
	return s.waitForRoom() // for what is held
}

// beginFill decides which publications of a history are yet to be delivered: those after
// the sequence's last one.
func (s *Sequence[T]) beginFill(h layer.History, goesOn bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.phase == phaseStarting:
		s.adoptLocked(h)
		s.phase = phaseFilling
		close(s.ready)
	case goesOn:
		s.last.Epoch = h.Epoch // in which nothing was sent, if it is another one
	default:
		newEpoch := h.Epoch != s.last.Epoch
		s.skipLocked(layer.Position{Epoch: h.Epoch})
		if !s.Commands || !newEpoch {
			s.adoptLocked(h)
		}
	}
}

// adoptLocked makes a history's publications the past, which is for replays alone.
// Commands that have arrived are not the past.
func (s *Sequence[T]) adoptLocked(h layer.History) {
	past := h.Last
	if s.Commands && len(s.held.queue) > 0 && s.held.queue[0].At.Epoch == h.Epoch {
		past = min(past, s.held.queue[0].At.Number-1)
	}
	s.last = layer.Position{Epoch: h.Epoch}
	s.window.clear()
	for _, p := range h.Kept {
		if p.At.Number > past {
			break
		}
		if p.At.Number != s.nextLocked() {
			s.window.clear()
		}
		s.rememberLocked(p)
	}
	if s.last.Number < past { // the end of it is not kept any more
		s.last = layer.Position{Epoch: h.Epoch, Number: past}
		s.window.clear()
	}
}

// deliverMissing delivers a publication of the history, unless it was delivered before.
func (s *Sequence[T]) deliverMissing(p layer.Publication) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.At.Number <= s.last.Number {
		return
	}
	if p.At.Number > s.nextLocked() { // what is before it is not kept any more
		s.skipLocked(layer.Position{Epoch: p.At.Epoch, Number: p.At.Number - 1})
	}
	s.deliverLocked(p)
	if s.Recovered != nil {
		s.Recovered()
	}
}
