// Package gate keeps a subscription that is closed silent: both layers call their receivers
// through a [Gate], so that after Close has returned no call is under way and none begins.
package gate

import "sync"

// A Gate lets calls through until it is shut. Its zero value is open.
type Gate struct {
	calls sync.WaitGroup

	mu   sync.Mutex // orders calls.Add before calls.Wait
	shut bool
}

// Enter reports whether the call may be made; if so, Leave follows it.
func (g *Gate) Enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut {
		return false
	}
	g.calls.Add(1)
	return true
}

// Leave ends a call.
func (g *Gate) Leave() { g.calls.Done() }

// Shut refuses further calls, and returns when those under way have.
func (g *Gate) Shut() {
	g.mu.Lock()
	g.shut = true
	g.mu.Unlock()
	g.calls.Wait()
}
