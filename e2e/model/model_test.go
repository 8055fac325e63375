// Package model_test compares what pages show with a database that changes, while their
// connections, their hubs and Redis fail: after silence they are equal.
package model_test

import (
	"flag"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/internal/redistest"
)

var (
	duration = flag.Duration("model.time", 6*time.Second, "how long each of the two models goes on")
	clients  = flag.Int("model.clients", 24, "how many clients there are")
)

// faultTime is how long a fault lasts at the most.
const faultTime = 300 * time.Millisecond

// run has rounds of faults and silence until the time is over. One fault at a time is caused
// by a function that returns what ends it.
func (w *world) run(strict bool, faults ...func() (end func())) {
	stop := make(chan struct{})
	var running sync.WaitGroup
	var all []*client
	for i := range *clients {
		kind := kinds[i%len(kinds)]
		c := &client{w: w, name: fmt.Sprint(kind, " ", i), kind: kind, strict: strict}
		all = append(all, c)
		running.Go(func() { c.run(stop) })
	}
	defer running.Wait()
	defer close(stop)
	versions := make(map[string]*int)
	rounds := 0
	for end := time.Now().Add(*duration); rounds == 0 || time.Now().Before(end) && !w.t.Failed(); rounds++ {
		w.calm.Store(false)
		w.db.faults.Store(true)
		var writing sync.WaitGroup
		for _, group := range groups {
			for key := range keys {
				name := fmt.Sprint("k", key)
				if versions[group+name] == nil {
					versions[group+name] = new(int)
				}
				version := versions[group+name]
				writing.Go(func() { w.write(group, name, version) })
			}
		}
		for until := time.Now().Add(w.dice.upTo(2 * time.Second)); time.Now().Before(until); {
			w.dice.pause(200 * time.Millisecond)
			faults[w.dice.below(len(faults))]()()
		}
		w.calm.Store(true)
		w.db.faults.Store(false)
		writing.Wait()
		w.settle(all)
	}
	w.t.Logf("%d rounds, %d loads", rounds, w.db.loads.Load())
}

// settle waits until all clients have what the database has.
func (w *world) settle(all []*client) {
	began := time.Now()
	for _, c := range all {
		for err := c.differs(); err != nil; err = c.differs() {
			if time.Since(began) > patience {
				w.violation("after %v of silence %v", patience, err)
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	if took := time.Since(began); took > 10*time.Second {
		w.t.Logf("a round took %v to settle", took)
	}
}

func TestAfterSilenceEveryPageEqualsTheDatabaseInMemory(t *testing.T) {
	memory := grouphub.NewMemoryLayer()
	t.Cleanup(func() { memory.Close() })
	var layers [hubs]*lossyLayer
	var mu sync.Mutex
	w := newWorld(t, func(hub int) grouphub.Layer {
		mu.Lock()
		defer mu.Unlock()
		layers[hub] = &lossyLayer{Layer: memory}
		return layers[hub]
	})
	w.run(true,
		func() func() { w.restart(w.dice.below(hubs)); return func() {} },
		func() func() { w.dice.pause(faultTime); return func() {} },
		func() func() {
			mu.Lock()
			end := layers[w.dice.below(hubs)].lose()
			mu.Unlock()
			w.dice.pause(faultTime)
			return end
		})
}

func TestAfterSilenceEveryPageEqualsTheDatabaseOnRedis(t *testing.T) {
	server := redistest.Start(t)
	var proxies [hubs]*redistest.Proxy
	for i := range proxies {
		proxies[i] = redistest.StartProxy(t, server.URL())
	}
	w := newWorld(t, func(hub int) grouphub.Layer {
		l, err := grouphub.NewRedisLayer(proxies[hub].URL(), &grouphub.RedisOptions{Logger: quiet,
			Client: func(o *rueidis.ClientOption) { o.ForceSingleClient = true }})
		if err != nil {
			t.Error(err)
			return grouphub.NewMemoryLayer()
		}
		t.Cleanup(func() { l.Close() })
		return l
	})
	w.run(false,
		func() func() { w.restart(w.dice.below(hubs)); return func() {} },
		func() func() { p := proxies[w.dice.below(hubs)]; p.Cut(); w.dice.pause(faultTime); return p.Mend },
		func() func() { server.Kill(); w.dice.pause(faultTime); return server.Restart }, // it comes back empty
		func() func() { server.CLI("FLUSHALL"); return func() {} },
		func() func() { server.CLI("CLIENT", "KILL", "TYPE", "pubsub"); return func() {} },
		func() func() { server.Freeze(); w.dice.pause(faultTime); return server.Thaw },
	)
}
