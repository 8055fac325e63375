package redis

import (
	"context"
	"maps"
	"strconv"
	"strings"
	"sync"
)

// route gives topics to the nodes that have their slots: the router of a subscription
// with sharded pub/sub in a Cluster, where each node delivers only what is its own.
func (s *Subscription) route() {
	for delay := backoffMin; ; {
		select {
		case <-s.reroute:
		case <-s.ctx.Done():
			return
		}
		known := s.layer.slotsOfNodes(s.ctx)
		s.mu.Lock()
		homeless := s.routeLocked(known)
		s.mu.Unlock()
		if homeless {
			notify(s.reroute)
			delay = min(2*delay, backoffMax)
		} else {
			delay = backoffMin
		}
		pause(s.ctx, delay)
	}
}

// routeLocked starts and ends links, and moves what is not subscribed to at present. It
// reports whether a topic's slot has no known owner.
func (s *Subscription) routeLocked(known map[string][]uint16) (homeless bool) {
	if s.ctx.Err() != nil {
		return false
	}
	// A node that did not answer keeps what no other claims.
	maps.DeleteFunc(s.owners, func(_ uint16, node string) bool { return known[node] != nil })
	for node, slots := range known {
		for _, slot := range slots {
			s.owners[slot] = node
		}
	}
	nodes := make(map[string]bool)
	for _, node := range s.owners {
		nodes[node] = true
	}
	for node := range nodes {
		if s.links[node] == nil {
			s.startLocked(node)
		}
	}
	s.unrouted.pending = nil
	for _, t := range s.topics {
		if t.state == stateConfirmed || t.state == stateLeaving {
			continue
		}
		home := s.homeLocked(t.channel)
		if t.link != home {
			t.setState(stateIdle)
			t.move(home)
		}
		homeless = homeless || home == s.unrouted
	}
	for node, k := range s.links {
		if !nodes[node] {
			k.cancel() // it hands its topics back when it ends
		}
	}
	return homeless
}

// slot returns the slot of a channel in a Cluster.
func (l *Layer) slot(channel string) uint16 {
	command := l.client.B().Ping().Build().SetSlot(channel)
	return command.Slot()
}

// slotsOfNodes asks every node which slots it has. What a node says of itself needs no
// guessing under which of its addresses it is known here.
func (l *Layer) slotsOfNodes(ctx context.Context) map[string][]uint16 {
	ctx, cancel := context.WithTimeout(ctx, l.callTimeout)
	defer cancel()
	known := make(map[string][]uint16)
	var mu sync.Mutex
	var asking sync.WaitGroup
	for address, node := range l.client.Nodes() {
		asking.Go(func() {
			if answer, err := node.Do(ctx, node.B().ClusterNodes().Build()).ToString(); err == nil {
				mu.Lock()
				defer mu.Unlock()
				known[address] = ownSlots(answer)
			}
		})
	}
	asking.Wait()
	return known
}

// ownSlots returns the slots of the node that gave this answer to CLUSTER NODES.
func ownSlots(answer string) []uint16 {
	slots := []uint16{} // not nil: it has none
	for line := range strings.Lines(answer) {
		fields := strings.Fields(line)
		if len(fields) < 8 || !strings.Contains(fields[2], "myself") || !strings.Contains(fields[2], "master") {
			continue
		}
		for _, field := range fields[8:] {
			first, last, isRange := strings.Cut(field, "-")
			if !isRange {
				last = first
			}
			from, err1 := strconv.ParseUint(first, 10, 14)
			to, err2 := strconv.ParseUint(last, 10, 14)
			for slot := from; err1 == nil && err2 == nil && slot <= to; slot++ { // not: [slot->-node], which is migrating
				slots = append(slots, uint16(slot))
			}
		}
	}
	return slots
}
