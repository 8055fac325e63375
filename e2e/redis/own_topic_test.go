package redis_test

import (
	"fmt"
	"testing"

	"github.com/seed-29c60982/grouphub"
)

func TestNodeOfTheOwnTopicThatInterruptsIsLost(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	l := layer(t, c.url(), &grouphub.RedisOptions{Sharded: true})
	// A name whose node has nothing else of the hub's.
	on := func(node int, prefix string) string {
		for i := 0; ; i++ {
			if name := fmt.Sprint(prefix, i); c.home("grouphub:topic:{"+name+"}") == node {
				return name
			}
		}
	}
	own, other := on(2, "own"), on(0, "other")
	h := &hub{t: t, got: make(map[string][]string), lost: make(map[string]int)}
	s, err := l.Attach(own, h)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Add(t.Context(), own, other); err != nil {
		t.Fatal(err)
	}
	await(t, "Up", s.Up)
	if h.losses(own) > 0 {
		t.Error("Lost was called at the start")
	}
	c[2].cli("CLIENT", "KILL", "TYPE", "pubsub")
	await(t, "Lost", func() bool { return h.losses(own) == 1 })
	if h.losses(other) > 0 {
		t.Error("Lost names what another node has")
	}
}
