package grouphub_test

import (
	"slices"
	"testing"
)

func TestRedisLostNamesTheHubsOwnTopic(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	l := redisLayer(t, s.url(), nil)
	h := &redisHub{t: t, changed: make(chan struct{}, 1)}
	h.Subscription = attach(t, l, "own", h, "own")
	await(t, "Up", h.Up)
	if _, lost := h.state(); len(lost) > 0 {
		t.Errorf("lost %q at the start", lost)
	}
	s.cli("CLIENT", "KILL", "TYPE", "pubsub")
	h.untilLost("own")
	s.cli("CLIENT", "KILL", "TYPE", "pubsub")
	h.until("the second Lost", func(_, lost []string) bool { return slices.Equal(lost, []string{"own", "own"}) })
}
