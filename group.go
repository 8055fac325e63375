package grouphub

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/seed-29c60982/grouphub/internal/envelope"
	"github.com/seed-29c60982/grouphub/internal/frame"
	"github.com/seed-29c60982/grouphub/internal/sequence"
	"github.com/seed-29c60982/grouphub/layer"
)

// GroupAdd makes the connection of that channel name a member of the group. If the
// connection is this hub's, no event sent after GroupAdd has returned nil is missed,
// and one that has ended is ErrClosed; one of another hub is a member shortly
// afterwards. Adding a member again does nothing. If the call ends before the client has
// taken all of a replay, another GroupAdd goes on from there.
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
		err = h.publishToHub(ctx, hub, &envelope.Envelope{Kind: kind, Name: group, Channel: channel})
	} else if c := h.conn(channel); c == nil {
		if kind == envelope.Add {
			err = ErrClosed
		}
	} else if kind == envelope.Add {
		// The wait for a snapshot, and for a client that is slow to take a replay, is bounded, too.
		ctx, cancel := context.WithTimeout(ctx, h.addTimeout(group))
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

// addTimeout is how long a GroupAdd may take.
func (h *Hub) addTimeout(group string) time.Duration {
	if h.policy(group).Snapshot != nil {
		return layerTimeout + loadTimeout
	}
	return layerTimeout
}

// GroupSend sends an event to all members of a group, on every hub of the layer. The
// data is marshalled with encoding/json; bytes that are JSON already go in as a
// json.RawMessage, and nil leaves it out. It returns nil when the layer has accepted
// the event, and does not wait for members. With [Via], that is when the publisher has it.
func (h *Hub) GroupSend(ctx context.Context, group, event string, data any, opts ...SendOption) error {
	if err := cmp.Or(checkName("group send", group), checkName("group send: event type", event)); err != nil {
		return err
	}
	o := mergeOptions(opts)
	if o.latest != nil {
		if err := checkName("group send: Latest key", *o.latest); err != nil {
			return err
		}
	}
	if o.onlySession {
		return fmt.Errorf("grouphub: send %s to group %s: OnlySession is for GroupClose", quoted(event), quoted(group))
	}
	payload, err := envelope.EncodeEvent(envelope.Envelope{Except: o.except, Options: o.ofEvent()}, group, event, data, h.options.MaxEventSize)
	if err != nil {
		return fmt.Errorf("grouphub: group send: event %s: %w", quoted(event), err)
	}
	keep := h.policy(group).keep(h.options.MaxEventSize)
	if keep.Once = o.once; o.once != "" && keep.Count == 0 {
		return fmt.Errorf("grouphub: send %s to group %s: Once needs a group with history", quoted(event), quoted(group))
	}
	if err := h.publishTo(ctx, h.publisher(o), groupTopic(group), payload, keep); err != nil {
		return fmt.Errorf("grouphub: send %s to group %s: %w", quoted(event), quoted(group), err)
	}
	if o.via == nil {
		h.count.published.Add(1)
	}
	return nil
}

// GroupClose closes the connections of all members of a group, on every hub, after the
// events that were sent to it before, unless these are in a history that cannot be read. In
// a group with history that includes their Handle calls, for which there is CloseTimeout; in
// others, those that still wait are dropped. Who joins after it has returned is spared, also on a
// hub that hears of it late, because its connection to the layer was cut or stood still. Where a
// layer cannot tell how late what it delivers is (one on PostgreSQL, or on a Redis Cluster without
// Sharded), a connection that stood still for a while and then goes on has the hub close those too
// who have joined meanwhile. Code and reason are those of [Conn.Close].
func (h *Hub) GroupClose(ctx context.Context, group string, code int, reason string, opts ...SendOption) error {
	if err := checkName("group close", group); err != nil {
		return err
	}
	o, err := mergeOptions(opts), frame.CheckClose(code, reason)
	if err == nil && o.onlySession && o.session == "" {
		err = errors.New("OnlySession without a session")
	}
	if err == nil {
		env := &envelope.Envelope{Kind: envelope.Close, Name: group, Number: code, Body: []byte(reason),
			Except: o.except, Options: o.ofClose()}
		err = h.publishClose(ctx, env, o)
	}
	if err != nil {
		return fmt.Errorf("grouphub: close group %s: %w", quoted(group), err)
	}
	return nil
}

// endTimeout is how long a GroupClose waits to learn where the group's history ends.
const endTimeout = time.Second

// publishClose hands a GroupClose to all hubs. In a group with history it says after which
// events it comes, since it takes another way than they do, and may be quicker. If that
// cannot be learned, the hubs read the history before they close anything; so they do with
// Via, where events that come before the close may not have their numbers yet. In a group
// without history, a mark among the events says so.
func (h *Hub) publishClose(ctx context.Context, env *envelope.Envelope, o SendOption) error {
	if h.policy(env.Name).History > 0 && o.via == nil {
		reading, cancel := context.WithTimeout(ctx, endTimeout)
		end, err := h.historyEnd(reading, env.Name)
		cancel()
		if err == nil {
			env.After = sequence.ID(end)
		}
	}
	if h.policy(env.Name).History == 0 {
		h.closes.mark(env)
	}
	err := h.publishTo(ctx, h.publisher(o), controlTopic, env.Encode(), controlKeep)
	if err == nil && h.policy(env.Name).History == 0 {
		err = h.closes.publishMark(ctx, env, o)
	}
	return err
}

// A SendOption changes whom GroupSend and GroupClose reach, how often, and by which way.
type SendOption struct {
	except      []string
	exceptUsers []string
	onlySession bool
	session     string
	once        string
	via         layer.Publisher
	latest      *string // nil: none was given
}

// Except leaves out the connections of these channels, in later replays too.
func Except(channels ...string) SendOption { return SendOption{except: channels} }

// ExceptUser leaves out the connections of these users, in later replays too, and so also after a
// reconnect. The empty ID is nobody's: connections without a user are not left out.
func ExceptUser(ids ...string) SendOption {
	users := slices.DeleteFunc(slices.Clone(ids), func(id string) bool { return id == "" })
	return SendOption{exceptUsers: users}
}

// OnlySession has GroupClose close only the connections whose [User].Session this is. With the
// user's group it logs out one session, and leaves the user's others open. GroupSend refuses
// it, and so does GroupClose if it is empty.
func OnlySession(session string) SendOption { return SendOption{onlySession: true, session: session} }

// Once gives an event a key. An event that is sent again to the same group within five
// minutes, with the same key, is not delivered again, so a send that ended with
// [ErrUncertain] can be repeated. The group must have history.
func Once(key string) SendOption { return SendOption{once: key} }

// Via hands what is sent to p in place of the hub's layer. The outbox of package postgres has
// such publishers, which write to the caller's transaction, so that the event goes out if, and
// only if, that commits. p may get several publications for one call, and copies what it keeps
// of them. What is sent so does not count as Published. Via panics if p is nil: the event
// would go out at once, whatever becomes of the transaction.
func Via(p layer.Publisher) SendOption {
	if p == nil {
		panic("grouphub: Via of a nil publisher")
	}
	return SendOption{via: p}
}

// publisher returns what gets the publications of a call.
func (h *Hub) publisher(o SendOption) layer.Publisher {
	if o.via != nil {
		return o.via
	}
	return h.layer
}

// Latest gives an event a key, for values of which only the last one matters: a progress, a
// price, a position on a map. A connection that is behind gets the last of the group's events
// with the same key, behind what was sent before that, and is not closed for the others: at the
// most one for each key waits for it. One that keeps up may get them all. What was replaced
// counts as Superseded in [Stats]. A connection that an event leaves out by [Except] loses
// nothing by it.
//
// In a group with history the ids skip what was replaced, and a replay leaves out what a later
// event replaces. Where keys of more than MaxPending bytes would wait for a connection, it gets
// no event of the group until it has had what waits, and then a Resync, or a snapshot in a group
// that has them.
//
// The key is what the name of an event may be, and else [ErrInvalidName].
func Latest(key string) SendOption { return SendOption{latest: &key} }

// ofEvent returns what an event's envelope says of the options.
func (o SendOption) ofEvent() *envelope.Options {
	switch {
	case o.latest != nil:
		return &envelope.Options{Latest: *o.latest, ExceptUsers: o.exceptUsers}
	case len(o.exceptUsers) > 0:
		return &envelope.Options{ExceptUsers: o.exceptUsers}
	}
	return nil
}

// ofClose returns what a close's envelope says of the options.
func (o SendOption) ofClose() *envelope.Options {
	if len(o.exceptUsers) == 0 && o.session == "" {
		return nil
	}
	return &envelope.Options{ExceptUsers: o.exceptUsers, Session: o.session}
}

func mergeOptions(opts []SendOption) (all SendOption) {
	for _, o := range opts {
		all.except = append(all.except, o.except...)
		all.exceptUsers = append(all.exceptUsers, o.exceptUsers...)
		if o.onlySession {
			all.onlySession, all.session = true, o.session
		}
		all.once = cmp.Or(o.once, all.once)
		if o.via != nil {
			all.via = o.via
		}
		all.latest = cmp.Or(o.latest, all.latest)
	}
	return all
}

// groupPrefix begins the layer's topics for groups.
const groupPrefix = "g:"

// groupTopic returns the layer's topic for a group.
func groupTopic(group string) string { return groupPrefix + group }

// A group is what a hub knows of a group with members here. It exists as long as it has
// users: its members, and joins under way.
type group struct {
	name string
	hash groupHash // of the name; zero without history
	*members

	policy     GroupPolicy
	sequence   *sequence.Sequence[*delivery] // nil: no history
	loader     *loader                       // nil: no snapshots
	roster     *roster                       // nil: comings and goings are not announced
	end        context.CancelFunc            // ends the sequence and the roster
	subscribed atomic.Bool                   // the layer has confirmed that it delivers the group's events
	mismatch   atomic.Bool                   // it was logged that an event had no number
	users      int                           // guarded by Hub.groupsMu
	turn       int                           // the step of each upkeep in which it has its turn; guarded by Hub.groupsMu

	gap atomic.Bool // events were dropped, and the members have not been told yet
}

// acquireGroup returns the group, made if need be, and keeps it until releaseGroup.
func (h *Hub) acquireGroup(name string) *group {
	policy := h.policy(name) // before the lock: it may call the hub
	h.groupsMu.Lock()
	defer h.groupsMu.Unlock()
	g := h.groups[name]
	if g == nil {
		g = h.newGroup(name, policy)
		h.groups[name] = g
		h.turns.add(g)
	}
	g.users++
	return g
}

func (h *Hub) newGroup(name string, policy GroupPolicy) *group {
	g := &group{name: name, policy: policy, end: func() {}}
	g.members = newMembers(h, g)
	life := h.life
	if policy.History > 0 || policy.Announce {
		life, g.end = context.WithCancel(h.life)
	}
	if policy.Announce {
		g.roster = newRoster(h, g, life)
	}
	if policy.History > 0 {
		g.hash = hashGroup(name)
		g.sequence = h.groupSequence(life, g)
	}
	if policy.Snapshot != nil {
		g.loader = &loader{hub: h, group: g}
	}
	return g
}

// releaseGroup ends one use of a group. The last one ends the group on this hub.
func (h *Hub) releaseGroup(g *group) {
	h.groupsMu.Lock()
	defer h.groupsMu.Unlock()
	if g.users--; g.users == 0 {
		delete(h.groups, g.name)
		h.turns.remove(g)
		g.end()
		// This is under the lock, so that an Add for a new group of this name comes after it.
		h.subscription.Remove(groupTopic(g.name))
	}
}

// group returns a group with members here, nil if there is none of that name.
func (h *Hub) group(name string) *group {
	h.groupsMu.RLock()
	defer h.groupsMu.RUnlock()
	return h.groups[name]
}
