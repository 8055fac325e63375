package grouphub

import (
	"context"
	"fmt"
	"time"
)

const (
	// closePause is the time between two of the connections that Shutdown closes, and
	// maxCloseSpread is the most that all of them together are spread over.
	closePause     = 500 * time.Microsecond
	maxCloseSpread = 10 * time.Second
)

// Shutdown refuses upgrades, closes every connection with 1001, waits for them and for
// all callbacks, and lets go of the layer. The closing is spread over time, half a
// millisecond for each connection but at most ten seconds and half of what ctx
// allows, so that the clients do not come back all at once.
//
// When ctx ends first, the sockets are dropped and its error is returned; then only
// callbacks that have not returned still run, and the members may be listed for another
// minute. http.Server.Shutdown does not wait for upgraded connections: call this too,
// before or after. Where there are event streams over HTTP/2, whose handlers it does wait
// for, call this before. Further calls wait like the first. Every other method is ErrClosed
// afterwards.
func (h *Hub) Shutdown(ctx context.Context) error {
	h.mu.Lock()
	first := !h.closing
	h.closing = true
	h.mu.Unlock()
	shutDown := h.awaitShutdown
	if first {
		shutDown = h.shutDown
	}
	if err := shutDown(ctx); err != nil {
		return fmt.Errorf("grouphub: shutdown: %w", err)
	}
	return nil
}

// awaitShutdown waits for the first call of Shutdown, and for callbacks that it has left.
func (h *Hub) awaitShutdown(ctx context.Context) error {
	select {
	case <-h.down:
		return h.callbacks.wait(ctx)
	case <-ctx.Done():
		h.dropSockets()
		return ctx.Err()
	}
}

func (h *Hub) shutDown(ctx context.Context) error {
	defer close(h.down)
	h.endLoads()
	spread(ctx, h.connections(), closePause, maxCloseSpread, func(c *Conn) {
		c.outbox.CloseWith(closeGoingAway, "server is shutting down")
	})
	h.endSubscriptions()
	err := h.callbacks.wait(ctx)
	if err != nil {
		h.dropSockets()
	}
	// Until here callbacks, Disconnect among them, could use the hub.
	h.endLife()
	// What is left ends by itself, and does not wait for callbacks: read loops of dead
	// sockets, shards, and the removal of leases.
	defer h.leases.end(ctx)()
	h.hubLeases.renew()
	h.goroutines.wait(context.Background())
	// A shard may have begun a Render meanwhile.
	for err == nil && h.callbacks.wait(alreadyCancelled) != nil {
		err = h.callbacks.wait(ctx)
		h.goroutines.wait(context.Background())
	}
	closeSubscription(ctx, h.subscription)
	h.closes.end()
	waitForCalls(ctx, h.layer)
	if h.ownLayer {
		h.layer.Close()
	}
	return err
}

func (h *Hub) dropSockets() {
	for _, c := range h.connections() {
		c.outbox.Kill()
	}
}

// alive returns ErrClosed after Shutdown.
func (h *Hub) alive() error {
	if h.life.Err() != nil {
		return ErrClosed
	}
	return nil
}

// spread calls f for each connection, with a pause after each. All of it takes no longer
// than most, nor than half of what ctx allows. It ends with ctx.
func spread(ctx context.Context, conns []*Conn, pause, most time.Duration, f func(*Conn)) {
	total := min(time.Duration(len(conns))*pause, most)
	if deadline, ok := ctx.Deadline(); ok {
		total = min(total, max(0, time.Until(deadline)/2))
	}
	start := time.Now()
	for i, c := range conns {
		due := start.Add(total * time.Duration(i) / time.Duration(len(conns)))
		// A timer is coarser than half a millisecond, so short waits are put off until they
		// have added up.
		if wait := time.Until(due); wait > time.Millisecond {
			select {
			case <-time.After(wait):
			case <-ctx.Done():
				return
			}
		}
		f(c)
	}
}
