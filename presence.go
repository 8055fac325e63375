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
	var leases map[string]Lease
	if err == nil {
		leases, err = h.layer.Leases(ctx, groupTopic(group), nil)
	}
	if err != nil {
		return nil, fmt.Errorf("grouphub: %s: group %s: %w", operation, quoted(group), err)
	}
	all := h.localMembers(group)
	for holder, lease := range leases {
		if holder != h.name { // localMembers knows better
			all = append(all, decodeMembers(h, group, holder, lease.Fields)...)
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

// decodeMembers returns the members that another hub's lease has. What makes no sense is left out.
func decodeMembers[T ~[]byte](h *Hub, group, holder string, fields map[string]T) []Member {
	members := make([]Member, 0, len(fields))
	for field, value := range fields {
		m, err := decodeMember(holder, field, value)
		if err != nil {
			h.refusePayload(group, fmt.Errorf("presence of hub %s: %w", quoted(holder), err))
			continue
		}
		members = append(members, m)
	}
	return members
}

// localMembers returns this hub's members of a group.
func (h *Hub) localMembers(group string) []Member {
	g := h.group(group)
	if g == nil {
		return nil
	}
	var all []Member
	for _, c := range g.conns() {
		if m, ok := c.asMember(group); ok { // otherwise it has just left
			all = append(all, m)
		}
	}
	return all
}

// localMember returns the member of a group that a channel of this hub is, if it is one.
func (h *Hub) localMember(group, channel string) (Member, bool) {
	c := h.conn(channel)
	if c == nil {
		return Member{}, false
	}
	return c.asMember(group)
}

// asMember returns what others see of the connection in a group, if it is a member.
func (c *Conn) asMember(group string) (Member, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.groups.get(group)
	if !m.entered() || c.ended || c.subscriber != nil {
		return Member{}, false
	}
	return c.asMemberLocked(m), true
}

func (c *Conn) asMemberLocked(m *membership) Member {
	u := c.user.current.Load()
	return Member{c.channel, u.ID, u.info, time.Unix(0, m.since)}
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

// userChanged tells presence that a connection has another user, or info, by now.
func (h *Hub) userChanged(c *Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for m := range c.groups.all() {
		if m.entered() && !c.ended {
			h.presenceChanged(m.group, c)
			if r := m.group.roster; r != nil {
				r.change(c.asMemberLocked(m))
			}
		}
	}
}

// rosterOf returns the roster of a group, nil if it has none, or no members here.
func (h *Hub) rosterOf(group string) *roster {
	if g := h.group(group); g != nil {
		return g.roster
	}
	return nil
}

// presenceChanged is called when a connection has joined or left a group, or is another user's.
func (h *Hub) presenceChanged(g *group, c *Conn) {
	if g.policy.Presence && c.subscriber == nil {
		h.leases.changed(g, c.channel)
	}
}
