package grouphub

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
	"unicode/utf8"
)

// ErrNoPresence means that the policy of a group does not ask for presence.
var ErrNoPresence = errors.New("grouphub: group without presence")

// A Member is a connection in a group, of any hub.
type Member struct {
	Channel string
	UserID  string          // "" if anonymous
	Info    json.RawMessage // the user's, nil if it has none
	Since   time.Time       // when it joined, by its hub's clock
}

// Members returns the members of a group on all hubs, those who came first before the
// others. If the group's policy has no Presence, the error is [ErrNoPresence]. Changes on
// other hubs show after a moment, and the members of a hub that crashed for up to a
// minute.
func (h *Hub) Members(ctx context.Context, group string) ([]Member, error) {
	all, err := h.members(ctx, "members", group)
	slices.SortFunc(all, func(a, b Member) int {
		return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.Channel, b.Channel))
	})
	return all, err
}

// members returns the members of a group on all hubs, in no order.
func (h *Hub) members(ctx context.Context, operation, group string) ([]Member, error) {
	if err := checkName(operation, group); err != nil {
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
		return nil, fmt.Errorf("grouphub: %s: group %s: %w", operation, quoted(group), err)
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
		for _, m := range members {
			if string(m.Info) == "null" {
				m.Info = nil
			}
			all = append(all, m)
		}
	}
	return all, nil
}

// Count returns how many are in a group on all hubs: each user once, however many
// connections it has, and each connection without a user. It asks as Members does.
func (h *Hub) Count(ctx context.Context, group string) (int, error) {
	members, err := h.members(ctx, "count", group)
	users, count := make(map[string]bool), 0
	for _, m := range members {
		if m.UserID == "" || !users[m.UserID] {
			count++
		}
		users[m.UserID] = true
	}
	return count, err
}

// Online reports whether a user has a connection, on whichever hub. The policy of its
// [UserGroup] has to have Presence; otherwise the error is [ErrNoPresence].
func (h *Hub) Online(ctx context.Context, userID string) (bool, error) {
	members, err := h.members(ctx, "online", UserGroup(userID))
	return len(members) > 0, err
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
			all = append(all, Member{c.channel, c.user.ID, c.info, time.Unix(0, m.since)})
		}
		c.mu.Unlock()
	}
	return all
}

// marshalInfo returns the JSON of a user's Info. It calls the application's code, and takes a
// panic of that for an error.
func marshalInfo(u User) (info json.RawMessage, err error) {
	if u.Info == nil {
		return nil, nil
	}
	defer func() {
		if p := recover(); p != nil {
			info, err = nil, fmt.Errorf("grouphub: info of user %s: panic: %v", quoted(u.ID), p)
		}
	}()
	info, err = json.Marshal(u.Info)
	if err == nil && !utf8.Valid(info) { // a json.RawMessage passes as it is, and browsers hang up
		err = errors.New("not UTF-8")
	}
	if err != nil {
		return nil, fmt.Errorf("grouphub: info of user %s: %w", quoted(u.ID), err)
	}
	return info, nil
}

// userChanged tells presence that a connection has another user, or info, by now. Both have
// been set under the connection's mu, which the caller has released.
func (h *Hub) userChanged(c *Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for m := range c.groups.all() {
		if m.entered() && !c.ended {
			h.presenceChanged(m.group)
		}
	}
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
