package grouphub

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/seed-29c60982/grouphub/internal/envelope"
	"github.com/seed-29c60982/grouphub/internal/sequence"
)

// A receiver is the hub as the layer sees it.
type receiver Hub

// Ready implements [Receiver].
func (r *receiver) Ready(ctx context.Context, topic string) error {
	if name, ok := strings.CutPrefix(topic, groupPrefix); ok {
		if g := (*Hub)(r).group(name); g != nil {
			return g.waitForRoom(ctx)
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
	case isGroup:
		if g := h.group(name); g != nil { // else the last member has just left
			h.deliverToGroup(g, p, numbered)
		}
	case !numbered:
		h.execute(p)
	case p.Topic == controlTopic:
		h.sharedCommands.Receive(p)
	default:
		h.hubCommands.Receive(p)
	}
}

func (h *Hub) deliverToGroup(g *group, p Publication, numbered bool) {
	if g.sequence != nil && numbered {
		g.sequence.Receive(p)
		return
	}
	if envelope.KindOf(p.Payload) == envelope.Notice {
		h.receiveNotice(g, p)
		return
	}
	if g.sequence != nil {
		h.count.mismatched.Add(1)
		if !g.mismatch.Swap(true) {
			h.logLater("grouphub: event without a number in a group with history: "+
				"not all processes have the same Policy", "group", quoted(g.name))
		}
	}
	// A layer whose publisher can wait has asked Ready.
	if g.full() {
		h.count.dropped.Add(uint64(g.size()))
		g.gap.Store(true)
		h.tellGap(g) // the queue may have emptied meanwhile
		return
	}
	if d := h.newDelivery(g, p); d != nil && d.env.Kind == envelope.Close {
		h.closes.marks(g, d.env)
	} else if d != nil {
		g.send(d)
	}
}

// receiveNotice takes what another hub says of its members.
func (h *Hub) receiveNotice(g *group, p Publication) {
	env, err := envelope.Decode(p.Payload)
	var n leaseNotice
	if err == nil {
		err = json.Unmarshal(env.Body, &n)
	}
	switch {
	case err != nil:
		h.refusePayload(p.Topic, err)
	case g.roster != nil:
		g.roster.notice(env.Name, n)
	}
}

// Lost implements [Receiver]. Numbered publications are looked for in the history.
func (r *receiver) Lost(topics []string) {
	h := (*Hub)(r)
	h.hubLeases.doubt()
	h.hubLeases.renew()
	// A close that the commands' history has may wait for what its group's history has.
	defer h.hubCommands.Reconcile(true)
	defer h.sharedCommands.Reconcile(true)
	var groups []*group
	for _, topic := range topics {
		name, ok := strings.CutPrefix(topic, groupPrefix)
		g := h.group(name)
		if !ok || g == nil {
			continue
		}
		// The lease may have ended, or have come back as it was before the last changes: a
		// server that crashed, or was failed over from, loses its last writes.
		if g.policy.Presence {
			h.leases.pardon(g.name)
			h.leases.renew(g.name)
		}
		if g.sequence != nil {
			g.sequence.Reconcile(true)
		} else {
			groups = append(groups, g)
		}
	}
	h.resync(groups...)
}

// newDelivery makes a delivery of a publication. It is nil if the payload makes no sense.
func (h *Hub) newDelivery(g *group, p Publication) *delivery {
	env, err := envelope.Decode(p.Payload)
	isMark := err == nil && env.Kind == envelope.Close && p.At.Number == 0 && env.After != "" && env.Name == g.name
	if err == nil && env.Kind != envelope.Event && !isMark {
		err = fmt.Errorf("payload of kind %d for a group", env.Kind)
	}
	if err != nil {
		h.refusePayload(p.Topic, err)
		return nil
	}
	d := &delivery{hub: h, group: g, env: env, at: p.At}
	if p.At.Number > 0 {
		d.id = sequence.ID(p.At)
	}
	if env.Options != nil && env.Options.Latest != "" {
		d.key = g.name + "\x00" + env.Options.Latest // a name has no zero byte
	}
	return d
}
