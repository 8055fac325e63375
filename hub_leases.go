package grouphub

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/seed-29c60982/grouphub/internal/envelope"
)

const (
	// hubLeaseLife is how long commands are kept for a hub that is cut off, or has crashed. It is
	// far more than they are kept for.
	hubLeaseLife = time.Hour
	// hubLeaseVersion is that of every hub's lease, of which nothing but its end changes.
	hubLeaseVersion = 1
	// hubKnownFor is how long a hub that was there is not asked for again.
	hubKnownFor = time.Minute
	// hubLeaseDoubt is how long after its own start, and after each interruption, a hub does not
	// ask: a server that has come back empty has the leases again when their hubs are back, too.
	hubLeaseDoubt = time.Minute
)

// hubLeases say which hubs there are, so that commands are kept only for those. The name of a
// hub is part of its connections' channels, and a stranger can make an application send to
// channels that he has invented. Each hub has a lease of its own topic.
type hubLeases struct {
	hub      *Hub         // static
	renewals leaseQueue   // of this hub's lease
	doubted  atomic.Int64 // the uptime of the start, or of the last interruption

	mu      sync.Mutex
	known   map[string]time.Time // until when hubs that were there are taken to be there
	renewed time.Time            // when this hub's lease was last prolonged; zero: never
}

func newHubLeases(h *Hub) *hubLeases {
	l := &hubLeases{hub: h}
	l.renewals = leaseQueue{hub: h, call: l.write, turns: make(chan struct{}, 1)}
	l.doubt()
	return l
}

// renew writes this hub's lease anew, which prolongs it, or ends it if the hub has ended. A
// hub's own layer has no other hubs, which could ask. It never blocks.
func (l *hubLeases) renew() {
	if !l.hub.ownLayer {
		l.renewals.add(l.hub.name)
	}
}

// doubt is called after an interruption. It never blocks.
func (l *hubLeases) doubt() { l.doubted.Store(int64(uptime())) }

func (l *hubLeases) write(string) (ok bool) {
	change := LeaseChange{Version: hubLeaseVersion, Life: hubLeaseLife}
	ended := l.hub.life.Err() != nil
	if ended {
		change.Life = 0
	}
	_, err := l.hub.layer.Lease(l.hub.leases.writes, hubTopic(l.hub.name), l.hub.name, change)
	if err != nil || ended {
		return l.hub.life.Err() != nil // at the hub's end there is no second try
	}
	l.mu.Lock()
	now := time.Now()
	wasLost := !l.renewed.IsZero() && now.Sub(l.renewed) > hubLeaseLife
	l.renewed = now
	l.mu.Unlock()
	if wasLost { // nothing was kept for it meanwhile
		l.hub.hubCommandsLost()
	}
	return true
}

// keep returns what the layer is to keep of a command to another hub.
func (l *hubLeases) keep(ctx context.Context, hub string) (Keep, error) {
	there, err := l.mayBeThere(ctx, hub)
	if err != nil || !there {
		return Keep{}, err
	}
	return controlKeep, nil
}

// mayBeThere reports false if another hub of this name is certainly not there.
func (l *hubLeases) mayBeThere(ctx context.Context, hub string) (bool, error) {
	switch {
	case l.hub.ownLayer: // there is no other hub
		return false, nil
	case l.isKnown(hub), uptime()-time.Duration(l.doubted.Load()) < hubLeaseDoubt:
		return true, nil
	}
	leases, err := l.hub.layer.Leases(ctx, hubTopic(hub), map[string]uint64{hub: hubLeaseVersion})
	if errors.Is(err, ErrUncertain) { // which it is not, since nothing was sent
		err = fmt.Errorf("%w: %s", ErrUnavailable, err)
	}
	if err != nil {
		return false, err
	}
	if _, ok := leases[hub]; !ok {
		return false, nil
	}
	l.know(hub)
	return true, nil
}

func (l *hubLeases) isKnown(hub string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return time.Now().Before(l.known[hub])
}

func (l *hubLeases) know(hub string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	maps.DeleteFunc(l.known, func(_ string, until time.Time) bool { return !now.Before(until) })
	if l.known == nil {
		l.known = make(map[string]time.Time)
	}
	l.known[hub] = now.Add(hubKnownFor)
}

// publishToHub sends a command to another hub. It is kept for one that is there, since that may be
// cut off. Others get it if they are subscribed all the same.
func (h *Hub) publishToHub(ctx context.Context, hub string, env *envelope.Envelope) error {
	if err := h.alive(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, layerTimeout) // of both calls together
	defer cancel()
	keep, err := h.hubLeases.keep(ctx, hub)
	if err != nil {
		return err
	}
	return h.publish(ctx, hubTopic(hub), env.Encode(), keep)
}
