package grouphub

import (
	"cmp"
	"context"
	"errors"

	"github.com/seed-29c60982/grouphub/internal/outbox"
	"github.com/seed-29c60982/grouphub/internal/sequence"
	"github.com/seed-29c60982/grouphub/internal/track"
)

const (
	// replayPiece is how many bytes of history are pushed at once, to an outbox that has
	// drained: replays larger than MaxPending together must not make a connection slow.
	replayPiece = 256 << 10
	// maxReads is how many histories are read at the same time.
	maxReads = 64
)

// source begins the sequence of a topic: what is the same for all.
func source[T any](h *Hub, topic string, keep Keep) sequence.Source[T] {
	return sequence.Source[T]{
		Keep:      keep,
		Spawn:     h.goroutines.Go,
		ReadSlots: h.reads,
		Read: func(ctx context.Context, after uint64) (History, error) {
			return h.layer.History(ctx, topic, after)
		},
	}
}

// groupSequence returns the sequence of a group with history.
func (h *Hub) groupSequence(ctx context.Context, g *group) *sequence.Sequence[*delivery] {
	source := source[*delivery](h, groupTopic(g.name), h.keep(g.policy))
	source.Decode = func(p Publication) (*delivery, bool) {
		d := h.newDelivery(g, p)
		return d, d != nil
	}
	source.Deliver = g.Send
	source.Resync = func() { h.resync(g) }
	source.Full = g.Full
	source.WaitForRoom = g.Wait
	source.Recovered = func() { h.count.recovered.Add(1) }
	return sequence.New(ctx, source)
}

// controlSequence returns the sequence of a topic on which hubs tell each other things.
func (h *Hub) controlSequence(topic string, lost func()) *sequence.Sequence[Publication] {
	source := source[Publication](h, topic, Keep{}) // nobody asks for a replay
	source.Commands = true
	source.Decode = func(p Publication) (Publication, bool) { return p, true }
	source.Deliver = h.obey
	source.Resync = lost
	return sequence.New(h.life, source)
}

// JoinOption changes where [Conn.Join] begins in a group with history. In other groups
// it means nothing.
type JoinOption struct{ replay sequence.Replay }

// Last replays the last n events that are kept, oldest first, before the live ones.
func Last(n int) JoinOption { return JoinOption{sequence.Replay{Last: n}} }

// After replays the events that came after the one with this ID, before the live ones.
// If some of them are gone, or the id is none of this group's, the connection gets a
// Resync instead.
func After(id string) JoinOption { return JoinOption{sequence.Replay{After: id, From: true}} }

// joinReplaying makes a connection a member of a group with history: what it asks for is
// replayed, and then it is live, with no gap and no repeat.
func (c *Conn) joinReplaying(ctx context.Context, m *membership, r sequence.Replay) (err error) {
	history := m.group.sequence
	for live := false; !live && err == nil; {
		var todo []func()
		wait := false
		history.Piece(&r, replayPiece, func(d *delivery) int { return len(d.env.Body) }, func(p sequence.Piece[*delivery]) bool {
			// A Render may block, so it runs before the piece is looked at again.
			todo = unrendered(p.Values, []variant{c.variant()})
			wait = len(p.Values) > 0 && c.outbox.Drained(track.Over) != nil
			if wait || len(todo) > 0 {
				return false
			}
			live, err = p.Live, c.takePiece(m, p)
			return true
		})
		for _, render := range todo {
			render()
		}
		if wait {
			err = c.outbox.Drained(ctx)
		}
	}
	if errors.Is(err, outbox.ErrClosed) {
		return errEnded
	}
	return err
}

// takePiece pushes a piece of a replay, the last one to a member. A Leave waits for it, and
// nothing is pushed after it.
func (c *Conn) takePiece(m *membership, p sequence.Piece[*delivery]) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.awaitsLocked(m); err != nil {
		return err
	}
	if p.Resync {
		c.resync([]string{m.group.name})
	}
	_ = c.deliver(p.Values)                        // an error: it is ending
	if _, asked := c.resume[m.group.name]; asked { // another Join goes on from here
		c.resume[m.group.name] = sequence.ID(p.At)
	}
	if p.Live {
		c.enterLocked(m)
		if c.resume != nil {
			// What fails here is a connection that is ending.
			_ = c.SendJSON(Event{Type: "grouphub.position", Group: m.group.name, ID: sequence.ID(p.At)})
		}
	}
	return nil
}

// deliver pushes events to one connection. Its errors are those of the outbox's Push.
func (c *Conn) deliver(piece []*delivery) (err error) {
	if piece = c.concerning(piece); len(piece) == 0 {
		return nil
	}
	all := c.hub.compose(c.variant(), piece)
	if all.frames > 0 {
		if err = c.outbox.Push(all.bytes); err == nil {
			c.hub.count.delivered.Add(uint64(all.frames))
		}
	}
	c.hub.count.dropped.Add(uint64(all.lost))
	c.hub.count.unhandled.Add(uint64(all.ignore))
	if all.handle {
		err = cmp.Or(err, c.handleAll(piece))
	}
	return err
}

func (c *Conn) resumesAt(group string) (id string, asked bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	id, asked = c.resume[group]
	return id, asked
}
