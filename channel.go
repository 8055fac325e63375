package grouphub

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	"github.com/seed-29c60982/grouphub/internal/envelope"
	"github.com/seed-29c60982/grouphub/internal/outbox"
)

// Send sends an event to a channel. A name with a "!" is a connection's: the event
// goes to its Events handler. If the connection is of this hub and is closing, Send
// returns ErrClosed; if it is of another hub, the event is counted there as dropped. For a hub
// that is cut off, it is kept for five minutes; for one that is not there, nothing is. Any
// other name is a queue, from which [Hub.Receive] takes. Sending to a full queue is
// [ErrQueueFull], and a message that nobody takes in time is gone. The built-in layers
// keep 100 messages for 60 seconds.
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
		err = h.publishToHub(ctx, hub, env)
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
	if err := h.alive(); err != nil { // the layer may be alive, and would give a message away
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

// hubTopic returns the layer's topic for a hub. A hub's name can come from a stranger, in
// a channel's, and must not lead to a group, so it has a prefix that groups do not have.
func hubTopic(hub string) string { return "h:" + hub }

// deliverDirect delivers an event to one connection of this hub. Its errors are those of
// the outbox's Push.
func (h *Hub) deliverDirect(env *envelope.Envelope) error {
	c := h.conn(env.Channel)
	if c == nil {
		return outbox.ErrClosed
	}
	d := []*delivery{{hub: h, env: env}}
	// A Render may block, and the sender must not wait for it.
	if todo := missingRenders(d, []variant{c.variant()}); len(todo) > 0 || c.hasConditions(d) {
		return c.queueCallback(len(env.Body), func() {
			for _, render := range todo {
				render()
			}
			_ = c.deliver(nil, c.wanted(d), allStay) // fails if the connection is ending
		})
	}
	return c.deliver(nil, d, allStay)
}
