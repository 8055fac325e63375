package grouphub

import (
	"context"
	"slices"
	"sync"
	"time"
)

// A roster is who is in a group on all hubs, and what its members on this hub have been told.
type roster struct {
	// Static.
	hub   *Hub
	group *group
	life  context.Context // ends with the group on this hub

	mu          sync.Mutex
	loaded      bool // the leases of the others have been read once
	running     bool // there is a goroutine that will tell
	tellings    uint32
	newcomers   []*membership // who have not been told anything yet
	hubs        map[string]*hubMembers
	people      map[personKey]*person
	changed     map[personKey]*person // who may have to be told of
	count       int                   // people that have been told of
	pardonUntil time.Time             // until then a hub without a lease is not taken for dead
}

// hubMembers are the members on one hub. The version is that of its lease.
type hubMembers struct {
	version uint64
	members map[string]Member // by channel
}

// A person is a user, or a connection without one:
//
//	new:      is here, and was not told of
//	known:    is here, and was told of
//	leaving:  is not here, and was told of, as far as others know still is there
//
// Whoever is not here and was not told of is forgotten.
type person struct {
	here   []Member // the person's connections
	isTold bool
	told   Member    // as whom
	gone   time.Time // when the last connection went
}

// A personKey is a user's ID, or the channel of a connection without one.
type personKey struct{ user, channel string }

func keyOf(m Member) personKey {
	if m.UserID != "" {
		return personKey{user: m.UserID}
	}
	return personKey{channel: m.Channel}
}

func newRoster(h *Hub, g *group, life context.Context) *roster {
	return &roster{hub: h, group: g, life: life, hubs: make(map[string]*hubMembers),
		people: make(map[personKey]*person), changed: make(map[personKey]*person)}
}

// enter is called when a connection of this hub has become a member.
func (r *roster) enter(m *membership, as Member) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.newcomers = append(r.newcomers, m)
	r.setLocked(r.hub.name, as)
	r.wakeLocked()
}

// listen is called when a subscriber of this hub has joined, which is told and not told of.
func (r *roster) listen(m *membership) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.newcomers = append(r.newcomers, m)
	r.wakeLocked()
}

// again is called when a member has caught up for which something that it was to be told has been
// dropped. It is told anew who is there.
func (r *roster) again(m *membership) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if m.told.Swap(0) > 0 { // otherwise it is a newcomer still
		r.newcomers = append(r.newcomers, m)
		r.wakeLocked()
	}
}

// change is called when a member on this hub is another user's, or has another info.
func (r *roster) change(to Member) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.setLocked(r.hub.name, to)
	r.wakeLocked()
}

// leave is called when a connection of this hub has ceased to be a member.
func (r *roster) leave(channel string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.removeLocked(r.hub.name, channel)
	r.wakeLocked()
}

// pardon is called when the layer may have lost leases. Their hubs write them again first.
func (r *roster) pardon() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pardonUntil = time.Now().Add(pardonTime)
}

// notice takes what another hub says of its lease. It never blocks.
func (r *roster) notice(holder string, n leaseNotice) {
	if holder == r.hub.name {
		return
	}
	set := decodeMembers(r.hub, r.group.name, holder, n.Set)
	r.mu.Lock()
	defer r.mu.Unlock()
	known := uint64(0)
	if of := r.hubs[holder]; of != nil {
		known = of.version
	}
	switch {
	case known >= n.Version: // it is old news
	case n.Ended:
		r.dropLocked(holder)
	case n.Whole:
		r.replaceLocked(holder, n.Version, set)
	case n.After == known && known > 0:
		for _, m := range set {
			r.setLocked(holder, m)
		}
		for _, field := range n.Remove {
			r.removeLocked(holder, channelOf(holder, field))
		}
		r.hubs[holder].version = n.Version
	default: // a notice was missed
		r.hub.leases.check(r.group.name)
	}
	r.wakeLocked()
}

// compare reads the leases that are not as the roster has them. A hub that has none any more
// has crashed, or is cut off. It reports false if the layer does not answer.
func (r *roster) compare() (ok bool) {
	r.mu.Lock()
	known := make(map[string]uint64)
	for holder, of := range r.hubs {
		if holder != r.hub.name {
			known[holder] = of.version
		}
	}
	r.mu.Unlock()
	leases, err := r.hub.layer.Leases(r.life, groupTopic(r.group.name), known)
	if err != nil {
		return r.life.Err() != nil
	}
	delete(leases, r.hub.name)
	members := make(map[string][]Member)
	for holder, lease := range leases {
		members[holder] = decodeMembers(r.hub, r.group.name, holder, lease.Fields)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for holder, lease := range leases {
		if of := r.hubs[holder]; of == nil || of.version < lease.Version { // no notice was quicker
			r.replaceLocked(holder, lease.Version, members[holder])
		}
	}
	pardoned := time.Now().Before(r.pardonUntil)
	for holder, version := range known {
		_, there := leases[holder]
		if of := r.hubs[holder]; !there && !pardoned && of != nil && of.version == version {
			r.dropLocked(holder)
		}
	}
	r.loaded = true
	r.wakeLocked()
	return true
}

// replaceLocked has these members in place of those that a hub had.
func (r *roster) replaceLocked(holder string, version uint64, members []Member) {
	gone := make(map[string]Member)
	if of := r.hubs[holder]; of != nil {
		gone = of.members
		r.hubs[holder] = &hubMembers{members: make(map[string]Member, len(members))}
	}
	for _, m := range members {
		if old, ok := gone[m.Channel]; ok {
			r.personLocked(old).remove(m.Channel)
			delete(gone, m.Channel)
		}
		r.setLocked(holder, m)
	}
	for _, m := range gone {
		r.personLocked(m).remove(m.Channel)
	}
	if of := r.hubs[holder]; of != nil {
		of.version = version
	} else { // it has no members, and yet a lease
		r.hubs[holder] = &hubMembers{version: version, members: make(map[string]Member)}
	}
}

// dropLocked forgets a hub.
func (r *roster) dropLocked(holder string) {
	of := r.hubs[holder]
	if of == nil {
		return
	}
	for _, m := range of.members {
		r.personLocked(m).remove(m.Channel)
	}
	delete(r.hubs, holder)
}

func (r *roster) setLocked(holder string, m Member) {
	of := r.hubs[holder]
	if of == nil {
		of = &hubMembers{members: make(map[string]Member)}
		r.hubs[holder] = of
	}
	if old, ok := of.members[m.Channel]; ok {
		r.personLocked(old).remove(m.Channel)
	}
	of.members[m.Channel] = m
	p := r.personLocked(m)
	p.here = append(p.here, m)
}

func (r *roster) removeLocked(holder, channel string) {
	if of := r.hubs[holder]; of != nil {
		if m, ok := of.members[channel]; ok {
			r.personLocked(m).remove(channel)
			delete(of.members, channel)
		}
	}
}

// personLocked returns the person that a member is, who is about to change.
func (r *roster) personLocked(m Member) *person {
	key := keyOf(m)
	p := r.people[key]
	if p == nil {
		p = &person{}
		r.people[key] = p
	}
	r.changed[key] = p
	return p
}

func (p *person) remove(channel string) {
	p.here = slices.DeleteFunc(p.here, func(m Member) bool { return m.Channel == channel })
	if len(p.here) == 0 {
		p.gone = time.Now()
	}
}
