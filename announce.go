package grouphub

import (
	"cmp"
	"context"
	"encoding/json"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/seed-29c60982/grouphub/internal/envelope"
)

// Members of a group with Announce are told who comes and goes. Each hub with members in the group
// tells its own, and depends on no other hub for that: it keeps a roster of who is there on which
// hub, which it learns from the layer's leases, and, since a lease is only read now and then, from
// the notices that hubs publish when they have changed theirs. What the members have been told is
// compared with the roster at most every tellPause.
const (
	// tellPause is how long changes are gathered. The first event is due within a second.
	tellPause = 500 * time.Millisecond
	// returnTime is how long a user may be gone without having left.
	returnTime = 5 * time.Second
	// pardonTime is how long a hub may be without a lease after the layer has lost some: longer
	// than it takes a hub to notice, which it does when it next renews its own.
	pardonTime = upkeepInterval + 5*time.Second
	// maxTold is how many people a new member is told the names of.
	maxTold = 1000
	// maxNews is how many comings and goings an event has. If there are more, there are more
	// events.
	maxNews = 500
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

// again is called when something that a member was to be told has been dropped, since it is
// behind. It is told anew who is there.
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

// wakeLocked has what has changed told in its time.
func (r *roster) wakeLocked() {
	if !r.running && r.dueLocked() {
		r.running = true
		r.hub.goroutines.Go(r.run)
	}
}

func (r *roster) dueLocked() bool { return len(r.changed) > 0 || len(r.newcomers) > 0 }

// run tells what there is to tell, until there is nothing more.
func (r *roster) run() {
	for {
		select {
		case <-time.After(tellPause):
		case <-r.life.Done():
			return
		}
		r.tell()
		r.mu.Lock()
		r.running = r.dueLocked()
		again := r.running
		r.mu.Unlock()
		if !again {
			return
		}
	}
}

// tell sends the members what has changed, and the newcomers among them who is there. Both are
// composed once. What a member is told stands in the order of the tellings, so that nobody is told
// of what was there before, or not told of what came afterwards.
func (r *roster) tell() {
	r.mu.Lock()
	if !r.loaded || r.group.full() {
		r.mu.Unlock()
		return
	}
	r.tellings++
	telling, newcomers := r.tellings, len(r.newcomers)
	for _, m := range r.newcomers {
		m.told.Store(telling)
	}
	r.newcomers = nil
	joined, left := r.changesLocked(time.Now())
	var all []Member
	if newcomers > 0 && r.count <= maxTold {
		for _, p := range r.people {
			if p.isTold {
				all = append(all, p.told)
			}
		}
	}
	count := r.count
	r.mu.Unlock()

	joined, left, all = byAge(joined), byAge(left), byAge(all)
	for len(joined)+len(left) > 0 {
		news := presenceNews{Count: count}
		news.Joined, joined = cutNews(joined, maxNews)
		news.Left, left = cutNews(left, maxNews-len(news.Joined))
		r.send(news, telling, forMembers)
	}
	if newcomers > 0 {
		r.send(presenceNews{Count: count, Members: entries(all)}, telling, forNewcomers)
	}
}

// changesLocked returns who has come and gone since the last telling.
func (r *roster) changesLocked(now time.Time) (joined, left []Member) {
	for key, p := range r.changed {
		switch {
		case len(p.here) > 0:
			p.told = slices.MinFunc(p.here, compareAge)
			if !p.isTold {
				p.isTold = true
				r.count++
				joined = append(joined, p.told)
			}
			delete(r.changed, key)
		case p.isTold && key.user != "" && now.Sub(p.gone) < returnTime: // and may come back
		default:
			if p.isTold {
				r.count--
				left = append(left, p.told)
			}
			delete(r.people, key)
			delete(r.changed, key)
		}
	}
	return joined, left
}

// presenceNews is the data of an event of type "presence".
type presenceNews struct {
	Joined  []presenceEntry `json:"joined"`
	Left    []presenceEntry `json:"left"`
	Count   int             `json:"count"`
	Members []presenceEntry `json:"members,omitempty"`
}

type presenceEntry struct {
	User    string          `json:"user,omitempty"`
	Channel string          `json:"channel"`
	Info    json.RawMessage `json:"info,omitempty"`
	Since   time.Time       `json:"since"`
}

// entries returns what clients are told of members. It is never nil, which would be null.
func entries(members []Member) []presenceEntry {
	all := make([]presenceEntry, len(members))
	for i, m := range members {
		all[i] = presenceEntry{m.UserID, m.Channel, m.Info, m.Since.UTC()}
	}
	return all
}

// cutNews returns the entries of the first n members, or fewer, and the other members.
func cutNews(members []Member, n int) ([]presenceEntry, []Member) {
	n = min(n, len(members))
	return entries(members[:n]), members[n:]
}

func compareAge(a, b Member) int {
	return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.Channel, b.Channel))
}

func byAge(members []Member) []Member {
	slices.SortFunc(members, compareAge)
	return members
}

// send queues an event for members on this hub. It has no place in a history.
func (r *roster) send(news presenceNews, telling uint32, to audience) {
	if news.Joined == nil {
		news.Joined, news.Left = entries(nil), entries(nil)
	}
	env, err := envelope.NewEvent(r.group.name, "presence", news, math.MaxInt)
	if err != nil {
		r.hub.logger().Error("grouphub: presence event dropped", "group", r.group.name, "error", err)
		return
	}
	r.group.send(&delivery{hub: r.hub, group: r.group, env: env, telling: telling, to: to})
}

// An audience is whom a presence event is for.
type audience uint8

const (
	forAll       audience = iota // it is none
	forMembers                   // who have been told something before
	forNewcomers                 // who are told for the first time
)

// isFor reports whether an event is for a member, as far as presence is concerned.
func (d *delivery) isFor(m *membership) bool {
	switch d.to {
	case forMembers:
		told := m.told.Load()
		return 0 < told && told < d.telling
	case forNewcomers:
		return m.told.Load() == d.telling
	}
	return true
}

// isNews reports whether an event is not for all members.
func (d *delivery) isNews() bool { return d.to != forAll }

// isAlone reports whether a delivery is a batch of its own: what is no event, and what newcomers
// are told, since the bytes of a batch are shared, and are those for all others.
func (d *delivery) isAlone() bool { return d.kind != deliveryEvent || d.to == forNewcomers }

// withoutNews returns a batch without the events that tell the member what it has been told
// already, or will be told with its first one.
func (m *membership) withoutNews(batch []*delivery) []*delivery {
	other := func(d *delivery) bool { return !d.isFor(m) }
	switch {
	case len(batch) == 1 && other(batch[0]): // as nearly always for most of the members
		return nil
	case slices.ContainsFunc(batch, other):
		batch = slices.DeleteFunc(slices.Clone(batch), other)
	}
	return batch
}

// lostNews is called when a batch is dropped for a member that will get others.
func (m *membership) lostNews(batch []*delivery) {
	if slices.ContainsFunc(batch, (*delivery).isNews) {
		m.group.roster.again(m)
	}
}
