package grouphub

import (
	"context"
	"errors"
	"time"

	"github.com/seed-29c60982/grouphub/internal/envelope"
	"github.com/seed-29c60982/grouphub/internal/outbox"
	"github.com/seed-29c60982/grouphub/internal/sequence"
	"github.com/seed-29c60982/grouphub/internal/track"
)

// controlTopic is what all hubs are subscribed to. Each hub listens to its own name,
// too. What is said there is numbered and kept, so that a hub that was cut off
// does it as soon as it is back.
const controlTopic = "c:all"

var controlKeep = Keep{Count: 10_000, Bytes: 16 << 20, Life: 5 * time.Minute}

// listen subscribes to the control topic, if need be when the layer is up.
func (h *Hub) listen() {
	listening := func(ctx context.Context) bool {
		if h.subscription.Add(ctx, controlTopic) != nil {
			return false
		}
		h.own.Start()
		h.everyone.Start()
		return true
	}
	if listening(track.Over) { // with a layer in memory nobody has to wait
		return
	}
	h.goroutines.Go(func() {
		for !listening(h.life) {
			select {
			case <-time.After(100 * time.Millisecond):
			case <-h.life.Done():
				return
			}
		}
	})
}

// lostOwn says that what other hubs wanted of this one is gone.
func (h *Hub) lostOwn() {
	h.count.dropped.Add(1)
	h.logLater("grouphub: direct sends and changes of membership from other hubs may be lost")
}

// lostEveryone closes all who may have been logged out without this hub hearing of it.
func (h *Hub) lostEveryone() {
	for _, c := range h.connections() {
		if c.user.ID != "" {
			c.outbox.CloseWith(closeServiceRestart, "please reconnect")
		}
	}
}

// obey does what an envelope for hubs says. It never blocks.
func (h *Hub) obey(p Publication) {
	env, err := envelope.Decode(p.Payload)
	if err == nil {
		switch {
		case env.Kind == envelope.Ping:
			if back, ok := h.pings.LoadAndDelete(env.Name); ok {
				close(back.(chan struct{}))
			}
		case env.Kind == envelope.Event:
			if h.deliverDirect(env) == outbox.ErrClosed { // any other error is counted
				h.count.dropped.Add(1)
			}
		case env.Kind == envelope.Close:
			if g := h.group(env.Name); g != nil {
				d := &delivery{hub: h, group: g, env: env}
				if g.sequence == nil {
					g.Send(d)
				} else { // after the events that have come
					g.sequence.Do(func() { g.Send(d) })
				}
			}
		default:
			if err = checkGroupName("change of membership", env.Name); err == nil {
				h.changes.Add(env.Channel, env)
			}
		}
	}
	if err != nil {
		h.refusePayload(p.Topic, err)
	}
}

// change carries out another hub's GroupAdd or GroupDiscard. It may wait for the layer.
func (h *Hub) change(env *envelope.Envelope) {
	c := h.conn(env.Channel)
	defer func() {
		if p := recover(); p != nil { // a Policy has
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
		}
	}
}
