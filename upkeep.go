package grouphub

import (
	"maps"
	"slices"
	"time"
)

const (
	// upkeepInterval is how often positions are compared with the layer's and leases renewed.
	upkeepInterval = 20 * time.Second
	// upkeepSteps is how many steps it has. Each group has its turn in one of them, so that many
	// groups make no burst.
	upkeepSteps = 20
	upkeepStep  = upkeepInterval / upkeepSteps
	// maxCompared is how many positions the layer is asked for at once.
	maxCompared = 500
)

// upkeepTurns are the groups that need upkeep, by the step in which they have their turn. That
// stays the same, so that a group waits no longer than an interval. Guarded by Hub.groupsMu.
type upkeepTurns [upkeepSteps]map[*group]struct{}

// add gives a group its turn where there are the fewest others.
func (turns *upkeepTurns) add(g *group) {
	if g.sequence == nil && !g.policy.Presence {
		return
	}
	for step := range turns {
		if len(turns[step]) < len(turns[g.turn]) {
			g.turn = step
		}
	}
	if turns[g.turn] == nil {
		turns[g.turn] = make(map[*group]struct{})
	}
	turns[g.turn][g] = struct{}{}
}

func (turns *upkeepTurns) remove(g *group) { delete(turns[g.turn], g) }

// upkeep compares positions and renews leases now and then, until Shutdown.
func (h *Hub) upkeep() {
	begun := time.Now() // which is before the ticker's, so that no tick comes too early for its step
	ticker := time.NewTicker(upkeepStep)
	defer ticker.Stop()
	h.takeTurns(begun, ticker.C)
}

// takeTurns does one step after the other. A ticker leaves out the ticks that a process has slept through, and
// the next one makes up for them, so that no group waits for another interval.
func (h *Hub) takeTurns(begun time.Time, ticks <-chan time.Time) {
	for taken := 0; ; {
		select {
		case <-ticks:
		case <-h.life.Done():
			return
		}
		due := int(time.Since(begun) / upkeepStep)
		for taken = max(taken, due-upkeepSteps); taken < due; {
			taken++
			h.upkeepStep(taken % upkeepSteps)
		}
	}
}

// upkeepStep does what is to be done in a step. It does not wait for the layer, or what comes next
// would be late: other hubs take one without a lease for dead.
func (h *Hub) upkeepStep(step int) {
	if step == 0 {
		h.hubCommands.Reconcile(false)
		h.sharedCommands.Reconcile(false)
		h.hubLeases.renew()
	}
	h.groupsMu.RLock()
	groups := slices.Collect(maps.Keys(h.turns[step]))
	h.groupsMu.RUnlock()
	for _, g := range groups {
		if g.policy.Presence {
			h.leases.renew(g.name)
		}
	}
	groups = slices.DeleteFunc(groups, func(g *group) bool { return g.sequence == nil })
	for some := range slices.Chunk(groups, maxCompared) {
		h.goroutines.Go(func() { h.compare(some) })
	}
}

// compare compares where groups with history are with what the layer says. Most of them are quiet, and
// just where they were. It has the histories of the others read, and does not wait for that.
func (h *Hub) compare(groups []*group) {
	topics, begun := make([]string, len(groups)), make([]Position, len(groups))
	for i, g := range groups {
		topics[i], begun[i] = groupTopic(g.name), g.sequence.Position()
	}
	var at []Position
	if h.positioner != nil {
		at, _ = h.positioner.Positions(h.life, topics)
	}
	if h.life.Err() != nil {
		return
	}
	if len(at) != len(groups) { // there was an error, or the layer cannot tell
		at = make([]Position, len(groups))
	}
	for i, g := range groups {
		g.sequence.Compare(begun[i], at[i])
	}
}
