package grouphub

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// ErrNoPresence means that the policy of a group does not ask for presence.
var ErrNoPresence = errors.New("grouphub: group without presence")

const (
	// upkeepInterval is how often positions are compared and leases renewed.
	upkeepInterval = 20 * time.Second
	// presenceLife is how long the members of a hub that has crashed are still listed.
	presenceLife = 60 * time.Second
	// presencePause is how long changes of one group are gathered for one lease.
	presencePause = 50 * time.Millisecond
	// maxLeases is how many leases are written at the same time, and renewed: many, or
	// those of one slow server would hold up the others'.
	maxLeases = 512
)

// A Member is a connection in a group, of any hub.
type Member struct {
	Channel string
	UserID  string    // "" if anonymous
	Since   time.Time // when it joined, by its hub's clock
}

// Members returns the members of a group on all hubs, those who came first before the
// others. The group's policy must have Presence, or it is [ErrNoPresence]. Changes on
// other hubs show after a moment, and the members of a hub that crashed for up to a
// minute.
func (h *Hub) Members(ctx context.Context, group string) ([]Member, error) {
	if err := checkName("members", group); err != nil {
		return nil, err
	}
	err := h.alive()
	if err == nil && !h.policy(group).Presence {
		err = ErrNoPresence
	}
	var values map[string][]byte
	if err == nil {
		values, err = h.layer.Leases(ctx, groupTopic(group))
	}
	if err != nil {
		return nil, fmt.Errorf("grouphub: members of group %s: %w", quoted(group), err)
	}
	all := h.localMembers(group)
	for holder, value := range values {
		if holder == h.name { // what is known here is newer
			continue
		}
		var members []Member
		if err := json.Unmarshal(value, &members); err != nil {
			h.refusePayload(group, fmt.Errorf("presence of hub %s: %w", quoted(holder), err))
			continue
		}
		all = append(all, members...)
	}
	slices.SortFunc(all, func(a, b Member) int {
		return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.Channel, b.Channel))
	})
	return all, nil
}

func (h *Hub) localMembers(group string) []Member {
	g := h.group(group)
	if g == nil {
		return nil
	}
	var all []Member
	for _, c := range g.Members() {
		c.mu.Lock()
		if m := c.groups[group]; m.entered() { // else it has just left
			all = append(all, Member{c.channel, c.user.ID, m.since})
		}
		c.mu.Unlock()
	}
	return all
}

// presenceChanged notes that the hub's members of a group are others now.
func (h *Hub) presenceChanged(g *group) {
	if g.policy.Presence {
		h.presence.Add(g.name)
	}
}

// writeLease writes this hub's members of a group, or takes the lease back when there
// are none.
func (h *Hub) writeLease(name string) (ok bool) {
	members, life := h.localMembers(name), presenceLife
	if len(members) == 0 {
		life = 0
	}
	value, err := json.Marshal(members)
	if err != nil {
		panic(err) // a Member always marshals
	}
	_, err = h.layer.Lease(h.words, groupTopic(name), h.name, value, life)
	return err == nil || h.life.Err() != nil // at the end there is one try
}

// renewLease prolongs the lease of a group's members, and has it written if it is gone: a
// renewal must not cost what the members do.
func (h *Hub) renewLease(name string) (ok bool) {
	g := h.group(name)
	if g == nil || h.life.Err() != nil {
		return true
	}
	ok, err := h.layer.Lease(h.life, groupTopic(name), h.name, nil, presenceLife)
	if err == nil && !ok {
		h.presenceChanged(g)
	}
	return err == nil || h.life.Err() != nil
}

// keepUp renews leases and compares positions now and then.
func (h *Hub) keepUp() {
	ticker := time.NewTicker(upkeepInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-h.life.Done():
			return
		}
		h.own.Check(false)
		h.everyone.Check(false)
		h.groupsMu.RLock()
		groups := slices.Collect(maps.Values(h.groups))
		h.groupsMu.RUnlock()
		for _, g := range groups {
			if g.sequence != nil {
				g.sequence.Check(false)
			}
			if g.policy.Presence {
				h.renewals.Add(g.name)
			}
		}
	}
}
