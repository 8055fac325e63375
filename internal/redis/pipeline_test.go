package redis

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/alicebob/miniredis/v2/server"
	"github.com/redis/rueidis"

	"github.com/seed-29c60982/grouphub/internal/redistest"
	"github.com/seed-29c60982/grouphub/layer"
)

func TestHeartbeatGetsThroughWhenTheQueueIsFull(t *testing.T) {
	m := miniredis.RunT(t)
	// By itself it is taken for a Cluster.
	l := newTestLayer(t, "redis://"+m.Addr(), Options{Client: func(o *rueidis.ClientOption) { o.ForceSingleClient = true }})
	var mu sync.Mutex
	var seen []string // channels
	held := make(chan struct{})
	m.Server().SetPreHook(func(_ *server.Peer, command string, args ...string) bool {
		if command == "PUBLISH" {
			mu.Lock()
			seen = append(seen, args[0])
			mu.Unlock()
			<-held
		}
		return false
	})
	var publishers sync.WaitGroup
	defer publishers.Wait()
	for len(l.jobs) < cap(l.jobs) {
		publishers.Go(func() {
			if err := l.Publish(t.Context(), layer.Publication{Topic: "topic"}); err != nil {
				t.Error(err)
			}
		})
		time.Sleep(10 * time.Microsecond)
	}
	const beat = "beat"
	l.post(l.publish(beat, nil))
	close(held)
	await(t, "the heartbeat", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return slices.Contains(seen, beat)
	})
}

func BenchmarkPublish(b *testing.B) {
	s := redistest.Start(b)
	l, err := New(s.URL(), Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	p := layer.Publication{Topic: "topic", Payload: make([]byte, 256)}
	for _, publishers := range []int{1, 64, 512} {
		b.Run(fmt.Sprint("publishers=", publishers), func(b *testing.B) {
			var wg sync.WaitGroup
			var left atomic.Int64
			left.Store(int64(b.N))
			for range publishers {
				wg.Go(func() {
					for left.Add(-1) >= 0 {
						if err := l.Publish(context.Background(), p); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "publishes/s")
		})
	}
}
