package grouphub

import (
	"context"
	"sync"
	"time"
)

const (
	// leaseLife is how long the presence of a hub that has crashed is still read.
	leaseLife = 60 * time.Second
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

// A leaseKeeper writes the hub's presence in groups as leases of the layer: anew when it
// has changed, and otherwise prolonged.
type leaseKeeper struct {
	hub       *Hub
	writes    context.Context // of the writes; it outlives the hub, whose leases are to be removed
	endWrites context.CancelFunc

	changes, renewals leaseQueue
}

func newLeaseKeeper(h *Hub) *leaseKeeper {
	k := &leaseKeeper{hub: h}
	k.writes, k.endWrites = context.WithCancel(context.WithoutCancel(h.life))
	turns := make(chan struct{}, maxLeaseCalls)
	k.changes = leaseQueue{hub: h, call: k.write, turns: turns}
	k.renewals = leaseQueue{hub: h, call: k.prolong, turns: turns}
	return k
}

// changed has a group's presence written. It never blocks.
func (k *leaseKeeper) changed(group string) { k.changes.add(group) }

// renew prolongs a group's lease, which does not cost what writing the presence does. A
// lease that is gone is written anew. It never blocks.
func (k *leaseKeeper) renew(group string) { k.renewals.add(group) }

// end bounds the writes that are still to be made: they end with ctx, or after five
// seconds. The caller calls release when they have been made.
func (k *leaseKeeper) end(ctx context.Context) (release func()) {
	ctx, release = context.WithTimeout(ctx, leaseEndTimeout)
	context.AfterFunc(ctx, k.endWrites)
	return release
}

func (k *leaseKeeper) write(group string) (ok bool) {
	value, life := k.hub.presenceValue(group), leaseLife
	if value == nil {
		value, life = []byte{}, 0
	}
	_, err := k.hub.layer.Lease(k.writes, groupTopic(group), k.hub.name, value, life)
	return err == nil || k.hub.life.Err() != nil // at the hub's end there is no second try
}

func (k *leaseKeeper) prolong(group string) (ok bool) {
	there, err := k.hub.layer.Lease(k.hub.life, groupTopic(group), k.hub.name, nil, leaseLife)
	if err == nil && !there {
		k.changed(group)
	}
	return err == nil || k.hub.life.Err() != nil
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
