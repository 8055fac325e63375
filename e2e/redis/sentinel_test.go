package redis_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/seed-29c60982/grouphub"
)

func TestSentinelFailover(t *testing.T) {
	for _, c := range []struct {
		name string
		// fail makes the sentinel choose the replica.
		fail func(t *testing.T, sentinel, master *server)
	}{
		{"OfADeadMaster", func(t *testing.T, _, master *server) { master.kill() }},
		{"OfAHealthyMaster", func(t *testing.T, sentinel, _ *server) {
			await(t, "SENTINEL FAILOVER", func() bool { return sentinel.cli("SENTINEL", "FAILOVER", "app") == "OK" })
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			master, replica, sentinel := startSentinel(t)
			l := layer(t, sentinel.url()+"?master_set=app", nil)
			h := attach(t, l, "topic")
			await(t, "Up", h.Up)
			w := publishTo(t, l, "topic")
			await(t, "the load", func() bool { return len(h.received("topic")) > 10 })
			c.fail(t, sentinel, master)
			begun := time.Now()
			await(t, "Lost", func() bool { return h.losses("topic") > 0 })
			await(t, "the new master", func() bool { return strings.HasPrefix(replica.cli("ROLE"), "master") })
			n := 0
			await(t, "a publication", func() bool {
				n++
				l.Publish(t.Context(), grouphub.Publication{Topic: "topic", Payload: fmt.Append(nil, "after ", n)})
				return strings.Contains(fmt.Sprint(h.received("topic")), "after")
			})
			t.Logf("publications arrive again %v after the failover began", time.Since(begun))
			await(t, "Up", h.Up)
			w.stop()
			w.errors(t)
			checkOrder(t, w, h, "topic")
		})
	}
}

// startSentinel starts a master, which the sentinel knows as app, and a replica.
func startSentinel(t *testing.T) (master, replica, sentinel *server) {
	t.Helper()
	master = start(t)
	replica = start(t, "--replicaof", "127.0.0.1 "+master.port, "--repl-diskless-sync-delay", "0")
	await(t, "replication", func() bool {
		return strings.Contains(replica.cli("INFO", "replication"), "master_link_status:up")
	})
	config := filepath.Join(t.TempDir(), "sentinel.conf")
	err := os.WriteFile(config, fmt.Appendf(nil, "sentinel monitor app 127.0.0.1 %s 1\n"+
		"sentinel down-after-milliseconds app 1000\nsentinel failover-timeout app 5000\n", master.port), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	sentinel = start(t, config, "--sentinel")
	await(t, "the sentinel", func() bool {
		return strings.Contains(sentinel.cli("SENTINEL", "MASTER", "app"), "num-slaves\n1\n")
	})
	return master, replica, sentinel
}
