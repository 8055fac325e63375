package redis_test

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
)

// cluster is three masters.
type cluster []*server

func startCluster(t *testing.T) cluster {
	t.Helper()
	var c cluster
	create := []string{"--cluster", "create"}
	for range 3 {
		s := start(t, "--cluster-enabled", "yes", "--cluster-port", aFreePort, "--cluster-node-timeout", "2000")
		c = append(c, s)
		create = append(create, s.addr())
	}
	if out, err := exec.Command("redis-cli", append(create, "--cluster-yes")...).CombinedOutput(); err != nil {
		t.Fatalf("redis-cli: %v: %s", err, out)
	}
	for _, s := range c {
		await(t, "the cluster", func() bool {
			return strings.Contains(s.cli("CLUSTER", "INFO"), "cluster_state:ok") && strings.Count(s.cli("CLUSTER", "SLOTS"), "127.0.0.1") == 3
		})
	}
	return c
}

func (c cluster) url() string { return c[0].url() + "?addr=" + c[1].addr() + "&addr=" + c[2].addr() }

func (c cluster) slot(key string) string { return c[0].cli("CLUSTER", "KEYSLOT", key) }

// migrate moves a slot from one node to another, with its keys.
func (c cluster) migrate(slot string, from, to int) {
	source, target := c[from], c[to]
	sourceID, targetID := source.cli("CLUSTER", "MYID"), target.cli("CLUSTER", "MYID")
	target.cli("CLUSTER", "SETSLOT", slot, "IMPORTING", sourceID)
	source.cli("CLUSTER", "SETSLOT", slot, "MIGRATING", targetID)
	for {
		keys := strings.Fields(source.cli("CLUSTER", "GETKEYSINSLOT", slot, "100"))
		if len(keys) > 0 {
			source.cli(append([]string{"MIGRATE", "127.0.0.1", target.port, "", "0", "5000", "KEYS"}, keys...)...)
			continue
		}
		target.cli("CLUSTER", "SETSLOT", slot, "NODE", targetID)
		if strings.HasPrefix(source.cli("CLUSTER", "SETSLOT", slot, "NODE", targetID), "OK") {
			break
		} // else a key came in between
	}
	for i, s := range c {
		if i != from && i != to {
			s.cli("CLUSTER", "SETSLOT", slot, "NODE", targetID)
		}
	}
}

// home returns the node that has a key's slot.
func (c cluster) home(key string) int {
	slot := c.slot(key)
	var n int
	fmt.Sscan(slot, &n)
	for i, s := range c {
		for line := range strings.Lines(s.cli("CLUSTER", "NODES")) {
			fields := strings.Fields(line)
			if !strings.Contains(fields[2], "myself") {
				continue
			}
			for _, field := range fields[8:] {
				var first, last int
				if k, _ := fmt.Sscanf(field, "%d-%d", &first, &last); k == 1 {
					last = first
				}
				if !strings.HasPrefix(field, "[") && first <= n && n <= last {
					return i
				}
			}
		}
	}
	return -1
}

var prefixes atomic.Int64

func TestLayerOnCluster(t *testing.T) {
	for _, sharded := range []bool{false, true} {
		t.Run(fmt.Sprint("Sharded=", sharded), func(t *testing.T) {
			c := startCluster(t)
			hubtest.TestLayer(t, func(t *testing.T) (a, b grouphub.Layer) {
				opts := &grouphub.RedisOptions{Prefix: fmt.Sprint("test", prefixes.Add(1)), Sharded: sharded}
				// One address: with more, rueidis keeps a goroutine for five seconds.
				a, b = layer(t, c[0].url(), opts), layer(t, c[0].url(), opts)
				if !sharded {
					a, b = &settled{Layer: a}, &settled{Layer: b}
				}
				return a, b
			})
		})
	}
}

// A settled layer waits, when a topic is kept for the first time, until the nodes of a Cluster
// have told each other. Without sharding a publication goes from node to node, so that one
// from before a subscription can come after it; a hub knows it by its number.
type settled struct {
	grouphub.Layer
	topics sync.Map
}

func (l *settled) Publish(ctx context.Context, p grouphub.Publication) error {
	err := l.Layer.Publish(ctx, p)
	if _, known := l.topics.LoadOrStore(p.Topic, true); !known && p.Keep.Count > 0 {
		time.Sleep(100 * time.Millisecond)
	}
	return err
}

func TestSlotsThatMoveUnderLoad(t *testing.T) {
	for _, sharded := range []bool{false, true} {
		t.Run(fmt.Sprint("Sharded=", sharded), func(t *testing.T) {
			t.Parallel()
			c := startCluster(t)
			opts := &grouphub.RedisOptions{Sharded: sharded, QueueCapacity: 10_000}
			sender, l := layer(t, c.url(), opts), layer(t, c.url(), opts)
			var topics []string
			for i := range 12 {
				topics = append(topics, fmt.Sprint("topic", i))
			}
			h := attach(t, l, topics...)
			w := publishTo(t, sender, topics...)

			// A queue whose slot moves as well: what was accepted is taken.
			var accepted, taken sync.Map
			ctx, cancel := context.WithCancel(context.Background())
			var queueing sync.WaitGroup
			queueing.Go(func() {
				for i := 0; ctx.Err() == nil; i++ {
					if err := sender.Append(context.Background(), "queue", fmt.Append(nil, i)); err == nil {
						accepted.Store(fmt.Sprint(i), true)
					} else if !errors.Is(err, grouphub.ErrUnavailable) && !errors.Is(err, grouphub.ErrUncertain) {
						t.Errorf("Append: %v", err)
					}
					select {
					case <-ctx.Done():
					case <-time.After(time.Millisecond):
					}
				}
			})
			taking, stopTaking := context.WithCancel(context.Background())
			var takers sync.WaitGroup
			takers.Go(func() {
				for {
					message, err := l.Take(taking, "queue")
					if err != nil {
						return
					}
					taken.Store(string(message), true)
				}
			})

			await(t, "the load", func() bool { return len(h.received("topic0")) > 10 })
			moved := []string{"topic0", "topic1", "topic2"}
			for _, key := range []string{"grouphub:topic:{topic0}", "grouphub:topic:{topic1}", "grouphub:topic:{topic2}", "grouphub:waiting:{queue}"} {
				from := c.home(key)
				c.migrate(c.slot(key), from, (from+1)%3)
			}
			if sharded {
				await(t, "Lost", func() bool {
					return !slices.ContainsFunc(moved, func(topic string) bool { return h.losses(topic) == 0 })
				})
			}
			await(t, "Up", h.Up)
			for _, topic := range topics {
				await(t, "Publish", func() bool {
					return sender.Publish(t.Context(), grouphub.Publication{Topic: topic, Payload: []byte("after")}) == nil
				})
				h.untilReceived(topic, "after")
			}
			w.stop()
			for _, topic := range topics {
				sender.Publish(t.Context(), grouphub.Publication{Topic: topic, Payload: []byte("end")})
				h.untilReceived(topic, "end")
				if sharded || !slices.Contains(moved, topic) {
					checkOrder(t, w, h, topic)
				} else {
					// From node to node the publications of the old one and the new one have
					// no order.
					checkArrived(t, w, h, topic)
				}
				if losses := h.losses(topic); losses > 0 && !(sharded && slices.Contains(moved, topic)) {
					t.Errorf("%s: Lost was called %d times", topic, losses)
				}
			}
			t.Logf("%d publishes failed", w.errors(t))
			cancel()
			queueing.Wait()
			await(t, "the queue to be empty", func() bool {
				missing := 0
				accepted.Range(func(key, _ any) bool {
					if _, ok := taken.Load(key); !ok {
						missing++
					}
					return true
				})
				return missing == 0
			})
			stopTaking()
			takers.Wait()
		})
	}
}

func TestEveryEventExactlyOnceWhileItsSlotMoves(t *testing.T) {
	for _, sharded := range []bool{false, true} {
		t.Run(fmt.Sprint("Sharded=", sharded), func(t *testing.T) {
			t.Parallel()
			c := startCluster(t)
			opts := &grouphub.RedisOptions{Sharded: sharded}
			var sites []*site
			for range 2 {
				sites = append(sites, startSite(t, &grouphub.Options{Layer: layer(t, c.url(), opts), Policy: keeping(2000)}))
			}
			const key = "grouphub:topic:{g:g}"
			moves := expectExactlyOnce(t, sites, false, func(done <-chan struct{}) (times int) {
				for range 3 {
					select {
					case <-time.After(300 * time.Millisecond): // of load in between
					case <-done:
						return times
					}
					from := c.home(key)
					if c.migrate(c.slot(key), from, (from+1)%3); c.home(key) != from {
						times++
					}
				}
				return times
			})
			if moves != 3 {
				t.Errorf("the slot has moved %d times, want 3", moves)
			}
			h, err := layer(t, c.url(), opts).History(t.Context(), "g:g", 0)
			if err != nil || len(h.Kept) < 2000 {
				t.Fatalf("%d events are kept, %v, want 2000", len(h.Kept), err)
			}
			next := h.Last + 1 - uint64(len(h.Kept))
			for _, p := range h.Kept {
				if p.At.Epoch != h.Epoch || p.At.Number != next {
					t.Fatalf("kept at %+v, want number %d of epoch %q", p.At, next, h.Epoch)
				}
				next++
			}
		})
	}
}

func TestMasterOfAClusterThatRestarts(t *testing.T) {
	for _, sharded := range []bool{false, true} {
		t.Run(fmt.Sprint("Sharded=", sharded), func(t *testing.T) {
			t.Parallel()
			c := startCluster(t)
			for _, s := range c { // the others go on meanwhile
				s.cli("CONFIG", "SET", "cluster-require-full-coverage", "no")
			}
			l := layer(t, c.url(), &grouphub.RedisOptions{Sharded: sharded})
			var topics []string
			for i := range 12 {
				topics = append(topics, fmt.Sprint("topic", i))
			}
			h := attach(t, l, topics...)
			w := publishTo(t, l, topics...)
			await(t, "the load", func() bool { return len(h.received("topic0")) > 10 })
			dead := c.home("grouphub:topic:{topic0}")
			c[dead].kill()
			if sharded {
				await(t, "Up to be false", func() bool { return !h.Up() })
			}
			if err := c[dead].run(); err != nil {
				t.Fatal(err)
			}
			back := time.Now()
			if sharded {
				await(t, "Lost", func() bool { return h.losses("topic0") > 0 })
			}
			for _, topic := range topics {
				await(t, "Publish", func() bool {
					return l.Publish(t.Context(), grouphub.Publication{Topic: topic, Payload: []byte("after")}) == nil
				})
			}
			if sharded {
				for _, topic := range topics {
					h.untilReceived(topic, "after")
				}
			}
			await(t, "Up", h.Up)
			t.Logf("back after %v", time.Since(back))
			w.stop()
			w.errors(t)
			for _, topic := range topics {
				if c.home("grouphub:topic:{"+topic+"}") != dead && sharded && h.losses(topic) > 0 {
					t.Errorf("%s: Lost, and its node was there all the time", topic)
				}
				// Without sharded pub/sub nobody is told what was lost between two nodes.
				if sharded {
					checkOrder(t, w, h, topic)
				} else {
					checkNumbers(t, h, topic)
				}
			}
		})
	}
}
