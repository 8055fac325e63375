package grouphub

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/seed-29c60982/grouphub/internal/envelope"
	"github.com/seed-29c60982/grouphub/internal/outbox"
	"github.com/seed-29c60982/grouphub/internal/sequence"
)

// Hubs send each other commands: to close a group's connections, to change a connection's
// membership, to deliver an event to one connection. They are published to controlTopic,
// to which all hubs are subscribed, or to the topic of one hub. Commands are numbered and
// kept, so that a hub that was cut off carries them out as soon as it is back.
const controlTopic = "c:all"

var controlKeep = Keep{Count: 10_000, Bytes: 16 << 20, Life: 5 * time.Minute}

// ageError is more than the age of a command is wrong by, for layers that count milliseconds.
const ageError = 10 * time.Millisecond

// controlRetry is how long to wait before subscribing to controlTopic again.
const controlRetry = 100 * time.Millisecond

// subscribeToCommands subscribes to controlTopic: at once if the layer does not have to wait
// for that, and otherwise on a goroutine that tries until it succeeds.
func (h *Hub) subscribeToCommands() {
	subscribe := func(ctx context.Context) bool {
		if h.subscription.Add(ctx, controlTopic) != nil {
			return false
		}
		h.hubCommands.Start()
		h.sharedCommands.Start()
		return true
	}
	if subscribe(alreadyCancelled) { // succeeds with a memory layer, where nobody has to wait
		return
	}
	h.goroutines.Go(func() {
		for !subscribe(h.life) {
			select {
			case <-time.After(controlRetry):
			case <-h.life.Done():
				return
			}
		}
	})
}

// hubCommandsLost is told that commands to this hub are gone for good.
func (h *Hub) hubCommandsLost() {
	h.count.dropped.Add(1)
	h.logLater("grouphub: direct sends and changes of membership from other hubs may be lost")
}

// sharedCommandsLost closes the connections that users have by now: one of them may have been
// logged out without this hub hearing of it. All of them come back, so the closes are spread
// over time as those of a Shutdown are. It never blocks.
func (h *Hub) sharedCommandsLost() {
	concerned := slices.DeleteFunc(h.connections(), func(c *Conn) bool { return c.User().ID == "" })
	if len(concerned) == 0 {
		return
	}
	h.goroutines.Go(func() {
		h.logger().Warn("grouphub: a logout may have been missed, closing the connections of all users", "connections", len(concerned))
		spread(h.life, concerned, closePause, maxCloseSpread, func(c *Conn) {
			c.outbox.CloseWith(closeServiceRestart, "please reconnect")
		})
	})
}

// execute carries out a command. It never blocks.
func (h *Hub) execute(p Publication) {
	env, err := envelope.Decode(p.Payload)
	if err == nil {
		switch env.Kind {
		case envelope.Ping:
			if back, ok := h.pings.LoadAndDelete(env.Name); ok {
				close(back.(chan struct{}))
			}
		case envelope.Event:
			if h.deliverDirect(env) == outbox.ErrClosed { // other errors are counted already
				h.count.dropped.Add(1)
			}
		case envelope.Close:
			env.SentBefore = sentBefore(p)
			h.closeMembers(env)
		case envelope.Renew:
			env.SentBefore = sentBefore(p)
			err = h.renewUser(env)
		case envelope.Post:
			err = h.takePost(env)
		case envelope.Answer:
			if answer, ok := h.answers.LoadAndDelete(env.Name); ok {
				answer.(chan int) <- env.Number
			}
		case envelope.Seen:
			h.lostEpochs.seenElsewhere(env)
		default:
			if err = checkGroupName("change of membership", env.Name); err == nil {
				h.membershipCommands.add(env)
			}
		}
	}
	if err != nil {
		h.refusePayload(p.Topic, err)
	}
}

// sentBefore returns when a command was sent at the latest, as an uptime.
func sentBefore(p Publication) time.Duration { return uptime() - max(p.Age-ageError, 0) }

// closeMembers closes the connections of a group's members on this hub, after the group's
// events that were sent before the command.
func (h *Hub) closeMembers(env *envelope.Envelope) {
	g := h.group(env.Name)
	if g == nil {
		return
	}
	if g.sequence == nil {
		h.closes.command(g, env)
	} else {
		d := &delivery{hub: h, group: g, env: env}
		after, _ := sequence.ParseID(env.After)
		g.sequence.DoAfter(after, func() { g.send(d) })
	}
}

// changeMembership carries out another hub's GroupAdd or GroupDiscard. It may wait for the
// layer.
func (h *Hub) changeMembership(env *envelope.Envelope) {
	c := h.conn(env.Channel)
	defer func() {
		if p := recover(); p != nil { // the application's Policy has panicked
			h.logPanic(p, "policy", env.Channel)
			c.outbox.CloseWith(closeInternalError, "internal error")
		}
	}()
	switch {
	case c == nil: // it has ended, and is in no group any more
	case env.Kind == envelope.Discard:
		h.leave(c, env.Name)
	default:
		if err := h.join(c.ctx, c, env.Name, sequence.Replay{}); err != nil && !errors.Is(err, ErrClosed) && c.ctx.Err() == nil {
			h.count.dropped.Add(1)
			h.logger().Error("grouphub: group add from another hub failed", "channel", env.Channel,
				"group", env.Name, "error", err)
			if errors.Is(err, errNoSnapshot) { // nobody else hears of it
				h.closeWithoutSnapshot([]*Conn{c})
			}
		}
	}
}

// membershipCommands are the changes of membership that other hubs have asked for. Those
// of one connection are carried out in order, one at a time, and those of different ones
// at the same time. A connection has a goroutine of the hub while there are some for it.
type membershipCommands struct {
	hub *Hub // static

	mu      sync.Mutex
	waiting map[string][]*envelope.Envelope // by the channel of connections that have a goroutine
}

// add queues a command. It never blocks.
func (m *membershipCommands) add(env *envelope.Envelope) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.waiting == nil {
		m.waiting = make(map[string][]*envelope.Envelope)
	}
	channel := env.Channel
	waiting, running := m.waiting[channel]
	m.waiting[channel] = append(waiting, env)
	if !running {
		m.hub.goroutines.Go(func() {
			for commands := m.next(channel); len(commands) > 0; commands = m.next(channel) {
				for _, env := range commands {
					m.hub.changeMembership(env)
				}
			}
		})
	}
}

// next returns all commands that wait for a connection. If there are none, its goroutine
// ends.
func (m *membershipCommands) next(channel string) []*envelope.Envelope {
	m.mu.Lock()
	defer m.mu.Unlock()
	commands := m.waiting[channel]
	if m.waiting[channel] = nil; len(commands) == 0 {
		delete(m.waiting, channel)
	}
	return commands
}
