package model_test

import (
	"flag"
	"math/rand/v2"
	"sync"
	"time"
)

var seed = flag.Uint64("model.seed", 0, "fixes what is decided, though not when; 0: another one each time")

// dice decide. They may be used concurrently.
type dice struct {
	mu     sync.Mutex
	source *rand.Rand
	seed   uint64
}

func newDice() *dice {
	d := &dice{seed: *seed}
	if d.seed == 0 {
		d.seed = rand.Uint64()
	}
	d.source = rand.New(rand.NewPCG(d.seed, 1))
	return d
}

// below returns a number from 0 on that is less than n.
func (d *dice) below(n int) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.source.IntN(n)
}

// upTo returns a time that is less than most.
func (d *dice) upTo(most time.Duration) time.Duration { return time.Duration(d.below(int(most))) }

// pause waits for such a time.
func (d *dice) pause(most time.Duration) { time.Sleep(d.upTo(most)) }
