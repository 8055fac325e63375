package grouphub

import (
	"slices"
	"time"

	"github.com/seed-29c60982/grouphub/internal/envelope"
	"github.com/seed-29c60982/grouphub/internal/outbox"
)

// In a group with history, or with snapshots, a connection has one order, whatever handles its events: a client
// resumes from the id that it has seen last, so an event that overtook a waiting Handle call
// would lose that call. Frames that nothing is in front of are pushed at once. The others wait
// on the connection's strand, each as a job of its own, behind the callbacks that the
// membership waits for. In other groups frames and callbacks have an order each, and neither
// waits for the other.

// ordered reports whether the group's events have one order for each connection: with history
// they do, and with snapshots, since what is older than a snapshot must not come behind it.
func (g *group) ordered() bool { return g.sequence != nil || g.loader != nil }

// inOrder reports whether the group's frames may have to wait for callbacks of the connection.
func (m *membership) inOrder(c *Conn) bool {
	return m != nil && m.group.ordered() && c.endpoint.callsBack
}

// lead returns the beginning of a batch that waits for no callback.
func (c *Conn) lead(m *membership, batch []*delivery) []*delivery {
	if m.waiting.Load() > 0 {
		return nil
	}
	return c.variant().lead(batch)
}

// lead returns what comes before the first Handle call of a batch.
func (v variant) lead(batch []*delivery) []*delivery {
	first := slices.IndexFunc(batch, func(d *delivery) bool {
		return !d.closes() && v.handlerOf(d).kind == handlerHandle
	})
	if first < 0 {
		return batch
	}
	return batch[:first]
}

// queueInOrder queues what is behind the lead of a batch: Handle calls, and frames that wait
// for them. It returns the last error of queueCallback, and stops at ErrBehind.
func (c *Conn) queueInOrder(m *membership, rest []*delivery, replacing replacing, sent *tally) (err error) {
	v := c.variant()
	for i, d := range rest {
		if d.closes() {
			continue
		}
		switch h := v.handlerOf(d); h.kind {
		case handlerNone:
			sent.unhandled++
		case handlerIgnore:
		case handlerHandle:
			e := d.event()
			err = c.queueEventBehind(m, d, callSize(e), replacing, func() {
				c.handle(h, e)
				c.sendPosition(m, d) // since what was sent, if anything, need not say it
			})
		default:
			composed := c.hub.compose(v, []*delivery{d})
			sent.dropped += composed.failed
			if composed.frames > 0 {
				err = c.queueEventBehind(m, d, len(composed.bytes), replacing, func() { c.pushOne(m, d, &composed) })
			}
		}
		if err == outbox.ErrBehind {
			sent.dropped += v.countWithout(rest[i:], 0)
			break
		}
	}
	return err
}

// pushOne pushes what was composed of one event.
func (c *Conn) pushOne(m *membership, d *delivery, composed *composition) {
	w := outbox.BorrowWriter()
	defer w.Return()
	err := c.push(w, []*delivery{d}, composed)
	if err == nil || err == outbox.ErrBehind { // which has counted what it refused
		c.hub.count.delivered.Add(1)
	}
	if err == outbox.ErrBehind {
		m.shard.setBehind(m) // what has come meanwhile waits for this call
		c.fallBehindIn(m)
	}
}

// queueEventBehind is queueBehind for an event.
func (c *Conn) queueEventBehind(m *membership, d *delivery, bytes int, replacing replacing, run func()) error {
	key := d.key
	if replacing == allStay {
		key = ""
	}
	return c.queueJobBehind(m, key, bytes, func() {
		if m.behind.Load() { // since this was queued
			c.hub.count.dropped.Add(1)
			m.noteLostNews([]*delivery{d})
			return
		}
		run()
	})
}

// queueBehind queues a job of so many bytes, and has what comes later in the group wait for
// it. A job that has not begun when a Leave returns is not done. Its errors are those of
// queueCallback.
func (c *Conn) queueBehind(m *membership, bytes int, run func()) error {
	return c.queueJobBehind(m, "", bytes, run)
}

func (c *Conn) queueJobBehind(m *membership, key string, bytes int, run func()) error {
	m.waiting.Add(1)
	replaced, err := c.queueLatest(m, key, bytes, func() {
		defer m.waiting.Add(-1)
		if !m.left.Load() {
			run()
		}
	})
	if err != nil || replaced { // what was replaced does not wait any more
		m.waiting.Add(-1)
	}
	return err
}

// closeInOrder closes the connection as a GroupClose says, behind the callbacks that the
// membership waits for. They have CloseTimeout, so that one that blocks does not keep the
// connection of a user who has been logged out. A member that joined after the close had been
// sent is not meant.
func (c *Conn) closeInOrder(m *membership, env *envelope.Envelope) {
	if env.SentBefore > 0 && m.joined > env.SentBefore {
		return
	}
	end := func() { c.outbox.CloseWith(env.Number, string(env.Body)) }
	if !m.inOrder(c) || m.waiting.Load() == 0 || c.queueBehind(m, 0, end) != nil {
		end()
		return
	}
	time.AfterFunc(c.hub.limits.CloseTimeout, end)
}

// sendInOrder sends JSON to the client, behind what the membership waits for.
func (c *Conn) sendInOrder(m *membership, v any) {
	// What fails here is a connection that is ending anyway.
	c.doInOrder(m, func() { _ = c.SendJSON(v) })
}

// doInOrder runs f, behind what the membership waits for. It goes past MaxPending: f belongs to
// an event that was accepted.
func (c *Conn) doInOrder(m *membership, f func()) {
	if !m.inOrder(c) || m.waiting.Load() == 0 {
		f()
		return
	}
	m.waiting.Add(1)
	queued := c.strand.Continue(func() {
		defer m.waiting.Add(-1)
		if !m.left.Load() {
			f()
		}
	})
	if !queued { // the connection is ending anyway
		m.waiting.Add(-1)
	}
}

// sendPosition tells a client where it is after an event, unless it has left the group.
func (c *Conn) sendPosition(m *membership, d *delivery) {
	if d.id == "" || m.left.Load() {
		return
	}
	if c.stream != nil {
		c.stream.sendPosition(c, m.group, d.at)
	}
	if c.wantsPositions {
		_ = c.SendJSON(positionEvent(m.group.name, d.id)) // fails only if the connection is ending anyway
	}
}

// positionEvent is what tells a client where it is in a group.
func positionEvent(group, id string) Event {
	return Event{Type: "grouphub.position", Group: group, ID: id}
}

// hasRoom reports whether what waits of a batch for callbacks of the connection fits on its
// strand.
func (c *Conn) hasRoom(m *membership, batch []*delivery) bool {
	waiting, bytes := batch[len(c.lead(m, batch)):], 0
	for _, d := range waiting {
		bytes += d.size()
	}
	return len(waiting) == 0 || c.strand.HasRoom(len(waiting), bytes)
}
