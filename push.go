package grouphub

import (
	"cmp"
	"slices"

	"github.com/seed-29c60982/grouphub/internal/outbox"
)

// pushLocked gives every member of a shard its part of a batch. Nearly all get the same
// buffer; those that joined within the batch, or are excepted somewhere in it, get one of
// their own. It never blocks.
func (s *shard) pushLocked(batch []*delivery) {
	h := s.members.hub
	whole := make([]composition, len(s.variants))
	ordered := s.members.group.ordered()
	for i, v := range s.variants {
		if ordered && v.endpoint.callsBack {
			whole[i] = h.compose(v, v.lead(batch))
		} else {
			whole[i] = h.compose(v, batch)
		}
	}
	excepted := exceptionsOf(batch)
	news := slices.ContainsFunc(batch, (*delivery).isNews)
	w := outbox.BorrowWriter()
	defer w.Return()
	var sent tally
	for i, p := range s.places {
		c, due := p.conn, s.since(p, batch)
		if s.wanted != nil && c.endpoint.conditions {
			due = common(batch, due, s.wanted[c])
		}
		if news {
			if due = p.membership.withoutNews(due); len(due) == 0 {
				continue
			}
		}
		if p.heldBack {
			s.holdLocked(&s.places[i], due)
			continue
		}
		if excepted.concern(c) {
			due = c.without(due)
		}
		v, lead := c.variant(), due
		if p.behind {
			sent.dropped += v.countWithout(due, 0)
			p.membership.noteLostNews(due)
			s.closeIfDue(p, due)
			continue
		}
		inOrder := ordered && v.endpoint.callsBack
		composed := &whole[slices.Index(s.variants, v)]
		if inOrder {
			lead = c.lead(p.membership, due)
		}
		if len(due) < len(batch) || inOrder && lead == nil {
			own := h.compose(v, lead)
			composed = &own
		}
		if c.sendBatch(w, p.membership, due, lead, composed, latestWins, &sent) == outbox.ErrBehind {
			s.places[i].behind = true
			p.membership.noteLostNews(due)
			c.fallBehindIn(p.membership)
		}
		s.closeIfDue(p, due)
	}
	h.count.add(sent)
}

// closeIfDue closes a member's connection if a batch ends with a close.
func (s *shard) closeIfDue(p place, due []*delivery) {
	if len(due) > 0 && due[len(due)-1].closes() {
		p.conn.closeInOrder(p.membership, due[len(due)-1].env)
	}
}

// since returns the events of the shard's batch that are for a member: those that were sent
// after it had joined and are not in its replay.
func (s *shard) since(p place, batch []*delivery) []*delivery {
	number := p.membership.number
	switch {
	case p.since < s.begin:
		return batch
	case p.since == number: // it has not been replayed since it joined
		return batch[min(int(p.since-s.begin)+1, len(batch)):]
	}
	var due []*delivery
	for i, d := range batch {
		if n := s.begin + uint64(i); n > p.since || n > number && d.id == "" {
			due = append(due, d)
		}
	}
	return due
}

// exceptions are those whom some event of a batch may not be for.
type exceptions struct {
	channels, users map[string]bool
	sessions        bool // an event is for one session
}

// exceptionsOf returns the exceptions of a batch.
func exceptionsOf(batch []*delivery) (x exceptions) {
	for _, d := range batch {
		x.channels = addNames(x.channels, d.env.Except)
		if o := d.env.Options; o != nil {
			x.users = addNames(x.users, o.ExceptUsers)
			x.sessions = x.sessions || o.Session != ""
		}
	}
	return x
}

// addNames adds names to a set, which is nil while it is empty.
func addNames(set map[string]bool, names []string) map[string]bool {
	for _, name := range names {
		if set == nil {
			set = make(map[string]bool)
		}
		set[name] = true
	}
	return set
}

// concern reports whether a connection may be excepted from some event of the batch.
func (x *exceptions) concern(c *Conn) bool {
	return c.subscriber != nil || x.channels[c.channel] || x.users != nil && x.users[c.user.current.Load().ID] || x.sessions
}

// without returns a batch without the events that the connection is excepted from.
func (c *Conn) without(batch []*delivery) []*delivery {
	excepted := func(d *delivery) bool { return d.excepts(c) }
	if slices.ContainsFunc(batch, excepted) {
		batch = slices.DeleteFunc(slices.Clone(batch), excepted)
	}
	return batch
}

// push pushes what was composed of a batch for the connection's variant.
func (c *Conn) push(w *outbox.Writer, batch []*delivery, composed *composition) error {
	if c.stream != nil && c.stream.cursors {
		return c.stream.push(c, w, batch, composed)
	}
	return c.pushComposed(w, composed)
}

func (c *Conn) pushComposed(w *outbox.Writer, composed *composition) error {
	if composed.frames == 0 {
		return nil
	}
	return c.outbox.PushSpans(w, composed.bytes, composed.spans)
}

// A replacing says what becomes of the events of a batch that wait.
type replacing bool

const (
	latestWins replacing = true  // they are replaced by later ones with the same Latest key
	allStay    replacing = false // nothing replaces them: they are a piece of a replay, or have no key
)

// deliver pushes events to one connection, which is to have them because of a membership, or
// of none. Its errors are those of the outbox's PushSpans.
func (c *Conn) deliver(m *membership, batch []*delivery, replacing replacing) (err error) {
	if batch = c.without(batch); len(batch) == 0 {
		return nil
	}
	lead := batch
	if m.inOrder(c) {
		lead = c.lead(m, batch)
	}
	composed := c.hub.compose(c.variant(), lead)
	if replacing == allStay {
		composed.spans = nil
	}
	w := outbox.BorrowWriter()
	defer w.Return()
	var sent tally
	err = c.sendBatch(w, m, batch, lead, &composed, replacing, &sent)
	c.hub.count.add(sent)
	return err
}

// A tally is what became of events.
type tally struct{ delivered, dropped, unhandled int }

// sendBatch pushes what was composed of the lead of a batch, and queues the rest of it. Its errors
// are those of the outbox's PushSpans. After ErrBehind the connection gets nothing more of the
// batch.
func (c *Conn) sendBatch(w *outbox.Writer, m *membership, batch, lead []*delivery, composed *composition, replacing replacing, sent *tally) error {
	err := c.push(w, lead, composed)
	sent.dropped += composed.failed
	sent.unhandled += composed.unhandled
	switch {
	case err == outbox.ErrBehind:
		sent.delivered += composed.frames // what was refused of them is counted already
		sent.dropped += c.variant().countWithout(batch, len(lead))
		return err
	case err == nil:
		sent.delivered += composed.frames
	}
	// A connection that refuses frames is closing: it is none that should have had them.
	if composed.handle {
		err = cmp.Or(c.queueHandlers(m, batch, sent), err)
	}
	if len(lead) < len(batch) {
		err = cmp.Or(c.queueInOrder(m, batch[len(lead):], replacing, sent), err)
	}
	return err
}

// countWithout counts the events of a batch that a connection does not get if nothing is
// queued, and only the frames before an index are pushed.
func (v variant) countWithout(batch []*delivery, index int) (n int) {
	for i, d := range batch {
		if d.closes() || d.kind == deliveryGap {
			continue
		}
		switch v.handlerOf(d).kind {
		case handlerHandle:
			n++
		case handlerForward, handlerRender:
			if i >= index {
				n++
			}
		}
	}
	return n
}
