// Package network is a network that breaks as real ones do.
package network

import (
	"net"
	"sync"
	"testing"
)

// A Proxy passes bytes on, until the paths through it are cut, or fall silent.
type Proxy struct {
	Address string // where it listens

	t       *testing.T
	target  string
	running sync.WaitGroup

	mu       sync.Mutex
	listener net.Listener // nil while nobody listens
	paths    *paths       // those that connections get now
}

// paths are those of some connections, and have one fate.
type paths struct {
	mu     sync.Mutex
	ends   []net.Conn
	silent bool
}

// NewProxy starts a proxy in front of the target, until the test ends.
func NewProxy(t *testing.T, target string) *Proxy {
	t.Helper()
	p := &Proxy{t: t, Address: "127.0.0.1:0", target: target, paths: new(paths)}
	p.Listen()
	t.Cleanup(func() {
		p.Refuse()
		p.running.Wait()
	})
	return p
}

// Listen has the proxy take connections.
func (p *Proxy) Listen() {
	p.t.Helper()
	listener, err := net.Listen("tcp", p.Address)
	if err != nil {
		p.t.Fatal(err)
	}
	p.mu.Lock()
	p.listener, p.Address = listener, listener.Addr().String()
	p.mu.Unlock()
	p.running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			p.running.Go(func() { p.pass(conn) })
		}
	})
}

// Refuse cuts all connections and takes no new ones, as if the server were down.
func (p *Proxy) Refuse() {
	p.mu.Lock()
	listener := p.listener
	p.listener = nil
	p.mu.Unlock()
	if listener != nil {
		listener.Close()
	}
	p.Cut()
}

// Cut resets all connections that there are.
func (p *Proxy) Cut() { p.end(false) }

// Kill has all connections that there are fall silent, without an end.
func (p *Proxy) Kill() { p.end(true) }

func (p *Proxy) end(silently bool) {
	p.mu.Lock()
	ending := p.paths
	if silently {
		p.paths = &paths{ends: ending.ends} // they are closed in the end
	} else {
		p.paths = new(paths)
	}
	p.mu.Unlock()
	ending.mu.Lock()
	defer ending.mu.Unlock()
	if silently {
		ending.silent = true
		return
	}
	for _, end := range ending.ends {
		end.(*net.TCPConn).SetLinger(0)
		end.Close()
	}
}

func (p *Proxy) pass(client net.Conn) {
	server, err := net.Dial("tcp", p.target)
	if err != nil {
		client.Close()
		return
	}
	p.mu.Lock()
	mine := p.paths
	mine.mu.Lock()
	mine.ends = append(mine.ends, client, server)
	mine.mu.Unlock()
	p.mu.Unlock()
	var both sync.WaitGroup
	for from, to := range map[net.Conn]net.Conn{client: server, server: client} {
		both.Go(func() { mine.copy(from, to) })
	}
	both.Wait()
}

func (p *paths) copy(from, to net.Conn) {
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		p.mu.Lock()
		silent := p.silent
		p.mu.Unlock()
		if silent {
			if err != nil {
				return
			}
			continue
		}
		if _, failed := to.Write(buffer[:n]); err != nil || failed != nil {
			from.Close()
			to.Close()
			return
		}
	}
}
