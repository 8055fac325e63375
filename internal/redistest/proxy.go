package redistest

import (
	"bytes"
	"net"
	"strings"
	"sync"
	"testing"
)

// A Proxy stands between clients and a server, and breaks their connections.
type Proxy struct {
	listener net.Listener
	running  sync.WaitGroup
	flow     sync.RWMutex // held for reading by what passes on to clients

	mu     sync.Mutex
	server string // where new connections lead to
	down   bool
	conns  map[net.Conn]struct{} // of both sides
	behead string                // whoever sends this gets no answer, but the end of the connection
	hold   string                // what this is in waits for before
	before func()
}

// StartProxy starts a proxy that ends with the test. It takes the server's URL or its
// address.
func StartProxy(t *testing.T, server string) *Proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{listener: listener, server: strings.TrimPrefix(server, "redis://"), conns: make(map[net.Conn]struct{})}
	p.running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			p.running.Go(func() { p.serve(conn) })
		}
	})
	t.Cleanup(func() {
		listener.Close()
		p.Cut()
		p.running.Wait()
	})
	return p
}

// URL returns what a layer is given to connect through the proxy.
func (p *Proxy) URL() string { return "redis://" + p.listener.Addr().String() }

// Cut ends all connections, and refuses others until Mend.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = true
	for conn := range p.conns {
		conn.Close()
	}
	clear(p.conns)
}

// Mend lets connections through again.
func (p *Proxy) Mend() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = false
}

// Stall passes nothing on to clients until goOn is called, or the test ends.
func (p *Proxy) Stall(t *testing.T) (goOn func()) {
	p.flow.Lock()
	goOn = sync.OnceFunc(p.flow.Unlock)
	t.Cleanup(goOn)
	return goOn
}

// LeadTo leads new connections to another server, as a name or a virtual address does
// after a failover. Those there are stay.
func (p *Proxy) LeadTo(server string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.server = strings.TrimPrefix(server, "redis://")
}

// LoseReply ends the next connection that sends this text, once the server has answered.
func (p *Proxy) LoseReply(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.behead = text
}

// HoldUp calls a function before it passes on what has this text in it for the first time.
func (p *Proxy) HoldUp(text string, before func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hold, p.before = text, before
}

// serve passes on what one client and its server say.
func (p *Proxy) serve(client net.Conn) {
	defer client.Close()
	p.mu.Lock()
	address := p.server
	p.mu.Unlock()
	server, err := net.Dial("tcp", address)
	if err != nil {
		return
	}
	defer server.Close()
	if !p.add(client, server) {
		return
	}
	r := &relay{proxy: p, client: client, server: server}
	p.running.Go(r.toServer)
	r.toClient()
}

// add notes the connections, unless none are let through.
func (p *Proxy) add(conns ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.down {
		return false
	}
	for _, conn := range conns {
		p.conns[conn] = struct{}{}
	}
	return true
}

// takeBehead reports whether the text that LoseReply waits for is among the bytes.
func (p *Proxy) takeBehead(sent []byte) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.behead == "" || !bytes.Contains(sent, []byte(p.behead)) {
		return false
	}
	p.behead = ""
	return true
}

// takeHold returns what HoldUp was given if its text is among the bytes.
func (p *Proxy) takeHold(sent []byte) func() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.hold == "" || !bytes.Contains(sent, []byte(p.hold)) {
		return func() {}
	}
	p.hold = ""
	return p.before
}
