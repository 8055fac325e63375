// Package layertest checks that a [layer.Layer] keeps the promises of package layer. One
// call in the tests of a layer runs every case:
//
//	func TestLayer(t *testing.T) {
//		layertest.Test(t, func(t *testing.T) (a, b layer.Layer) {
//			server := startServer(t) // ends with t.Cleanup
//			return newLayer(t, server), newLayer(t, server)
//		})
//	}
//
// A test that can stop its server and start it again runs [TestWithHooks] instead, and a
// layer that has no server and no connection [TestInBubbles].
package layertest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"runtime"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-29c60982/grouphub/layer"
)

const (
	// patience is how long a case waits for what must happen. It is generous, because a
	// machine may be slow, and no case measures it.
	patience = 90 * time.Second
	// watchdogLimit is how long a case may take before the process is stopped.
	watchdogLimit = 4 * time.Minute
)

// A testCase checks one behaviour, which its name says.
type testCase struct {
	name string
	run  func(t testing.TB, f *fixture)
	slow bool // it waits for seconds, and runs beside the other slow ones
}

// cases returns the whole suite, but for what needs hooks.
func cases() []testCase {
	return slices.Concat(publishCases, subscriptionCases, historyCases, positionCases, positionerCases, leaseCases, queueCases, lifeCases)
}

// A pair is two ends of one layer.
type pair struct {
	a, b  layer.Layer
	hooks Hooks
}

// Test checks that a layer does what [layer.Layer], [layer.Receiver] and
// [layer.Subscription] promise. It calls newPair at least once for each case; newPair
// returns two ends of one layer, on which nothing was sent yet: two layers on one server, or
// the same layer twice. Test closes both; whatever else newPair starts, it ends with
// t.Cleanup. Test fails if a goroutine that was started in a case is left after it. Other tests
// may run at the same time.
//
// Test does not check how long a queue keeps a message, nor, unlike [TestWithHooks], what a
// layer does when its server goes away.
func Test(t *testing.T, newPair func(t *testing.T) (a, b layer.Layer)) {
	run(t, cases(), withoutHooks(newPair))
}

// TestWithHooks is [Test] with further cases, in which the layer's server fails: newPair
// also returns what makes it fail.
func TestWithHooks(t *testing.T, newPair func(t *testing.T) (a, b layer.Layer, hooks Hooks)) {
	run(t, slices.Concat(cases(), hookCases), func(t *testing.T) pair {
		a, b, hooks := newPair(t)
		return pair{a, b, hooks.withoutLabels()}
	})
}

// TestInBubbles is [Test] with each case in a bubble of testing/synctest, where waiting
// takes no time. It is for layers without files and connections.
func TestInBubbles(t *testing.T, newPair func(t *testing.T) (a, b layer.Layer)) {
	for _, c := range cases() {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				runCase(t, c, func() pair { return withoutHooks(newPair)(t) })
			})
		})
	}
}

func withoutHooks(newPair func(t *testing.T) (a, b layer.Layer)) func(t *testing.T) pair {
	return func(t *testing.T) pair {
		a, b := newPair(t)
		return pair{a: a, b: b}
	}
}

// run runs the fast cases one after the other, and then the slow ones at the same time.
func run(t *testing.T, all []testCase, newPair func(t *testing.T) pair) {
	var slow []testCase
	for _, c := range all {
		if c.slow {
			slow = append(slow, c)
			continue
		}
		runWhole(t, c.name, func(t *testing.T) {
			runCase(t, c, func() pair { return newPair(t) })
		})
	}
	runWhole(t, "WhatTakesSeconds", func(t *testing.T) {
		var running sync.WaitGroup
		defer running.Wait()
		for _, c := range slow {
			p := newPair(t) // it may end the test, so it runs in the test's own goroutine
			running.Go(func() {
				runCase(&concurrent{TB: t, name: c.name}, c, func() pair { return p })
			})
		}
	})
}

// runs numbers the subtests of a process.
var runs atomic.Uint64

// runWhole runs a subtest and checks that it leaves no goroutine. A goroutine inherits its
// labels from the one that starts it, so that those of other tests do not count.
func runWhole(t *testing.T, name string, fn func(t *testing.T)) {
	const key = "layertest"
	value := strconv.FormatUint(runs.Add(1), 10)
	passed := t.Run(name, func(t *testing.T) {
		pprof.SetGoroutineLabels(pprof.WithLabels(context.Background(), pprof.Labels(key, value)))
		fn(t)
	})
	if !passed {
		return
	}
	// The cleanups of newPair have run when Run returns.
	var left []string
	if !eventually(func() bool { left = labelled(key, value); return len(left) == 0 }) {
		t.Errorf("%s: goroutines are left after Close:\n%s", name, strings.Join(left, "\n\n"))
	}
}

// labelled returns the goroutines with a label, as the profile has them.
func labelled(key, value string) (found []string) {
	var profile bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&profile, 1); err != nil {
		panic(err) // a buffer takes everything
	}
	label := fmt.Sprintf("%q:%q", key, value)
	for entry := range strings.SplitSeq(profile.String(), "\n\n") {
		if strings.Contains(entry, label) {
			found = append(found, entry)
		}
	}
	return found
}

// runCase runs a case and closes its layers after it. A case that hangs ends the process,
// with the stacks of all goroutines.
func runCase(t testing.TB, c testCase, newPair func() pair) {
	watchdog := time.AfterFunc(watchdogLimit, func() {
		os.Stderr.Write(stacks())
		panic("layertest: the layer hangs in " + c.name)
	})
	defer watchdog.Stop()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	f := &fixture{t: t, ctx: ctx, pair: newPair(), newPair: newPair}
	defer f.close()
	c.run(t, f)
}

// A concurrent is the testing.TB of a case that runs beside others in one test. A failure
// ends the case and not the test.
type concurrent struct {
	testing.TB
	name string
}

func (c *concurrent) Errorf(format string, args ...any) {
	c.TB.Helper()
	c.TB.Errorf("%s: %s", c.name, fmt.Sprintf(format, args...))
}

func (c *concurrent) Error(args ...any) {
	c.TB.Helper()
	c.Errorf("%s", fmt.Sprint(args...))
}

func (c *concurrent) Fatalf(format string, args ...any) {
	c.TB.Helper()
	c.Errorf(format, args...)
	runtime.Goexit()
}

func (c *concurrent) Fatal(args ...any) {
	c.TB.Helper()
	c.Fatalf("%s", fmt.Sprint(args...))
}

func stacks() []byte {
	buf := make([]byte, 1<<20)
	return buf[:runtime.Stack(buf, true)]
}

// eventually polls a condition that gives no signal, and reports whether it came true.
func eventually(condition func() bool) bool {
	for deadline := time.Now().Add(patience); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			return false
		}
	}
	return true
}
