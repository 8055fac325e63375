package grouphub

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
)

// groupTopic and hubTopic return the layer's topics for a group and for a hub: a hub's
// name can come from a stranger, in a channel's, and must not lead to a group.
func groupTopic(group string) string { return groupPrefix + group }
func hubTopic(hub string) string     { return "h:" + hub }

const groupPrefix = "g:"

// GroupAdd makes the connection of that channel name a member of the group. If the
// connection is this hub's, no event sent after GroupAdd has returned nil is missed,
// and one that has ended is ErrClosed; one of another hub is a member shortly
// afterwards. Adding a member again does nothing.
func (h *Hub) GroupAdd(ctx context.Context, group, channel string) error {
	return h.changeGroup(ctx, kindAdd, group, channel)
}

// GroupDiscard ends a connection's membership of a group, as [Conn.Leave] does. It is
// no error if there is none.
func (h *Hub) GroupDiscard(ctx context.Context, group, channel string) error {
	return h.changeGroup(ctx, kindDiscard, group, channel)
}

func (h *Hub) changeGroup(ctx context.Context, kind envelopeKind, group, channel string) error {
	operation := "group add"
	if kind == kindDiscard {
		operation = "group discard"
	}
	if err := h.alive(); err != nil {
		return fmt.Errorf("grouphub: %s: %w", operation, err)
	}
	if err := checkGroup(operation, group); err != nil {
		return err
	}
	hub, err := hubOf(operation, channel)
	if err != nil {
		return err
	}
	if hub != h.name {
		err = h.publish(ctx, hubTopic(hub), &envelope{kind: kind, name: group, channel: channel})
	} else if c := h.conn(channel); c == nil {
		if kind == kindAdd {
			err = ErrClosed
		}
	} else if kind == kindAdd {
		err = h.join(ctx, c, group)
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
	if err := checkName("group send", group); err != nil {
		return err
	}
	env, err := h.newEvent("group send", group, event, data)
	if err != nil {
		return err
	}
	env.except = exceptions(opts)
	if err := h.publish(ctx, groupTopic(group), env); err != nil {
		return fmt.Errorf("grouphub: send %s to group %s: %w", quoted(event), quoted(group), err)
	}
	h.count.published.Add(1)
	return nil
}

// GroupClose closes the connections of all members of a group, on every hub, after the
// events that were sent to it before; Handle calls that still wait are dropped. Code and
// reason are those of [Conn.Close].
func (h *Hub) GroupClose(ctx context.Context, group string, code int, reason string, opts ...SendOption) error {
	if err := checkName("group close", group); err != nil {
		return err
	}
	err := checkClose(code, reason)
	if err == nil {
		env := &envelope{kind: kindClose, except: exceptions(opts), number: code, body: []byte(reason)}
		err = h.publish(ctx, groupTopic(group), env)
	}
	if err != nil {
		return fmt.Errorf("grouphub: close group %s: %w", quoted(group), err)
	}
	return nil
}

// Send sends an event to a channel. A name with a "!" is a connection's: the event
// goes to its Events handler; if the connection is of this hub and has ended, Send
// returns ErrClosed, of another hub it is counted there as dropped. Any other name is a
// queue, from which [Hub.Receive] takes; a full one is [ErrQueueFull], and a message
// that nobody takes in time is gone: with the built-in layers 100 messages and 60
// seconds.
func (h *Hub) Send(ctx context.Context, channel, event string, data any) error {
	if err := checkName("send", channel); err != nil {
		return err
	}
	env, err := h.newEvent("send", "", event, data)
	if err != nil {
		return err
	}
	if !strings.Contains(channel, "!") {
		if err = h.alive(); err == nil {
			err = h.layer.Append(ctx, channel, env.encode())
		}
	} else if env.channel = channel; strings.HasPrefix(channel, h.name+"!") {
		if err = h.alive(); err == nil && !h.deliverDirect(env) {
			err = ErrClosed
		}
	} else {
		var hub string
		if hub, err = hubOf("send", channel); err != nil {
			return err
		}
		err = h.publish(ctx, hubTopic(hub), env)
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
		env, err := decodeEnvelope(payload)
		if err == nil && env.kind != kindEvent {
			err = fmt.Errorf("payload of kind %d in a queue", env.kind)
		}
		if err != nil {
			h.refusePayload(channel, err)
			continue
		}
		return env.event(""), nil
	}
}

// newEvent checks an event and makes its envelope.
func (h *Hub) newEvent(operation, group, event string, data any) (*envelope, error) {
	if err := checkName(operation+": event type", event); err != nil {
		return nil, err
	}
	env, err := newEvent(group, event, data, h.options.MaxEventSize)
	if err != nil {
		return nil, fmt.Errorf("grouphub: %s: event %s: %w", operation, quoted(event), err)
	}
	return env, nil
}

// publish hands an envelope to the layer.
func (h *Hub) publish(ctx context.Context, topic string, env *envelope) error {
	if err := h.alive(); err != nil {
		return err
	}
	return h.layer.Publish(ctx, Publication{Topic: topic, Payload: env.encode()})
}

// A SendOption changes whom GroupSend and GroupClose reach.
type SendOption struct{ except []string }

// Except leaves the connections of these channels out.
func Except(channels ...string) SendOption { return SendOption{except: channels} }

func exceptions(opts []SendOption) []string {
	var all []string
	for _, o := range opts {
		all = append(all, o.except...)
	}
	return all
}

// A group is what a hub knows of a group with members here. It exists as long as
// somebody holds it: a member, or a join under way.
type group struct {
	name   string
	shards []shard // one for each worker

	subscribed atomic.Bool // the layer has confirmed
	holders    int         // guarded by Hub.groupsMu

	// Deliver is never called concurrently for one topic, so at most one publisher
	// waits for room.
	queued atomic.Int64  // bytes of the events that a shard still has to push
	room   chan struct{} // a token when queued has fallen
	gap    atomic.Bool   // events were dropped, and the members are still to be told
}

// maxQueued is how many bytes of events may wait for the workers, for each group.
const maxQueued = 1 << 20

var errEnded = fmt.Errorf("connection has ended: %w", ErrClosed)

// hold returns the group, and keeps it until let.
func (h *Hub) hold(name string) *group {
	h.groupsMu.Lock()
	defer h.groupsMu.Unlock()
	g := h.groups[name]
	if g == nil {
		g = &group{name: name, shards: make([]shard, len(h.workers)), room: make(chan struct{}, 1)}
		for i := range g.shards {
			g.shards[i].hub, g.shards[i].group, g.shards[i].worker = h, g, h.workers[i]
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
		// Under the lock, so that an Add for the group's next life comes after it.
		h.subscription.Remove(groupTopic(g.name))
	}
}

func (h *Hub) group(name string) *group {
	h.groupsMu.RLock()
	defer h.groupsMu.RUnlock()
	return h.groups[name]
}

// join subscribes the hub to the group, and then makes the connection a member.
func (h *Hub) join(ctx context.Context, c *Conn, name string) error {
	g := h.hold(name)
	if !g.subscribed.Load() {
		if err := h.subscription.Add(ctx, groupTopic(name)); err != nil {
			h.let(g)
			return err
		}
		g.subscribed.Store(true)
	}
	c.mu.Lock()
	if !c.ended && c.groups[name] == nil {
		if c.groups == nil {
			c.groups = make(map[string]*membership)
		}
		c.groups[name] = g.shards[c.worker].add(c)
		c.mu.Unlock()
		return nil
	}
	ended := c.ended
	c.mu.Unlock()
	h.let(g)
	if ended {
		return errEnded
	}
	return nil
}

// leave ends a membership. When it returns, nothing more of the group is pushed.
func (h *Hub) leave(c *Conn, name string) {
	c.mu.Lock()
	m := c.groups[name]
	if m != nil {
		delete(c.groups, name)
		m.shard.remove(m)
	}
	c.mu.Unlock()
	if m != nil {
		h.let(m.shard.group)
	}
}

// leaveAll ends all memberships for good.
func (h *Hub) leaveAll(c *Conn) {
	c.mu.Lock()
	c.ended, c.left = true, c.groupNamesLocked()
	groups := c.groups
	c.groups = nil
	for _, m := range groups {
		m.shard.remove(m)
	}
	c.mu.Unlock()
	for _, m := range groups {
		h.let(m.shard.group)
	}
}

func isUserGroup(name string) bool { return strings.HasPrefix(name, userPrefix) }

// receiver is the hub as the layer sees it.
type receiver Hub

// Ready implements [Receiver].
func (r *receiver) Ready(ctx context.Context, topic string) error {
	g := (*Hub)(r).group(strings.TrimPrefix(topic, groupPrefix))
	if g == nil {
		return nil
	}
	for g.queued.Load() > maxQueued {
		select {
		case <-g.room:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// Deliver implements [Receiver].
func (r *receiver) Deliver(p Publication) {
	h := (*Hub)(r)
	name, isGroup := strings.CutPrefix(p.Topic, groupPrefix)
	g := h.group(name)
	if isGroup && g == nil { // the last member has just left
		return
	}
	env, err := decodeEnvelope(p.Payload)
	switch {
	case err != nil:
	case !isGroup:
		err = h.obey(env)
	case env.kind == kindEvent || env.kind == kindClose:
		h.fanOut(g, env)
	default:
		err = fmt.Errorf("payload of kind %d for a group", env.kind)
	}
	if err != nil {
		h.refusePayload(p.Topic, err)
	}
}

// Lost implements [Receiver].
func (r *receiver) Lost(topics []string) {
	h := (*Hub)(r)
	concerned := make(map[*Conn][]string)
	for _, topic := range topics {
		name, ok := strings.CutPrefix(topic, groupPrefix)
		if !ok {
			continue
		}
		g := h.group(name)
		if g == nil {
			continue
		}
		for i := range g.shards {
			for _, c := range g.shards[i].conns() {
				concerned[c] = append(concerned[c], name)
			}
		}
	}
	for c, groups := range concerned {
		slices.Sort(groups)
		c.resync(groups)
	}
}

// fanOut queues an event of a group to the workers that have members. Past the bound
// it is dropped, and the members will be told: a publisher that can wait has asked
// Ready. A close is small, and is what logs somebody out: it is never dropped.
func (h *Hub) fanOut(g *group, env *envelope) {
	if env.kind == kindEvent && g.queued.Load() > maxQueued {
		for i := range g.shards {
			h.count.dropped.Add(uint64(g.shards[i].size.Load()))
		}
		g.gap.Store(true)
		h.tellGap(g) // the queue may have emptied meanwhile
		return
	}
	d := &delivery{hub: h, group: g, env: env}
	for _, channel := range env.except {
		if c := h.conn(channel); c != nil {
			if d.except == nil {
				d.except = make(map[*Conn]struct{})
			}
			d.except[c] = struct{}{}
		}
	}
	d.size = int64(len(env.body)) + deliveryOverhead
	g.queued.Add(d.size)
	d.holders.Store(1)
	for i := range g.shards {
		if s := &g.shards[i]; s.size.Load() > 0 {
			d.holders.Add(1)
			s.put(d)
		}
	}
	d.release()
}

// tellGap says Resync for the events that were dropped, once for all of them and not
// before there is room for what follows.
func (h *Hub) tellGap(g *group) {
	if g.queued.Load() <= maxQueued/2 && g.gap.CompareAndSwap(true, false) {
		(*receiver)(h).Lost([]string{groupTopic(g.name)})
	}
}

// deliverDirect delivers an event to one connection of this hub. It reports whether
// there is such a connection.
func (h *Hub) deliverDirect(env *envelope) bool {
	c := h.conn(env.channel)
	if c == nil {
		return false
	}
	d := &delivery{hub: h, env: env}
	push := func() {
		frame := d.frame(c.endpoint, c.outbox.Deflated())
		if frame == nil {
			h.count.dropped.Add(1)
		} else if c.outbox.Push(frame) == nil { // else the outbox has counted it
			h.count.delivered.Add(1)
		}
	}
	switch eh := c.endpoint.consumer.Events.handler(env.name); eh.kind {
	case handlerNone:
		h.count.unhandled.Add(1)
		h.ignore(env.name)
	case handlerForward:
		push()
	case handlerRender: // it may block, and the sender must not
		c.queueEvent(len(env.body), func() {
			d.render(c.endpoint, eh)
			push()
		})
	case handlerHandle:
		c.handle(eh.handle, d.event())
	}
	return true
}

// ignore logs an event type without a handler, once. The caller counts.
func (h *Hub) ignore(event string) {
	if h.unhandled.first(event) {
		h.logger().Debug("grouphub: event type without a handler", "type", event)
	}
}

// refusePayload counts what came through the layer and makes no sense. Each fault is
// logged once.
func (h *Hub) refusePayload(topic string, err error) {
	h.count.dropped.Add(1)
	if h.malformed.first(err.Error()) {
		h.logger().Error("grouphub: payload refused", "topic", quoted(topic), "error", err)
	}
}
