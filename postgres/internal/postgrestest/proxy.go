package postgrestest

import (
	"net"
	"sync"
	"testing"
)

// A Proxy stands between clients and a server, and can stop passing anything on.
type Proxy struct {
	listener net.Listener
	server   string
	running  sync.WaitGroup

	mu     sync.Mutex
	thawed *sync.Cond
	frozen bool
	ended  bool
	conns  []net.Conn // of both sides
}

// StartProxy starts a proxy that ends with the test.
func StartProxy(t testing.TB, server string) *Proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{listener: listener, server: server}
	p.thawed = sync.NewCond(&p.mu)
	p.running.Go(func() {
		for {
			client, err := listener.Accept()
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
			p.running.Go(func() { p.pass(client, server, frozen) })
			p.running.Go(func() { p.pass(server, client, frozen) })
		}
	})
	t.Cleanup(func() {
		listener.Close()
		p.mu.Lock()
		p.ended = true
		p.thawed.Broadcast()
		for _, conn := range p.conns {
			conn.Close()
		}
		p.mu.Unlock()
		p.running.Wait()
	})
	return p
}

// Address returns where the proxy listens.
func (p *Proxy) Address() string { return p.listener.Addr().String() }

// Freeze passes nothing on any more, over the connections that there are. They stay open.
func (p *Proxy) Freeze() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.frozen = true
}

// pass passes on what one side says. Connections that began after Freeze are not frozen.
func (p *Proxy) pass(from, to net.Conn, late bool) {
	defer from.Close()
	defer to.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		p.mu.Lock()
		for p.frozen && !late && !p.ended {
			p.thawed.Wait()
		}
		p.mu.Unlock()
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}
