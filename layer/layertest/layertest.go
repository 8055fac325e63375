// Package layertest checks that a [layer.Layer] keeps the promises of package layer. One
// call in the tests of a layer runs every case:
//
//	func TestLayer(t *testing.T) {
//		layertest.Test(t, func(t *testing.T) (a, b layer.Layer) {
//			server := startServer(t) // ends with t.Cleanup
//			return newLayer(t, server), newLayer(t, server)
//		})
//	}
package layertest

import (
	"context"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/seed-29c60982/grouphub/layer"
)

const (
	// patience is how long a case waits for what must happen. It is generous, because a
	// machine may be slow, and no case measures it.
	patience = 30 * time.Second
	// watchdogLimit is how long a case may take before the process is stopped.
	watchdogLimit = 2 * time.Minute
)

// A testCase checks one behaviour, which its name says.
type testCase struct {
	name string
	run  func(t testing.TB, f *fixture)
}

// cases returns the whole suite.
func cases() []testCase {
	return slices.Concat(publishCases, subscriptionCases, historyCases, leaseCases, queueCases, lifeCases)
}

// Test checks that a layer does what [layer.Layer], [layer.Receiver] and
// [layer.Subscription] promise. It calls newPair once for each case; newPair returns two
// ends of one layer: two layers on one server, or the same layer twice. Test closes both;
// whatever else newPair starts, it ends with t.Cleanup. Each case fails if a goroutine is
// left after it, so no other test may run at the same time.
//
// Test does not check what a layer does when its server goes away, nor how long a queue
// keeps a message.
func Test(t *testing.T, newPair func(t *testing.T) (a, b layer.Layer)) {
	for _, c := range cases() {
		before := runtime.NumGoroutine()
		ok := t.Run(c.name, func(t *testing.T) {
			a, b := newPair(t)
			runCase(t, c, a, b)
		})
		// The cleanups of newPair have run by now.
		if ok && !eventually(func() bool { return runtime.NumGoroutine() <= before }) {
			t.Errorf("%s: %d goroutines before, %d after Close:\n%s", c.name, before, runtime.NumGoroutine(), stacks())
		}
	}
}

// runCase runs a case and closes the layers after it. A case that hangs ends the process,
// with the stacks of all goroutines.
func runCase(t testing.TB, c testCase, a, b layer.Layer) {
	watchdog := time.AfterFunc(watchdogLimit, func() {
		os.Stderr.Write(stacks())
		panic("layertest: the layer hangs in " + c.name)
	})
	defer watchdog.Stop()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	f := &fixture{t: t, ctx: ctx, a: a, b: b}
	defer f.close()
	c.run(t, f)
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
