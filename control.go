package grouphub

import (
	"context"
	"crypto/rand"
	"fmt"
	"sync"
)

// control is what hubs tell each other, and themselves, on their own topics.
type control struct {
	mu    sync.Mutex
	pings map[string]chan struct{}
	queue []*envelope // changes of membership, which may have to wait for the layer
	busy  bool        // a goroutine works on the queue
}

// obey does what an envelope on the hub's own topic says. It never blocks.
func (h *Hub) obey(env *envelope) error {
	switch env.kind {
	case kindPing:
		h.control.pong(env.name)
	case kindEvent:
		if !h.deliverDirect(env) { // it has just ended
			h.count.dropped.Add(1)
		}
	case kindAdd, kindDiscard:
		if err := checkGroup("change of membership", env.name); err != nil {
			return err
		}
		h.control.mu.Lock()
		h.control.queue = append(h.control.queue, env)
		start := !h.control.busy
		h.control.busy = true
		h.control.mu.Unlock()
		if start {
			h.goroutines.spawn(h.changeMemberships)
		}
	default:
		return fmt.Errorf("payload of kind %d for a hub", env.kind)
	}
	return nil
}

// changeMemberships carries out, in order, what other hubs' GroupAdd and GroupDiscard
// ask for.
func (h *Hub) changeMemberships() {
	for {
		h.control.mu.Lock()
		if len(h.control.queue) == 0 {
			h.control.busy = false
			h.control.mu.Unlock()
			return
		}
		env := h.control.queue[0]
		h.control.queue = h.control.queue[1:]
		h.control.mu.Unlock()

		c := h.conn(env.channel)
		if c == nil { // it has ended, and is in no group any more
			continue
		}
		if env.kind == kindDiscard {
			h.leave(c, env.name)
			continue
		}
		ctx, cancel := context.WithTimeout(c.ctx, layerTimeout)
		stop := context.AfterFunc(h.life, cancel)
		if err := h.join(ctx, c, env.name); err != nil && c.ctx.Err() == nil {
			h.count.dropped.Add(1)
			h.logger().Error("grouphub: group add from another hub failed", "channel", env.channel,
				"group", env.name, "error", err)
		}
		stop()
		cancel()
	}
}

// expectPing returns a token to send and the channel that is closed when it comes back.
func (c *control) expectPing() (token string, back <-chan struct{}) {
	ch := make(chan struct{})
	token = rand.Text()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pings == nil {
		c.pings = make(map[string]chan struct{})
	}
	c.pings[token] = ch
	return token, ch
}

func (c *control) forgetPing(token string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.pings, token)
}

func (c *control) pong(token string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if ch := c.pings[token]; ch != nil {
		close(ch)
		delete(c.pings, token)
	}
}
