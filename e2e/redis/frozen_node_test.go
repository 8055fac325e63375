package redis_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/seed-29c60982/grouphub"
)

func TestFrozenNodeHoldsUpNoOther(t *testing.T) {
	c := startCluster(t)
	for _, s := range c {
		s.cli("CONFIG", "SET", "cluster-require-full-coverage", "no")
	}
	l := layer(t, c.url(), nil)
	topics := make([]string, len(c)) // one on each node
	for i := 0; slices.Contains(topics, ""); i++ {
		name := fmt.Sprint("topic", i)
		topics[c.home("grouphub:topic:{"+name+"}")] = name
	}
	publish := func(node int) error {
		return l.Publish(context.Background(), grouphub.Publication{Topic: topics[node], Payload: []byte("x")})
	}
	for node := range c {
		if err := publish(node); err != nil {
			t.Fatal(err)
		}
	}
	frozen := c[2].process.Process
	frozen.Signal(syscall.SIGSTOP)
	defer frozen.Signal(syscall.SIGCONT)
	ctx, cancel := context.WithCancel(context.Background())
	var others sync.WaitGroup
	for range 50 { // more than any number of pipelines
		others.Go(func() {
			for ctx.Err() == nil {
				if err := publish(2); err != nil && !errors.Is(err, grouphub.ErrUnavailable) && !errors.Is(err, grouphub.ErrUncertain) {
					t.Errorf("Publish: %v", err)
				}
			}
		})
	}
	for begun := time.Now(); time.Since(begun) < 4*time.Second; {
		for node := range 2 {
			start := time.Now()
			if err := publish(node); err != nil || time.Since(start) > 2*time.Second {
				t.Errorf("Publish to a healthy node: %v after %v", err, time.Since(start))
			}
		}
	}
	cancel()
	frozen.Signal(syscall.SIGCONT)
	others.Wait()
	await(t, "Publish to work again", func() bool { return publish(2) == nil })
}
