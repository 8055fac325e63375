package grouphub

import (
	"cmp"
	"encoding/json"
	"math"
	"slices"
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

// noteLostNews is called when a batch is dropped for a member that will get others later.
func (m *membership) noteLostNews(batch []*delivery) {
	if slices.ContainsFunc(batch, (*delivery).isNews) {
		m.newsLost.Store(true)
	}
}

// makeUpForNews is called when nothing is dropped for a member any more. Before that it would be
// told in vain who is there, as often as changes are told.
func (m *membership) makeUpForNews() {
	if m.newsLost.Swap(false) {
		m.group.roster.again(m)
	}
}
