//go:build linux

package main

import (
	"net"
	"sync"
)

// A proxy stands between a hub and Redis, and can freeze the connections that there are: they stay open,
// and nothing passes any more, as where a path has died without a word.
type proxy struct {
	listener net.Listener
	server   string // address
	running  sync.WaitGroup

	mu     sync.Mutex
	conns  []net.Conn
	frozen chan struct{} // closed when what has come until then is frozen
}

func startProxy(server string) (*proxy, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &proxy{listener: listener, server: server, frozen: make(chan struct{})}
	p.running.Go(p.accept)
	return p, nil
}

func (p *proxy) address() string { return p.listener.Addr().String() }

// freeze freezes all connections. Those that are made later are not frozen.
func (p *proxy) freeze() {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.frozen)
	p.frozen = make(chan struct{})
}

// close ends everything.
func (p *proxy) close() {
	p.listener.Close()
	p.mu.Lock()
	for _, conn := range p.conns {
		conn.Close()
	}
	p.mu.Unlock()
	p.running.Wait()
}

func (p *proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", p.server)
		if err != nil {
			client.Close()
			continue
		}
		p.mu.Lock()
		p.conns = append(p.conns, client, server)
		frozen := p.frozen
		p.mu.Unlock()
		p.running.Go(func() { pass(server, client, frozen) })
		p.running.Go(func() { pass(client, server, frozen) })
	}
}

// pass passes on what one side says. Once it is frozen, it reads on and passes on nothing, not even the
// end.
func pass(to, from net.Conn, frozen <-chan struct{}) {
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		select {
		case <-frozen:
			if err != nil {
				return
			}
			continue
		default:
		}
		if err != nil {
			to.Close()
			return
		}
		if _, err := to.Write(buf[:n]); err != nil {
			from.Close()
			return
		}
	}
}
