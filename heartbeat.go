package grouphub

import (
	"net/url"
	"strconv"
	"time"

	"github.com/seed-29c60982/grouphub/internal/outbox"
)

// A browser's page does not hear pings, so that it cannot tell a connection on which nothing
// happens from one whose path is dead. A client can ask for heartbeats in its URL: with
// heartbeat=25 it gets {"type":"grouphub.heartbeat"} after each 25 seconds without another
// message. client.js does this by itself, and keeps the message from its handlers.

// Heartbeats have at least and at most so many seconds between them.
const (
	minHeartbeat = 5
	maxHeartbeat = 300
)

// parseHeartbeat reads a URL's heartbeat parameter. It returns whole seconds, 0 for none.
func parseHeartbeat(u *url.URL) int {
	if u.RawQuery == "" {
		return 0
	}
	seconds, err := strconv.ParseFloat(u.Query().Get("heartbeat"), 64)
	if err != nil || !(seconds > 0) { // NaN is a number to ParseFloat
		return 0
	}
	return int(min(max(seconds, minHeartbeat), maxHeartbeat))
}

// limitsFor returns the limits of a connection's outbox, those of connections with the same
// heartbeat being the same.
func (h *Hub) limitsFor(u *url.URL) *outbox.Limits {
	seconds := parseHeartbeat(u)
	if seconds == 0 {
		return &h.limits
	}
	if limits, ok := h.heartbeatLimits.Load(seconds); ok {
		return limits.(*outbox.Limits)
	}
	limits := h.limits
	limits.Heartbeat = time.Duration(seconds) * time.Second
	shared, _ := h.heartbeatLimits.LoadOrStore(seconds, &limits)
	return shared.(*outbox.Limits)
}

// streamLimitsFor is limitsFor for an event stream, whose heartbeats are comments.
func (h *Hub) streamLimitsFor(u *url.URL) *outbox.Limits {
	interval := time.Duration(parseHeartbeat(u)) * time.Second
	if interval == 0 || interval >= h.streamLimits.PingInterval {
		return &h.streamLimits
	}
	limits := h.streamLimits
	limits.PingInterval = interval
	shared, _ := h.heartbeatLimits.LoadOrStore(interval, &limits) // a key of another type than those of WebSockets
	return shared.(*outbox.Limits)
}
