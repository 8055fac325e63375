package grouphub

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync/atomic"
	"time"

	"github.com/seed-29c60982/grouphub/internal/sequence"
)

// A membership is a connection's place in a group. In a group with history it is pending
// while its Join is under way; it is entered from when the group's events reach the
// connection until its end.
type membership struct {
	group *group        // static
	ready chan struct{} // static; closed when a pending Join has ended; nil in groups with neither history nor snapshots

	// Guarded by the Conn's mu until the membership has entered, and unchanged afterwards.
	shard *shard // which it has entered; nil while it is pending
	since int64  // when that was, in nanoseconds since 1970

	joining bool // it has entered, and its Join waits for a snapshot; guarded by the Conn's mu

	joined time.Duration // the same as an uptime

	// Guarded by the shard's mu, except for number, which does not change.
	index  int         // of its place in the shard
	number uint64      // of the shard's last event before it
	held   []*delivery // what is held back
	wait   *snapshotWait

	told     atomic.Uint32 // the number of the telling with its first presence event, 0 before that
	newsLost atomic.Bool   // presence events were dropped for it since then

	waiting atomic.Int32 // what waits on the connection's strand: see order.go
	left    atomic.Bool  // a Leave has ended it
	behind  atomic.Bool  // its place is, or is about to be, behind
}

// entered reports whether events reach the connection, or did until the membership's end.
func (m *membership) entered() bool { return m != nil && m.shard != nil }

var (
	errEnded = fmt.Errorf("connection has ended: %w", ErrClosed)
	// errMember says that a Join has nothing to do.
	errMember = errors.New("a member already")
)

// join subscribes the hub to the group, and then makes the connection a member.
func (h *Hub) join(ctx context.Context, c *Conn, name string, r sequence.Replay) error {
	g := h.acquireGroup(name) // released when the membership ends, or below if there will be none
	m := &membership{group: g}
	if g.ordered() {
		m.ready = make(chan struct{})
		defer close(m.ready)
	}
	err := h.joinGroup(ctx, c, m, r)
	switch {
	case err == nil:
	case !m.entered():
		c.cancelPending(m)
		h.releaseGroup(g)
	case c.takeBack(m):
		h.left(c, g)
	}
	switch {
	case err == errMember:
		return nil
	case err != nil && c.ctx.Err() != nil:
		return errEnded // whatever the layer said when the call's context ended with the connection
	}
	return err
}

// joinGroup makes the connection a member of a group that this call has acquired.
func (h *Hub) joinGroup(ctx context.Context, c *Conn, m *membership, r sequence.Replay) error {
	g := m.group
	from, resumes := c.resumesFrom(g)
	if resumes { // what the client knows is better than what the consumer guesses
		r = from
	}
	if err := h.subscribe(ctx, g, r); err != nil {
		return err
	}
	if g.ordered() {
		if err := c.setPending(ctx, m); err != nil {
			return err
		}
		if g.sequence != nil && (r.From || g.loader == nil) {
			return c.joinReplaying(ctx, m, r)
		}
		return c.joinWaiting(ctx, m)
	}
	if err := c.enter(m); err != nil {
		return err
	}
	if resumes { // the position is from a time when the group had history
		c.resync(m)
	}
	return nil
}

// subscribe waits for the layer to confirm that it delivers the group's events, and for
// what a replay needs.
func (h *Hub) subscribe(ctx context.Context, g *group, r sequence.Replay) error {
	if !g.subscribed.Load() {
		if !h.ownLayer { // in memory Add does not wait, and the timeout's timer would be a waste
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, layerTimeout)
			defer cancel()
		}
		// A close that is sent from now on must not be missed, which a hub that has just started
		// would do until it has read where the commands are.
		if err := h.sharedCommands.CatchUp(ctx, sequence.Replay{}); err != nil {
			return err
		}
		if err := h.subscription.Add(ctx, groupTopic(g.name)); err != nil {
			return err
		}
		g.subscribed.Store(true)
		if g.sequence != nil {
			g.sequence.Start()
		}
		if g.sequence != nil || g.policy.Presence {
			h.startUpkeep()
		}
		if g.roster != nil { // nothing that changes from now on is missed
			h.leases.check(g.name)
		}
	}
	if g.sequence == nil {
		return nil
	}
	return g.sequence.CatchUp(ctx, r)
}

// setPending makes a membership the one whose Join is under way. Of two Joins at the same
// time one replays, and the other waits for it here. A Leave ends a pending membership.
func (c *Conn) setPending(ctx context.Context, m *membership) error {
	for {
		other, err := c.trySetPending(m)
		if other == nil || err != nil {
			return err
		}
		select {
		case <-other.ready: // it may have failed, so this one tries again
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// trySetPending returns the pending membership that there is to wait for, if there is one.
func (c *Conn) trySetPending(m *membership) (other *membership, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	other = c.groups.get(m.group.name)
	switch {
	case c.ended:
		return nil, errEnded
	case other == nil:
		c.groups.set(m)
		return nil, nil
	case other.entered() && !other.joining:
		return nil, errMember
	}
	return other, nil
}

// cancelPending takes back a membership whose Join has failed.
func (c *Conn) cancelPending(m *membership) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.groups.get(m.group.name) == m {
		c.groups.delete(m.group.name)
	}
}

// pendingLocked returns nil if a membership may still enter.
func (c *Conn) pendingLocked(m *membership) error {
	if c.ended {
		return errEnded
	}
	if c.groups.get(m.group.name) != m { // a Leave has ended it
		return errMember
	}
	return nil
}

// enter makes a connection a member of a group without history. It is never pending there,
// so that of two Joins at the same time none returns before the connection is a member.
func (c *Conn) enter(m *membership) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.ended:
		return errEnded
	case c.groups.get(m.group.name) != nil:
		return errMember
	}
	c.groups.set(m)
	c.enterLocked(m, live)
	return nil
}

// enterLocked makes a member of a connection with a pending membership. If it is not live, it
// gets no events yet, since a replay goes on. It waits for nobody who composes or writes.
func (c *Conn) enterLocked(m *membership, live liveness) {
	m.since, m.joined = time.Now().UnixNano(), uptime()
	m.group.add(c, m, live)
	delete(c.resume, m.group.name)
	c.hub.presenceChanged(m.group, c)
	switch r := m.group.roster; {
	case r == nil:
	case c.subscriber != nil: // which counts in no presence
		r.listen(m)
	default:
		r.enter(m, c.asMemberLocked(m))
	}
}

// leave ends a membership. When it returns, no shard and no replay pushes anything more of the
// group. What waits on the strand in a group with history does not begin any more, but what has
// just begun goes on; in other groups, Handle calls that wait are still made.
func (h *Hub) leave(c *Conn, name string) {
	c.mu.Lock()
	m := c.groups.get(name)
	if c.ended { // leaveAll has seen to it
		m = nil
	}
	if m != nil {
		m.left.Store(true)
		c.groups.delete(name)
		delete(c.resume, name)
	}
	entered := m.entered()
	if entered {
		m.endLocked(c)
	}
	if m != nil && m.group.sequence != nil && c.stream != nil {
		c.stream.leave(m.group)
	}
	if m != nil && m.group.sequence != nil && c.wantsPositions {
		// A replay has told it positions, too. What fails here is a connection that is ending.
		_ = c.SendJSON(Event{Type: "grouphub.left", Group: name})
	}
	c.mu.Unlock()
	if entered {
		h.left(c, m.group)
	}
}

// leaveAll ends all memberships for good. They stay known, for Conn.Groups.
func (h *Hub) leaveAll(c *Conn) {
	c.mu.Lock()
	c.ended = true
	var entered []*membership
	for m := range c.groups.all() {
		if m.entered() {
			m.endLocked(c)
			entered = append(entered, m)
		}
	}
	c.mu.Unlock()
	for _, m := range entered {
		h.left(c, m.group)
	}
}

// endLocked ends a membership that has entered.
func (m *membership) endLocked(c *Conn) {
	m.shard.remove(m)
	if r := m.group.roster; r != nil {
		r.leave(c.channel)
	}
}

// left does what follows the end of a membership that had entered.
func (h *Hub) left(c *Conn, g *group) {
	h.presenceChanged(g, c)
	h.releaseGroup(g)
}

// memberships are a connection's, by their groups' names. Nearly all connections have few
// of them and some have very many, so there is a map only for more than maxWithoutMap: the
// smallest map would take more memory. The zero value is empty. They are guarded by the
// Conn's mu.
type memberships struct {
	few  []*membership
	many map[string]*membership // nil until there are more than a few
}

const maxWithoutMap = 8

// get returns the membership of a group, nil if there is none.
func (m *memberships) get(group string) *membership {
	if m.many != nil {
		return m.many[group]
	}
	if i := m.index(group); i >= 0 {
		return m.few[i]
	}
	return nil
}

// set keeps a membership, in place of another one of the same group.
func (m *memberships) set(one *membership) {
	name := one.group.name
	if m.many == nil {
		if i := m.index(name); i >= 0 {
			m.few[i] = one
			return
		}
		if len(m.few) < maxWithoutMap {
			m.few = append(m.few, one)
			return
		}
		m.many = make(map[string]*membership)
		for _, old := range m.few {
			m.many[old.group.name] = old
		}
		m.few = nil
	}
	m.many[name] = one
}

// delete forgets the membership of a group.
func (m *memberships) delete(group string) {
	if m.many != nil {
		delete(m.many, group)
	} else if i := m.index(group); i >= 0 {
		m.few = slices.Delete(m.few, i, i+1)
	}
}

// all yields the memberships in no order. They may not be changed meanwhile.
func (m *memberships) all() iter.Seq[*membership] {
	return func(yield func(*membership) bool) {
		for _, one := range m.few {
			if !yield(one) {
				return
			}
		}
		for _, one := range m.many {
			if !yield(one) {
				return
			}
		}
	}
}

func (m *memberships) index(group string) int {
	return slices.IndexFunc(m.few, func(one *membership) bool { return one.group.name == group })
}
