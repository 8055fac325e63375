package grouphub

import (
	"context"
	"errors"
	"slices"

	"github.com/seed-29c60982/grouphub/internal/outbox"
	"github.com/seed-29c60982/grouphub/internal/sequence"
)

const (
	// replayPiece is how many bytes of history are pushed at once, to an outbox that has
	// drained. So a replay that is larger than MaxPending does not make its connection a
	// slow one.
	replayPiece = 256 << 10
	// maxReads is how many histories are read at the same time.
	maxReads = 64
)

// newSource returns the source of a topic's sequence, with what is the same for all topics.
func newSource[T any](h *Hub, topic string, keep Keep) sequence.Source[T] {
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
	source := newSource[*delivery](h, groupTopic(g.name), g.policy.keep(h.options.MaxEventSize))
	source.Decode = func(p Publication) (*delivery, bool) {
		d := h.newDelivery(g, p)
		return d, d != nil
	}
	source.Deliver = g.send
	source.Resync = func() { g.sendGap(nil) }
	source.Full = g.full
	source.WaitForRoom = g.waitForRoom
	source.Recovered = func() { h.count.recovered.Add(1) }
	return sequence.New(ctx, source)
}

// commandSequence returns the sequence of a topic on which hubs send each other commands.
func (h *Hub) commandSequence(topic string, lost func(), epochLost func(Position)) *sequence.Sequence[Publication] {
	source := newSource[Publication](h, topic, Keep{}) // keeps nothing, since nobody asks for a replay
	source.Commands = true
	source.New = topic != controlTopic // but for that, a topic is a hub's own, by a name that is random
	source.Decode = func(p Publication) (Publication, bool) { return p, true }
	source.Deliver = h.execute
	source.Resync, source.EpochLost = lost, epochLost
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

// joinReplaying makes a connection with a pending membership a member of a group with
// history. What it asks for is replayed first, and between the replay and the live events
// there is no gap and no repeat. What its callbacks have no room for is replayed once they
// have run, which may be when this has returned: the Join can be one of them.
func (c *Conn) joinReplaying(ctx context.Context, m *membership, r sequence.Replay) error {
	for {
		step, err := c.replayStep(m, &r)
		switch {
		case err != nil || step.live:
			return err
		case step.snapshot:
			return c.joinWaiting(ctx, m)
		case step.full:
			return c.enterBehind(m, r)
		}
		if err := c.prepareReplay(ctx, step); err != nil {
			return err
		}
	}
}

// prepareReplay does what has to come before the next piece of a replay.
func (c *Conn) prepareReplay(ctx context.Context, step replayStep) error {
	for _, render := range step.renders {
		render()
	}
	if !step.drain {
		return nil
	}
	err := c.outbox.Drained(ctx)
	if errors.Is(err, outbox.ErrClosed) {
		return errEnded
	}
	return err
}

// A replayStep says what became of the next piece of a replay. If it was pushed, renders is
// empty, and drain and full are false.
type replayStep struct {
	live     bool     // the replay is over: the connection gets what is sent from now on
	snapshot bool     // the replay is over, because something is gone that a snapshot has
	renders  []func() // have to run before the piece can be pushed; they may block
	drain    bool     // the outbox has to drain before the piece is pushed
	full     bool     // callbacks have to run before there is room for the piece's
}

// replayStep pushes the next piece of a replay, or says what has to come before that. Nothing
// is composed or written under the sequence's lock, which the arrival of events needs.
func (c *Conn) replayStep(m *membership, r *sequence.Replay) (step replayStep, err error) {
	p := m.group.sequence.Next(r, c.pieceLimit(m), pieceSize)
	var superseded int
	if p.Values = c.without(p.Values); !c.hasConditions(p.Values) { // what they refuse replaces nothing
		p.Values, superseded = withoutSuperseded(p.Values)
	}
	if step.renders = missingRenders(p.Values, []variant{c.variant()}); len(step.renders) > 0 {
		return step, nil
	}
	p.Values = c.wanted(p.Values)
	return c.pushPiece(m, r, p, superseded)
}

// pieceLimit is how many bytes a piece of a replay has, as pieceSize counts them. Its Handle
// calls wait together, and so may what they send.
func (c *Conn) pieceLimit(m *membership) int {
	if m.inOrder(c) {
		return min(replayPiece, c.hub.limits.Pending/2)
	}
	return replayPiece
}

// pieceSize is what an event counts for in a piece of a replay.
func pieceSize(d *delivery) int { return d.waitingSize() }

// pushPiece pushes a piece of a replay, if there is room for it: of two replays at the same
// time, the second one sees what the first has pushed. With the last piece the connection
// becomes a member, or goes live if it is one already; if that has to be tried again, the
// step is empty. So many events were left out of the piece already for later ones in it. A Leave waits for it, and nothing is pushed after the Leave.
func (c *Conn) pushPiece(m *membership, r *sequence.Replay, p sequence.Piece[*delivery], superseded int) (step replayStep, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.pendingLocked(m); err != nil {
		return step, err
	}
	if p.Resync && m.group.loader != nil {
		if step.snapshot = true; m.entered() {
			m.shard.goWaiting(c, m)
		}
		return step, nil
	}
	step.drain = len(p.Values) > 0 && c.outbox.Drained(alreadyCancelled) != nil
	step.full = m.inOrder(c) && !c.hasRoom(m, p.Values)
	if step.drain || step.full {
		return step, nil
	}
	if p.Last {
		if !c.goLiveLocked(m, r, &p) {
			return step, nil
		}
		step.live = p.Last
	}
	if step.live {
		defer m.shard.endHoldBack(m)
	}
	p.Pass(r)
	group := m.group.name
	if p.Resync {
		c.resync(m)
	}
	values, n := withoutSuperseded(c.without(p.Values))
	c.hub.count.superseded.Add(uint64(superseded + n))
	_ = c.deliver(m, values, allStay)           // fails if the connection is ending
	if _, resumes := c.resume[group]; resumes { // another Join would go on from here
		c.resume[group] = sequence.ID(p.At)
	}
	if c.stream != nil {
		c.stream.resumeLater(m.group, p.At)
	}
	if step.live {
		c.tellPosition(m, p.At)
	}
	return step, nil
}

// tellPosition tells a client where it is when it has joined.
func (c *Conn) tellPosition(m *membership, at Position) {
	if c.wantsPositions {
		c.sendInOrder(m, positionEvent(m.group.name, sequence.ID(at)))
	}
	if c.stream != nil {
		c.doInOrder(m, func() { c.stream.sendPosition(c, m.group, at) })
	}
}

// goLiveLocked has a connection get what follows the last piece of its replay, to which it
// adds what has come since that was read. What follows is held back until the piece is
// pushed. It reports false if the piece has to be read again. If there are conditions for what
// has come since, the piece is pushed, and is not the last one.
func (c *Conn) goLiveLocked(m *membership, r *sequence.Replay, p *sequence.Piece[*delivery]) bool {
	ok := m.group.sequence.Enter(r, p, c.pieceLimit(m), pieceSize, func(more []*delivery) bool {
		switch {
		case c.hasConditions(more): // they are not asked with a lock held
			p.Last = false
			return false
		case len(missingRenders(more, []variant{c.variant()})) > 0: // they may block
			return false
		case len(more) > 0 && m.inOrder(c) && !c.hasRoom(m, slices.Concat(p.Values, more)):
			return false
		case m.entered():
			m.shard.goLive(c, m)
		default:
			c.enterLocked(m, liveSoon)
		}
		return true
	})
	return ok || !p.Last
}

// enterBehind makes a connection a member that gets no events yet, and has its replay go on
// when its callbacks have run.
func (c *Conn) enterBehind(m *membership, r sequence.Replay) error {
	c.mu.Lock()
	err := c.pendingLocked(m)
	if err == nil {
		c.enterLocked(m, notLive)
		m.waiting.Add(1) // until the replay is over
	}
	c.mu.Unlock()
	if err == nil {
		c.queueReplay(m, r)
	}
	return err
}

// queueReplay queues the next piece of a replay behind the callbacks that wait. It fails if
// the connection is ending anyway.
func (c *Conn) queueReplay(m *membership, r sequence.Replay) {
	c.strand.Continue(func() {
		step, err := c.replayStep(m, &r)
		if err != nil || step.live || step.snapshot {
			m.waiting.Add(-1)
			return
		}
		if c.prepareReplay(c.ctx, step) == nil {
			c.queueReplay(m, r)
		}
	})
}
