package grouphub

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
)

// ErrNoPresence means that the policy of a group does not ask for presence.
var ErrNoPresence = errors.New("grouphub: group without presence")

// A Member is a connection in a group, of any hub.
type Member struct {
	Channel string
	UserID  string    // "" if anonymous
	Since   time.Time // when it joined, by its hub's clock
}

// Members returns the members of a group on all hubs, those who came first before the
// others. If the group's policy has no Presence, the error is [ErrNoPresence]. Changes on
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
		if holder == h.name { // localMembers knows better
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
	for _, c := range g.conns() {
		c.mu.Lock()
		if m := c.groups.get(group); m.entered() && !c.ended { // otherwise it has just left
			all = append(all, Member{c.channel, c.user.ID, time.Unix(0, m.since)})
		}
		c.mu.Unlock()
	}
	return all
}

// presenceChanged is called when a connection has joined or left a group.
func (h *Hub) presenceChanged(g *group) {
	if g.policy.Presence {
		h.leases.changed(g.name)
	}
}

// presenceValue returns this hub's members of a group in the form that the layer keeps, nil
// if there are none.
func (h *Hub) presenceValue(group string) []byte {
	members := h.localMembers(group)
	if len(members) == 0 {
		return nil
	}
	value, _ := json.Marshal(members) // a Member always marshals
	return value
}
