package grouphub

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/seed-29c60982/grouphub/internal/envelope"
	"github.com/seed-29c60982/grouphub/internal/outbox"
	"github.com/seed-29c60982/grouphub/internal/sequence"
)

// groupTopic and hubTopic return the layer's topics for a group and for a hub: a hub's
// name can come from a stranger, in a channel's, and must not lead to a group.
func groupTopic(group string) string { return groupPrefix + group }
func hubTopic(hub string) string     { return "h:" + hub }

const groupPrefix = "g:"

// GroupAdd makes the connection of that channel name a member of the group. If the
// connection is this hub's, no event sent after GroupAdd has returned nil is missed,
// and one that has ended is ErrClosed; one of another hub is a member shortly
// afterwards. Adding a member again does nothing. If a client takes longer than this call
// may to be replayed what it missed, another GroupAdd goes on from there.
func (h *Hub) GroupAdd(ctx context.Context, group, channel string) error {
	return h.changeGroup(ctx, envelope.Add, group, channel)
}

// GroupDiscard ends a connection's membership of a group, as [Conn.Leave] does. It is
// no error if there is none.
func (h *Hub) GroupDiscard(ctx context.Context, group, channel string) error {
	return h.changeGroup(ctx, envelope.Discard, group, channel)
}

func (h *Hub) changeGroup(ctx context.Context, kind envelope.Kind, group, channel string) error {
	operation := "group add"
	if kind == envelope.Discard {
		operation = "group discard"
	}
	if err := h.alive(); err != nil {
		return fmt.Errorf("grouphub: %s: %w", operation, err)
	}
	if err := checkGroupName(operation, group); err != nil {
		return err
	}
	hub, err := hubOf(operation, channel)
	if err != nil {
		return err
	}
	if hub != h.name {
		err = h.publish(ctx, hubTopic(hub), (&envelope.Envelope{Kind: kind, Name: group, Channel: channel}).Encode(), controlKeep)
	} else if c := h.conn(channel); c == nil {
		if kind == envelope.Add {
			err = ErrClosed
		}
	} else if kind == envelope.Add {
		ctx, cancel := context.WithTimeout(ctx, layerTimeout) // also for a client that is slow to take a replay
		defer cancel()
		err = h.join(ctx, c, group, sequence.Replay{})
	} else {
		h.leave(c, group)
	}
	if err != nil {
		return fmt.Errorf("grouphub: %s: channel %s, group %s: %w", operation, quoted(channel), quoted(group), err)
	}
	return nil
}

// hubOf returns the name of the hub that a connection's channel belongs to.
func hubOf(operation, channel string) (string, error) {
	if err := checkName(operation, channel); err != nil {
		return "", err
	}
	hub, _, ok := strings.Cut(channel, "!")
	if !ok || hub == "" {
		return "", fmt.Errorf("%w: %s: %s is no connection's channel", ErrInvalidName, operation, quoted(channel))
	}
	return hub, nil
}

// GroupSend sends an event to all members of a group, on every hub of the layer. The
// data is marshalled with encoding/json; bytes that are JSON already go in as a
// json.RawMessage, and nil leaves it out. It returns nil when the layer has accepted
// the event, and does not wait for members.
func (h *Hub) GroupSend(ctx context.Context, group, event string, data any, opts ...SendOption) error {
	if err := cmp.Or(checkName("group send", group), checkName("group send: event type", event)); err != nil {
		return err
	}
	o := mergeOptions(opts)
	payload, err := envelope.EncodeEvent(envelope.Envelope{Except: o.except}, group, event, data, h.options.MaxEventSize)
	if err != nil {
		return fmt.Errorf("grouphub: group send: event %s: %w", quoted(event), err)
	}
	keep := h.keep(h.policy(group))
	if keep.Once = o.once; o.once != "" && keep.Count == 0 {
		return fmt.Errorf("grouphub: send %s to group %s: Once needs a group with history", quoted(event), quoted(group))
	}
	if err := h.publish(ctx, groupTopic(group), payload, keep); err != nil {
		return fmt.Errorf("grouphub: send %s to group %s: %w", quoted(event), quoted(group), err)
	}
	h.count.published.Add(1)
	return nil
}

// GroupClose closes the connections of all members of a group, on every hub, after the
// events that were sent to it before, unless these are in a history that cannot be read;
// Handle calls that still wait are dropped. Code and reason are those of [Conn.Close].
func (h *Hub) GroupClose(ctx context.Context, group string, code int, reason string, opts ...SendOption) error {
	if err := checkName("group close", group); err != nil {
		return err
	}
	err := outbox.CheckClose(code, reason)
	if err == nil {
		env := &envelope.Envelope{Kind: envelope.Close, Name: group, Except: mergeOptions(opts).except, Number: code, Body: []byte(reason)}
		err = h.publish(ctx, controlTopic, env.Encode(), controlKeep)
	}
	if err != nil {
		return fmt.Errorf("grouphub: close group %s: %w", quoted(group), err)
	}
	return nil
}

// Send sends an event to a channel. A name with a "!" is a connection's: the event
// goes to its Events handler; if the connection is of this hub and is closing, Send
// returns ErrClosed, of another hub it is counted there as dropped. Any other name is a
// queue, from which [Hub.Receive] takes; a full one is [ErrQueueFull], and a message
// that nobody takes in time is gone: with the built-in layers 100 messages and 60
// seconds.
func (h *Hub) Send(ctx context.Context, channel, event string, data any) error {
	if err := cmp.Or(checkName("send", channel), checkName("send: event type", event)); err != nil {
		return err
	}
	env, err := envelope.NewEvent("", event, data, h.options.MaxEventSize)
	if err != nil {
		return fmt.Errorf("grouphub: send: event %s: %w", quoted(event), err)
	}
	if !strings.Contains(channel, "!") {
		if err = h.alive(); err == nil {
			err = h.layer.Append(ctx, channel, env.Encode())
		}
	} else if env.Channel = channel; strings.HasPrefix(channel, h.name+"!") {
		if err = h.alive(); err == nil && h.deliverDirect(env) != nil {
			err = ErrClosed
		}
	} else {
		var hub string
		if hub, err = hubOf("send", channel); err != nil {
			return err
		}
		err = h.publish(ctx, hubTopic(hub), env.Encode(), controlKeep)
	}
	if err != nil {
		return fmt.Errorf("grouphub: send %s to channel %s: %w", quoted(event), quoted(channel), err)
	}
	h.count.published.Add(1)
	return nil
}

// Receive takes a message from a named channel, waiting for one until ctx ends. Each
// message goes to one Receive of one hub.
func (h *Hub) Receive(ctx context.Context, channel string) (Event, error) {
	if err := checkName("receive", channel); err != nil {
		return Event{}, err
	}
	if strings.Contains(channel, "!") {
		return Event{}, fmt.Errorf("%w: receive: %s is a connection's channel", ErrInvalidName, quoted(channel))
	}
	if err := h.alive(); err != nil { // Take would still take what is there
		return Event{}, fmt.Errorf("grouphub: receive from %s: %w", quoted(channel), err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(h.life, cancel)()
	for {
		payload, err := h.layer.Take(ctx, channel)
		if closed := h.alive(); err != nil && closed != nil {
			err = closed
		}
		if err != nil {
			return Event{}, fmt.Errorf("grouphub: receive from %s: %w", quoted(channel), err)
		}
		env, err := envelope.Decode(payload)
		if err == nil && env.Kind != envelope.Event {
			err = fmt.Errorf("payload of kind %d in a queue", env.Kind)
		}
		if err != nil {
			h.refusePayload(channel, err)
			continue
		}
		return Event{Type: env.Name, Data: env.Data()}, nil
	}
}

// publish hands an encoded envelope to the layer.
func (h *Hub) publish(ctx context.Context, topic string, payload []byte, keep Keep) error {
	if err := h.alive(); err != nil {
		return err
	}
	return h.layer.Publish(ctx, Publication{Topic: topic, Payload: payload, Keep: keep})
}

// A SendOption changes whom GroupSend and GroupClose reach, and how often.
type SendOption struct {
	except []string
	once   string
}

// Except leaves the connections of these channels out, also of later replays.
func Except(channels ...string) SendOption { return SendOption{except: channels} }

// Once gives an event a key: sent again with the same key to the same group within five
// minutes, it is delivered once. So what ended with [ErrUncertain] can be sent again.
// The group must have history.
func Once(key string) SendOption { return SendOption{once: key} }

func mergeOptions(opts []SendOption) (all SendOption) {
	for _, o := range opts {
		all.except = append(all.except, o.except...)
		all.once = cmp.Or(o.once, all.once)
	}
	return all
}

// A group is what a hub knows of a group with members here. It exists as long as
// somebody holds it: a member, or a join under way.
type group struct {
	name string
	*members

	policy     GroupPolicy
	sequence   *sequence.Sequence[*delivery] // nil: no history
	forget     context.CancelFunc
	subscribed atomic.Bool // the layer has confirmed
	mismatch   atomic.Bool // it was logged that an event had no number
	holders    int         // guarded by Hub.groupsMu

	gap atomic.Bool // events were dropped, and the members are still to be told
}

var errEnded = fmt.Errorf("connection has ended: %w", ErrClosed)

// hold returns the group, and keeps it until let.
func (h *Hub) hold(name string) *group {
	policy := h.policy(name) // before the lock: it may call the hub
	h.groupsMu.Lock()
	defer h.groupsMu.Unlock()
	g := h.groups[name]
	if g == nil {
		g = &group{name: name, policy: policy, forget: func() {}}
		g.members = h.newMembers(g)
		if g.policy.History > 0 {
			var life context.Context
			life, g.forget = context.WithCancel(h.life)
			g.sequence = h.groupSequence(life, g)
		}
		h.groups[name] = g
	}
	g.holders++
	return g
}

func (h *Hub) let(g *group) {
	h.groupsMu.Lock()
	defer h.groupsMu.Unlock()
	if g.holders--; g.holders == 0 {
		delete(h.groups, g.name)
		g.forget()
		// Under the lock, so that an Add for the group's next life comes after it.
		h.subscription.Remove(groupTopic(g.name))
	}
}

func (h *Hub) group(name string) *group {
	h.groupsMu.RLock()
	defer h.groupsMu.RUnlock()
	return h.groups[name]
}

// errMember says that there is nothing to join.
var errMember = errors.New("a member already")

// join subscribes the hub to the group, and then makes the connection a member.
func (h *Hub) join(ctx context.Context, c *Conn, name string, r sequence.Replay) error {
	g := h.hold(name)
	m := &membership{group: g}
	id, asked := c.resumesAt(name)
	if asked { // what the client knows is better than a guess
		r = sequence.Replay{After: id, From: true}
	}
	err := h.ready(ctx, g, r)
	if err == nil {
		err = c.reserve(ctx, m)
	}
	switch {
	case err != nil:
	case g.sequence != nil:
		err = c.joinReplaying(ctx, m, r)
	default:
		if err = c.enter(m); err == nil && asked { // from when the group had history
			c.resync([]string{name})
		}
	}
	if err != nil {
		c.cancelReservation(m)
		h.let(g)
	}
	if m.over != nil {
		close(m.over)
	}
	if err == errMember {
		return nil
	}
	return err
}

// ready waits for the layer to confirm that it delivers the group's events, and for what a
// replay needs.
func (h *Hub) ready(ctx context.Context, g *group, r sequence.Replay) error {
	if !g.subscribed.Load() {
		if !h.ownLayer { // which is in memory: Add waits for nothing, and a timeout would stay a while
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, layerTimeout)
			defer cancel()
		}
		if err := h.subscription.Add(ctx, groupTopic(g.name)); err != nil {
			return err
		}
		g.subscribed.Store(true)
		if g.sequence != nil {
			g.sequence.Start()
		}
		if g.sequence != nil || g.policy.Presence {
			h.upkeep()
		}
	}
	if g.sequence == nil {
		return nil
	}
	return g.sequence.CatchUp(ctx, r)
}

// reserve marks a membership as under way, so that of two Joins at the same time one
// replays, and the other waits. A Leave takes the mark away, and with it the membership.
func (c *Conn) reserve(ctx context.Context, m *membership) error {
	if m.group.sequence != nil {
		m.over = make(chan struct{})
	}
	for {
		c.mu.Lock()
		other := c.groups.Get(m.group.name)
		if other == nil && !c.ended {
			c.groups.Set(m)
			c.mu.Unlock()
			return nil
		}
		ended, member := c.ended, other.entered()
		c.mu.Unlock()
		switch {
		case ended:
			return errEnded
		case member || other.over == nil:
			return errMember
		}
		select {
		case <-other.over: // it may have failed
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (c *Conn) cancelReservation(m *membership) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.groups.Get(m.group.name) == m {
		c.groups.Delete(m.group.name)
	}
}

// awaitsLocked returns nil if a membership is still under way.
func (c *Conn) awaitsLocked(m *membership) error {
	if c.ended {
		return errEnded
	}
	if c.groups.Get(m.group.name) != m {
		return errMember
	}
	return nil
}

func (c *Conn) enter(m *membership) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.awaitsLocked(m)
	if err == nil {
		c.enterLocked(m)
	}
	return err
}

// enterLocked makes a member of a connection that awaits it.
func (c *Conn) enterLocked(m *membership) {
	m.since = time.Now().UnixNano()
	m.group.Add(c, &m.Membership)
	delete(c.resume, m.group.name)
	c.hub.presenceChanged(m.group)
}

// leave ends a membership. When it returns, nothing more of the group is pushed.
func (h *Hub) leave(c *Conn, name string) {
	c.mu.Lock()
	m := c.groups.Get(name)
	if c.ended { // leaveAll has seen to it
		m = nil
	}
	if m != nil {
		c.groups.Delete(name)
		delete(c.resume, name)
	}
	entered := m.entered()
	if entered {
		m.End()
	}
	c.mu.Unlock()
	if entered {
		h.left(m.group)
	}
}

// leaveAll ends all memberships for good.
func (h *Hub) leaveAll(c *Conn) {
	c.mu.Lock()
	c.ended = true // so that groups stays as it is, for Groups
	var members []*membership
	for m := range c.groups.All() {
		if m.entered() {
			m.End()
			members = append(members, m)
		}
	}
	c.mu.Unlock()
	for _, m := range members {
		h.left(m.group)
	}
}

func (h *Hub) left(g *group) {
	h.presenceChanged(g)
	h.let(g)
}

// receiver is the hub as the layer sees it.
type receiver Hub

// Ready implements [Receiver].
func (r *receiver) Ready(ctx context.Context, topic string) error {
	if name, ok := strings.CutPrefix(topic, groupPrefix); ok {
		if g := (*Hub)(r).group(name); g != nil {
			return g.Wait(ctx)
		}
	}
	return nil
}

// Deliver implements [Receiver].
func (r *receiver) Deliver(p Publication) {
	h := (*Hub)(r)
	name, isGroup := strings.CutPrefix(p.Topic, groupPrefix)
	numbered := p.At.Number > 0
	switch {
	case !isGroup && !numbered:
		h.obey(p)
	case p.Topic == controlTopic:
		h.everyone.Receive(p)
	case !isGroup:
		h.own.Receive(p)
	default:
		g := h.group(name)
		if g == nil { // the last member has just left
			return
		}
		if g.sequence != nil && numbered {
			g.sequence.Receive(p)
			return
		}
		if g.sequence != nil {
			h.count.mismatched.Add(1)
			if !g.mismatch.Swap(true) {
				h.logLater("grouphub: event without a number in a group with history: "+
					"not all processes have the same Policy", "group", quoted(name))
			}
		}
		// A publisher that can wait has asked Ready.
		if g.Full() {
			h.count.dropped.Add(uint64(g.Count()))
			g.gap.Store(true)
			h.tellGap(g) // the queue may have emptied meanwhile
			return
		}
		if d := h.newDelivery(g, p); d != nil {
			g.Send(d)
		}
	}
}

// Lost implements [Receiver]. What was numbered is looked for in the history.
func (r *receiver) Lost(topics []string) {
	h := (*Hub)(r)
	h.own.Reconcile(true)
	h.everyone.Reconcile(true)
	var groups []*group
	for _, topic := range topics {
		name, ok := strings.CutPrefix(topic, groupPrefix)
		g := h.group(name)
		if !ok || g == nil {
			continue
		}
		if g.policy.Presence { // it may have been away for longer than a lease
			h.leases.Renew(name)
		}
		if g.sequence != nil {
			g.sequence.Reconcile(true)
		} else {
			groups = append(groups, g)
		}
	}
	h.resync(groups...)
}

// tellGap says Resync for the events that were dropped, once for all of them and not
// before there is room for what follows.
func (h *Hub) tellGap(g *group) {
	if g.Roomy() && g.gap.CompareAndSwap(true, false) {
		h.resync(g)
	}
}

// resync tells the members of groups that events may be lost: each connection once.
func (h *Hub) resync(groups ...*group) {
	concerned := make(map[*Conn][]string)
	for _, g := range groups {
		for _, c := range g.Members() {
			concerned[c] = append(concerned[c], g.name)
		}
	}
	for c, names := range concerned {
		slices.Sort(names)
		c.resync(names)
	}
}

// newDelivery makes what a group's members get of a publication, nil if it makes no
// sense.
func (h *Hub) newDelivery(g *group, p Publication) *delivery {
	env, err := envelope.Decode(p.Payload)
	if err == nil && env.Kind != envelope.Event {
		err = fmt.Errorf("payload of kind %d for a group", env.Kind)
	}
	if err != nil {
		h.refusePayload(p.Topic, err)
		return nil
	}
	d := &delivery{hub: h, group: g, env: env}
	if p.At.Number > 0 {
		d.id = sequence.ID(p.At)
	}
	return d
}

// deliverDirect delivers an event to one connection of this hub. Its errors are those of
// the outbox's Push.
func (h *Hub) deliverDirect(env *envelope.Envelope) error {
	c := h.conn(env.Channel)
	if c == nil {
		return outbox.ErrClosed
	}
	d := []*delivery{{hub: h, env: env}}
	if todo := unrendered(d, []variant{c.variant()}); len(todo) > 0 {
		return c.queueEvent(len(env.Body), func() { // it may block, and the sender must not
			todo[0]()
			_ = c.deliver(d) // an error: it is ending
		})
	}
	return c.deliver(d)
}

// ignore logs an event type without a handler, once, and later: locks may be held that a
// log's handler wants. The caller counts.
func (h *Hub) ignore(event string) {
	if h.unhandled.Is(event) {
		h.goroutines.Go(func() { h.logger().Debug("grouphub: event type without a handler", "type", event) })
	}
}

// refusePayload counts what came through the layer and makes no sense. Each fault is
// logged once.
func (h *Hub) refusePayload(topic string, err error) {
	h.count.dropped.Add(1)
	if h.malformed.Is(err.Error()) {
		h.logLater("grouphub: payload refused", "topic", quoted(topic), "error", err)
	}
}

// logLater logs an error where locks are held that a log's handler may want.
func (h *Hub) logLater(message string, args ...any) {
	h.goroutines.Go(func() { h.logger().Error(message, args...) })
}
