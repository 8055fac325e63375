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
			if err := publish(node); err != nil || time.Since(start) >= 5*time.Second { // as long as one that waits for the frozen one
				t.Errorf("Publish to a healthy node: %v after %v", err, time.Since(start))
			}
		}
	}
	cancel()
	frozen.Signal(syscall.SIGCONT)
	others.Wait()
	await(t, "Publish to work again", func() bool { return publish(2) == nil })
}

func TestPositionsOfOtherNodesAreKnownThoughOneIsFrozen(t *testing.T) {
	c := startCluster(t)
	for _, s := range c {
		s.cli("CONFIG", "SET", "cluster-require-full-coverage", "no")
	}
	l := layer(t, c.url(), nil)
	var topics []string
	var homes []int
	for i := range 60 {
		topics = append(topics, fmt.Sprint("topic", i))
		homes = append(homes, c.home("grouphub:count:{"+topics[i]+"}"))
		keep := grouphub.Keep{Count: 1, Life: time.Minute}
		if err := l.Publish(context.Background(), grouphub.Publication{Topic: topics[i], Payload: []byte("x"), Keep: keep}); err != nil {
			t.Fatal(err)
		}
	}
	c[2].process.Process.Signal(syscall.SIGSTOP)
	defer c[2].process.Process.Signal(syscall.SIGCONT)
	begun := time.Now()
	positions, err := l.Positions(context.Background(), topics)
	if took := time.Since(begun); err != nil || len(positions) != len(topics) || took > 6*time.Second {
		t.Fatalf("%d positions, %v after %v, want those that can be learned within five seconds", len(positions), err, took)
	}
	for i, at := range positions {
		if known := at.Number == 1; known != (homes[i] != 2) {
			t.Errorf("%s is at %+v", topics[i], at)
		}
	}
}
