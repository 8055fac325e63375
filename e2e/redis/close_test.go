package redis_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
)

// In a Cluster, a group's events and the commands that hubs send each other take their way
// over different nodes.
func TestGroupCloseComesAfterTheEventsOfItsGroupInACluster(t *testing.T) {
	const rounds, groups, events = 100, 40, 20
	c := startCluster(t)
	for _, sharded := range []bool{false, true} {
		for _, history := range []int{0, 100} {
			t.Run(fmt.Sprint("Sharded=", sharded, ",History=", history), func(t *testing.T) {
				hubOn := func(consumer grouphub.Consumer) *grouphub.Hub {
					hub := grouphub.New(&grouphub.Options{Layer: layer(t, c.url(), &grouphub.RedisOptions{Sharded: sharded}), Consumer: consumer,
						Policy: func(string) grouphub.GroupPolicy { return grouphub.GroupPolicy{History: history} }})
					t.Cleanup(func() { hub.Shutdown(context.Background()) })
					return hub
				}
				sender := hubOn(grouphub.Consumer{})
				receiver := hubOn(grouphub.Consumer{
					Connect: func(c *grouphub.Conn) error { return c.Join(c.Request().URL.Query().Get("group")) },
					Events:  grouphub.Events{"n": grouphub.Forward()},
				})
				for i := range rounds {
					group := fmt.Sprint("g", i%groups)
					client := hubtest.Dial(t, receiver, "/?group="+group)
					for n := range events {
						if err := sender.GroupSend(t.Context(), group, "n", n); err != nil {
							t.Fatal(err)
						}
					}
					if err := sender.GroupClose(t.Context(), group, 4000, "bye"); err != nil {
						t.Fatal(err)
					}
					for n := range events {
						if got := string(client.ExpectEvent("n").Data); got != fmt.Sprint(n) {
							t.Fatalf("round %d: got %s, want %d", i, got, n)
						}
					}
					client.ExpectClose(4000)
				}
			})
		}
	}
}
