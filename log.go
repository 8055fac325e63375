package grouphub

import (
	"log/slog"
	"runtime/debug"
	"strings"
	"sync"
)

func (h *Hub) logger() *slog.Logger {
	if h.options.Logger != nil {
		return h.options.Logger
	}
	return slog.Default()
}

// logPanic logs what a callback has panicked with. A deferred function calls it.
func (h *Hub) logPanic(p any, callback, channel string) {
	h.logger().Error("grouphub: callback panicked", "callback", callback, "channel", channel,
		"panic", p, "stack", string(debug.Stack()))
}

// logLater logs an error from a goroutine of its own. It is for callers that hold locks
// which the handler of a log may want, too.
func (h *Hub) logLater(message string, args ...any) {
	h.goroutines.Go(func() { h.logger().Error(message, args...) })
}

// logUnhandled logs an event type without a handler, the first time it comes. The caller
// counts it.
func (h *Hub) logUnhandled(event string) {
	if h.unhandled.first(event) {
		h.goroutines.Go(func() { h.logger().Debug("grouphub: event type without a handler", "type", event) })
	}
}

// checkWildcard logs a wildcard that a route's pattern does not have, the first time that a
// callback asks for it: every value of it is empty, which puts all into one room, say.
func (h *Hub) checkWildcard(pattern, name string) {
	if strings.Contains(pattern, "{"+name+"}") || strings.Contains(pattern, "{"+name+"...}") {
		return
	}
	if h.wildcards.first(name) {
		h.logLater("grouphub: PathValue of a name that the route does not have: routers other than net/http's "+
			"may need Request.SetPathValue", "name", name, "pattern", pattern)
	}
}

// refusePayload counts a payload that came through the layer and makes no sense. Each
// fault is logged once.
func (h *Hub) refusePayload(topic string, err error) {
	h.count.dropped.Add(1)
	if h.malformed.first(err.Error()) {
		h.logLater("grouphub: payload refused", "topic", quoted(topic), "error", err)
	}
}

// seenKeys remembers which keys have come up, so that each is logged once. It holds up to
// maxSeenKeys of them, which keeps a stranger from filling the memory.
type seenKeys struct {
	mu   sync.Mutex
	seen map[string]struct{}
}

const maxSeenKeys = 1000

// first reports whether a key comes up for the first time.
func (s *seenKeys) first(key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.seen[key]; ok || len(s.seen) >= maxSeenKeys {
		return false
	}
	if s.seen == nil {
		s.seen = make(map[string]struct{})
	}
	s.seen[key] = struct{}{}
	return true
}
