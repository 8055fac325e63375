package redis

import (
	"context"
	"crypto/tls"
	"maps"
	"net"
	"slices"
	"sync"

	"github.com/redis/rueidis"
)

// connections makes every connection of a layer, so that all of them, and the attempts
// to make one, end when the layer does: rueidis offers no context for that.
type connections struct {
	dial   func(context.Context, string, *net.Dialer, *tls.Config) (net.Conn, error)
	ctx    context.Context
	cancel context.CancelFunc

	mu  sync.Mutex
	all map[*connection]struct{}
}

type connection struct {
	net.Conn
	of *connections
}

// dialError tells that nothing was sent.
type dialError struct{ error }

func (e dialError) Unwrap() error { return e.error }

// newConnections puts a dialer into the options, on top of what is there.
func newConnections(option *rueidis.ClientOption) *connections {
	cs := &connections{dial: option.DialCtxFn, all: make(map[*connection]struct{})}
	cs.ctx, cs.cancel = context.WithCancel(context.Background())
	if old := option.DialFn; cs.dial == nil && old != nil { // rueidis prefers the other
		cs.dial = func(_ context.Context, address string, dialer *net.Dialer, config *tls.Config) (net.Conn, error) {
			return old(address, dialer, config)
		}
	}
	if cs.dial == nil {
		cs.dial = func(ctx context.Context, address string, dialer *net.Dialer, config *tls.Config) (net.Conn, error) {
			if config != nil {
				return (&tls.Dialer{NetDialer: dialer, Config: config}).DialContext(ctx, "tcp", address)
			}
			return dialer.DialContext(ctx, "tcp", address)
		}
	}
	option.DialCtxFn = cs.dialContext
	return cs
}

// dialContext makes a connection, which is known until it is closed.
func (cs *connections) dialContext(ctx context.Context, address string, dialer *net.Dialer, config *tls.Config) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(cs.ctx, cancel)()
	conn, err := cs.dial(ctx, address, dialer, config)
	if err != nil {
		return nil, dialError{err}
	}
	c := &connection{conn, cs}
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if err := cs.ctx.Err(); err != nil {
		conn.Close()
		return nil, dialError{err}
	}
	cs.all[c] = struct{}{}
	return c, nil
}

// Close implements [net.Conn].
func (c *connection) Close() error {
	c.of.mu.Lock()
	delete(c.of.all, c)
	c.of.mu.Unlock()
	return c.Conn.Close()
}

// drop ends every connection there is.
func (cs *connections) drop() {
	cs.mu.Lock()
	conns := slices.Collect(maps.Keys(cs.all))
	cs.mu.Unlock()
	for _, c := range conns {
		c.Close()
	}
}

// close ends every connection and every attempt to make one.
func (cs *connections) close() {
	cs.cancel()
	cs.mu.Lock()
	conns := cs.all
	cs.all = nil
	cs.mu.Unlock()
	for c := range conns {
		c.Conn.Close()
	}
}
