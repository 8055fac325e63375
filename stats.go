package grouphub

import "sync/atomic"

// Stats are what a hub has counted since New, and what it has now.
type Stats struct {
	Conns, Groups                  int    // connections; groups with members here
	Accepted                       uint64 // connections that were made
	Rejected                       uint64 // requests that were refused: for connections, and messages by POST; those of Authenticate where it can tell which hub is behind it
	Received, Published, Delivered uint64 // client messages in; events accepted by the layer; frames queued to connections
	Dropped                        uint64 // frames and events that did not reach a connection that should have had them, and payloads that made no sense
	Superseded                     uint64 // events that a later one with the same Latest key has replaced before they were sent; for each connection
	Unhandled                      uint64 // events that a connection's consumer has no handler for
	SlowClosed, Resyncs            uint64 // connections closed for slowness, and told to resync
	Recovered                      uint64 // events of groups with history that were missed, and found in it
	Streams                        int    // of Conns, those that are event streams
	PolicyMismatch                 uint64 // unnumbered events received in groups that this hub keeps history of
	LayerUp                        bool
}

// counters are Stats' numbers while they grow.
type counters struct {
	accepted, rejected, received, published, delivered, dropped, unhandled,
	slowClosed, resyncs, recovered, mismatched, superseded atomic.Uint64
}

func (n *counters) add(t tally) {
	n.delivered.Add(uint64(t.delivered))
	n.dropped.Add(uint64(t.dropped))
	n.unhandled.Add(uint64(t.unhandled))
}

// Stats returns the numbers of this moment. Each is read by itself, so they need not fit
// together.
func (h *Hub) Stats() Stats {
	h.mu.Lock()
	conns := len(h.conns)
	h.mu.Unlock()
	h.groupsMu.RLock()
	groups := len(h.groups)
	h.groupsMu.RUnlock()
	n := &h.count
	dropped := n.dropped.Load()
	if l, ok := h.layer.(*RedisLayer); ok {
		dropped += l.discarded()
	}
	return Stats{
		Conns: conns, Groups: groups,
		Accepted: n.accepted.Load(), Rejected: n.rejected.Load(),
		Received: n.received.Load(), Published: n.published.Load(), Delivered: n.delivered.Load(),
		Dropped: dropped, Superseded: n.superseded.Load(), Unhandled: n.unhandled.Load(),
		SlowClosed: n.slowClosed.Load(), Resyncs: n.resyncs.Load(),
		Recovered: n.recovered.Load(), PolicyMismatch: n.mismatched.Load(),
		Streams: int(h.streams.Load()), LayerUp: h.subscription.Up(),
	}
}
