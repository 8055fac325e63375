package redis_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
)

var failovers = []struct {
	name string
	// fail makes the sentinel choose the replica.
	fail func(t *testing.T, sentinel, master *server)
}{
	{"OfADeadMaster", func(t *testing.T, _, master *server) { master.kill() }},
	{"OfAHealthyMaster", func(t *testing.T, sentinel, _ *server) {
		await(t, "SENTINEL FAILOVER", func() bool { return sentinel.cli("SENTINEL", "FAILOVER", "app") == "OK" })
	}},
}

func TestSentinelFailover(t *testing.T) {
	for _, c := range failovers {
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
			await(t, "the new master", func() bool { return replica.isMaster() })
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

func TestSentinelFailoverIsToldToThoseConcerned(t *testing.T) {
	for _, c := range failovers {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			master, replica, sentinel := startSentinel(t)
			echo := func(c *grouphub.Conn, m grouphub.Message) error { return c.Send(m.Data) }
			member := grouphub.Consumer{
				Connect: func(c *grouphub.Conn) error { return c.Join("all") },
				Receive: echo,
				Events:  grouphub.Events{"n": grouphub.Forward()},
			}
			var hubs []*grouphub.Hub
			var members, bystanders []*hubtest.Client
			for range 2 {
				hub := grouphub.New(&grouphub.Options{Layer: layer(t, sentinel.url()+"?master_set=app", nil),
					Logger: slog.New(slog.DiscardHandler), Consumer: member})
				t.Cleanup(func() { hub.Shutdown(context.Background()) })
				hubs = append(hubs, hub)
				members = append(members, hubtest.Dial(t, hub, "/"))
				bystanders = append(bystanders, hubtest.Dial(t, hub.Handler(grouphub.Consumer{Receive: echo}), "/"))
			}
			for _, hub := range hubs {
				if err := hub.GroupSend(t.Context(), "all", "n", 0); err != nil {
					t.Fatal(err)
				}
				for _, m := range members {
					m.ExpectEvent("n")
				}
			}
			c.fail(t, sentinel, master)
			begun := time.Now()
			await(t, "the new master", func() bool { return replica.isMaster() })
			for _, hub := range hubs {
				await(t, "Resync", func() bool { return hub.Stats().Resyncs > 0 && hub.Stats().LayerUp })
			}
			// What was accepted before the failover was done may be lost: until one arrives.
			for i, hub := range hubs {
				sent := 0
				await(t, "events", func() bool {
					sent++
					before := hubs[1-i].Stats().Delivered
					if hub.GroupSend(t.Context(), "all", "n", sent) != nil {
						return false
					}
					for range 100 {
						if hubs[1-i].Stats().Delivered > before {
							return true
						}
						time.Sleep(time.Millisecond)
					}
					return false
				})
			}
			took := time.Since(begun)
			t.Logf("events flow again %v after the failover began", took)
			if took > 15*time.Second {
				t.Errorf("events flow again after %v, want 15s at most", took)
			}
			for _, hub := range hubs {
				await(t, "Ping", func() bool { return hub.Ping(t.Context()) == nil })
			}
			await(t, "a last event", func() bool { return hubs[0].GroupSend(t.Context(), "all", "n", -1) == nil })
			for i, m := range members {
				told := 0
				for last := false; !last; {
					var e grouphub.Event
					if err := m.Next().Decode(&e); err != nil {
						t.Fatal(err)
					}
					if e.Type == "resync" {
						told++
					}
					last = string(e.Data) == "-1"
				}
				if told == 0 {
					t.Errorf("the member on hub %d was not told that events may be lost", i)
				}
			}
			for _, b := range bystanders {
				b.Send("nothing else")
				b.Expect("nothing else")
			}
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
