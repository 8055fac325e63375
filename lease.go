package grouphub

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/seed-29c60982/grouphub/internal/envelope"
)

const (
	// leaseLife is how long the presence of a hub that has crashed is still read. Two renewals
	// in a row may fail.
	leaseLife = 50 * time.Second
	// leasePause is how long changes of one group's presence are gathered.
	leasePause = 50 * time.Millisecond
	// maxLeasePause is the longest pause between two tries.
	maxLeasePause = 5 * time.Second
	// maxLeaseCalls is how many leases are written and renewed at the same time. With few, the
	// calls to one slow node of a Cluster would hold up those to the others.
	maxLeaseCalls = 512
	// leaseEndTimeout is how long the removal of a hub's leases may take at its end.
	leaseEndTimeout = 5 * time.Second
)

// A leaseKeeper writes the hub's presence in groups as leases of the layer, with a field for each
// member. It writes what has changed, or all of it where it does not know what the layer has, and
// prolongs the lease otherwise.
type leaseKeeper struct {
	hub       *Hub
	writes    context.Context // of the writes; it outlives the hub, whose leases are to be removed
	endWrites context.CancelFunc

	changes, renewals, checks leaseQueue

	mu      sync.Mutex
	version uint64               // of all leases, the one given out last
	leases  map[string]*ownLease // by group: those that the layer has, or is to have
}

// An ownLease is this hub's lease of one group.
type ownLease struct {
	announced bool                // hubs with members are told of changes
	version   uint64              // that the layer has; 0: unknown, so that the next write replaces it
	changed   map[string]struct{} // the channels that have joined, left or changed since the last write began
}

func newLeaseKeeper(h *Hub) *leaseKeeper {
	k := &leaseKeeper{hub: h, leases: make(map[string]*ownLease)}
	k.writes, k.endWrites = context.WithCancel(context.WithoutCancel(h.life))
	turns := make(chan struct{}, maxLeaseCalls)
	k.changes = leaseQueue{hub: h, call: k.write, turns: turns}
	k.renewals = leaseQueue{hub: h, call: k.prolong, turns: turns}
	k.checks = leaseQueue{hub: h, call: k.compare, turns: turns}
	return k
}

// changed has the membership of a channel written: that it is there, as what, or that it is not.
// It never blocks.
func (k *leaseKeeper) changed(g *group, channel string) {
	k.mu.Lock()
	lease := k.leases[g.name]
	if lease == nil {
		lease = &ownLease{}
		k.leases[g.name] = lease
	}
	lease.announced = g.roster != nil
	if lease.changed == nil {
		lease.changed = make(map[string]struct{})
	}
	lease.changed[channel] = struct{}{}
	k.mu.Unlock()
	k.changes.add(g.name)
}

// renew prolongs a group's lease. One that is gone, or is not as this hub has left it, is written
// anew. Then the group's roster is compared with the leases of others. It never blocks.
func (k *leaseKeeper) renew(group string) { k.renewals.add(group) }

// check has the group's roster compared with the leases of others. It never blocks.
func (k *leaseKeeper) check(group string) {
	if k.hub.rosterOf(group) != nil {
		k.checks.add(group)
	}
}

func (k *leaseKeeper) compare(group string) (ok bool) {
	r := k.hub.rosterOf(group)
	return r == nil || r.compare()
}

// end bounds the writes that are still to be made: they end with ctx, or after five
// seconds. The caller calls release when they have been made.
func (k *leaseKeeper) end(ctx context.Context) (release func()) {
	ctx, release = context.WithTimeout(ctx, leaseEndTimeout)
	context.AfterFunc(ctx, k.endWrites)
	return release
}

func (k *leaseKeeper) write(group string) (ok bool) {
	for {
		change := k.begin(group)
		done, err := k.hub.layer.Lease(k.writes, groupTopic(group), k.hub.name, change)
		switch {
		case done && err == nil:
			if k.written(group, change) {
				k.tell(group, change)
			}
			return true
		case err != nil || change.After == 0:
			return k.hub.life.Err() != nil // at the hub's end there is no second try
		}
		// The layer has lost the lease, so all of it is written.
		k.pardon(group)
	}
}

// begin returns the change that brings the layer's lease up to date. Until it is known to be
// written, it is unknown what the layer has.
func (k *leaseKeeper) begin(group string) LeaseChange {
	k.mu.Lock()
	k.version++
	lease := k.leases[group]
	if lease == nil { // it has just been ended, and that again does no harm
		lease = &ownLease{}
		k.leases[group] = lease
	}
	change := LeaseChange{After: lease.version, Version: k.version, Life: leaseLife}
	changed := lease.changed
	lease.version, lease.changed = 0, nil
	k.mu.Unlock()
	g := k.hub.group(group)
	if g == nil || g.size() == 0 {
		return LeaseChange{Version: change.Version}
	}
	change.Set = make(map[string][]byte)
	if change.After == 0 {
		for _, m := range k.hub.localMembers(group) {
			change.Set[k.field(m.Channel)] = encodeMember(m)
		}
		if len(change.Set) == 0 {
			return LeaseChange{Version: change.Version}
		}
		return change
	}
	for channel := range changed {
		if m, ok := k.hub.localMember(group, channel); ok {
			change.Set[k.field(channel)] = encodeMember(m)
		} else {
			change.Remove = append(change.Remove, k.field(channel))
		}
	}
	return change
}

// written notes what the layer has, and reports whether other hubs are to be told of it.
func (k *leaseKeeper) written(group string, change LeaseChange) (tell bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	lease := k.leases[group]
	if change.Life > 0 {
		lease.version = change.Version
	} else if lease.changed == nil {
		delete(k.leases, group)
	}
	return lease.announced && !k.hub.ownLayer
}

// A leaseNotice is what hubs with members in an announced group are told when another one has
// changed its lease. If a notice is lost, the version of the next one shows it, or else the next
// comparison with the lease.
type leaseNotice struct {
	After   uint64                     `json:"after,omitempty"` // as in LeaseChange
	Version uint64                     `json:"version"`
	Set     map[string]json.RawMessage `json:"set,omitempty"`
	Remove  []string                   `json:"remove,omitempty"`
	Whole   bool                       `json:"whole,omitempty"` // Set is all that there is
	Ended   bool                       `json:"ended,omitempty"`
}

// maxNoticed is how many changes a notice has. Of more it only says that the lease is to be read.
const maxNoticed = 200

// tell publishes a notice. It is not repeated if that fails.
func (k *leaseKeeper) tell(group string, change LeaseChange) {
	n := leaseNotice{After: change.After, Version: change.Version, Ended: change.Life == 0}
	if len(change.Set)+len(change.Remove) <= maxNoticed {
		n.Whole = change.After == 0 && !n.Ended
		n.Remove, n.Set = change.Remove, make(map[string]json.RawMessage, len(change.Set))
		for field, value := range change.Set {
			n.Set[field] = value
		}
	} else {
		n.After = 0
	}
	body, _ := json.Marshal(n) // all of it is JSON
	env := envelope.Envelope{Kind: envelope.Notice, Name: k.hub.name, Body: body}
	// The hub's own publish would refuse it at the hub's end, which others are to hear of.
	_ = k.hub.layer.Publish(k.writes, Publication{Topic: groupTopic(group), Payload: env.Encode()})
}

// confirmed returns the version that the layer has of a lease, 0 if that is unknown.
func (k *leaseKeeper) confirmed(group string) uint64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	if lease := k.leases[group]; lease != nil {
		return lease.version
	}
	return 0
}

func (k *leaseKeeper) prolong(group string) (ok bool) {
	defer func() {
		if ok {
			k.check(group)
		}
	}()
	version := k.confirmed(group)
	if version == 0 { // it is being written
		return true
	}
	change := LeaseChange{After: version, Version: version, Life: leaseLife}
	done, err := k.hub.layer.Lease(k.hub.life, groupTopic(group), k.hub.name, change)
	if err == nil && !done {
		k.lost(group, version)
	}
	return err == nil || k.hub.life.Err() != nil
}

// lost has a lease written anew that the layer does not have in this version any more.
func (k *leaseKeeper) lost(group string, version uint64) {
	k.mu.Lock()
	lease := k.leases[group]
	lost := lease != nil && lease.version == version // otherwise it has been written meanwhile
	if lost {
		lease.version = 0
	}
	k.mu.Unlock()
	if lost {
		k.pardon(group)
		k.changes.add(group)
	}
}

// pardon is called when the layer may have lost leases, and therefore those of others, too.
func (k *leaseKeeper) pardon(group string) {
	if r := k.hub.rosterOf(group); r != nil {
		r.pardon()
	}
}

// field returns the name of a member's field. All channels of a hub begin with the lease's
// holder.
func (k *leaseKeeper) field(channel string) string {
	return strings.TrimPrefix(channel, k.hub.name+"!")
}

// channelOf returns the channel that a field of a lease is of.
func channelOf(holder, field string) string { return holder + "!" + field }

// A leasedMember is the value of a member's field.
type leasedMember struct {
	User  string          `json:"user,omitempty"`
	Info  json.RawMessage `json:"info,omitempty"`
	Since int64           `json:"since"` // nanoseconds since 1970
}

func encodeMember(m Member) []byte {
	value, _ := json.Marshal(leasedMember{m.UserID, m.Info, m.Since.UnixNano()}) // the info is JSON
	return value
}

// decodeMember returns the member that a field of another hub's lease has. Anyone who can write to
// the layer may have written it, and it is sent to browsers.
func decodeMember(holder, field string, value []byte) (Member, error) {
	var m leasedMember
	if !utf8.Valid(value) || !utf8.ValidString(holder) || !utf8.ValidString(field) {
		return Member{}, errors.New("not UTF-8")
	}
	if err := json.Unmarshal(value, &m); err != nil {
		return Member{}, err
	}
	return Member{channelOf(holder, field), m.User, m.Info, time.Unix(0, m.Since)}, nil
}

// A leaseQueue makes a call for each group that was added, once however often it was
// added meanwhile. A call that fails is made again after a pause, which grows. A group has
// a goroutine of the hub while there is something to do for it.
type leaseQueue struct {
	// Static.
	hub   *Hub
	call  func(group string) (ok bool)
	turns chan struct{} // has room for as many calls as may be made at the same time

	mu    sync.Mutex
	added map[string]bool // of the groups that have a goroutine: whether they were added since its last call
}

// add has the call made for a group. It never blocks.
func (q *leaseQueue) add(group string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.added == nil {
		q.added = make(map[string]bool)
	}
	if _, running := q.added[group]; !running {
		q.hub.goroutines.Go(func() { q.run(group) })
	}
	q.added[group] = true
}

func (q *leaseQueue) run(group string) {
	for pause := leasePause; q.next(group); {
		q.turns <- struct{}{}
		ok := q.call(group)
		<-q.turns
		if ok {
			pause = leasePause
		} else {
			q.add(group)
			pause = min(2*pause, maxLeasePause)
		}
		select {
		case <-time.After(pause):
		case <-q.hub.life.Done(): // there are no more pauses
		}
	}
}

// next reports whether a group was added since the last call. If not, its goroutine ends.
func (q *leaseQueue) next(group string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	added := q.added[group]
	if q.added[group] = false; !added {
		delete(q.added, group)
	}
	return added
}
