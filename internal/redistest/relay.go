package redistest

import (
	"net"
	"sync/atomic"
)

// A relay is one connection through a proxy. Once it is beheaded nothing passes any more:
// the server gets the end of what was said, does as it was told, and ends the connection.
type relay struct {
	proxy          *Proxy
	client, server net.Conn
	beheaded       atomic.Bool
}

func (r *relay) toServer() {
	defer r.server.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := r.client.Read(buf)
		if err != nil {
			return
		}
		if r.beheaded.Load() {
			continue
		}
		r.proxy.takeHold(buf[:n])()
		last := r.proxy.takeBehead(buf[:n])
		if last {
			r.beheaded.Store(true)
		}
		if _, err := r.server.Write(buf[:n]); err != nil {
			return
		}
		if last {
			r.server.(*net.TCPConn).CloseWrite()
		}
	}
}

func (r *relay) toClient() {
	buf := make([]byte, 64<<10)
	for {
		n, err := r.server.Read(buf)
		if err != nil {
			return
		}
		if r.beheaded.Load() {
			continue
		}
		r.proxy.flow.RLock()
		_, err = r.client.Write(buf[:n])
		r.proxy.flow.RUnlock()
		if err != nil {
			return
		}
	}
}
