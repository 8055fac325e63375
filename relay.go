package grouphub

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"
)

// takeResponse takes the connection of a response away from net/http. Where that cannot be,
// as over HTTP/2, it returns a connection whose bytes a relay writes to the response. The
// context ends when the client has gone.
func takeResponse(ctx context.Context, w http.ResponseWriter, protoMajor int) (net.Conn, *relay, error) {
	rc := http.NewResponseController(w)
	if protoMajor == 1 {
		if conn, _, err := rc.Hijack(); err == nil {
			conn.SetDeadline(time.Time{}) // what the server set for the request
			return conn, nil, nil
		}
	}
	rc.SetReadDeadline(time.Time{})
	rc.SetWriteDeadline(time.Time{}) // the outbox has deadlines of its own
	streamHeader(w.Header())
	if err := rc.Flush(); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", errCannotStream, err)
	}
	r := &relay{ctx: ctx, w: w, control: rc}
	conn := &relayConn{relay: r}
	conn.Conn, r.bytes = net.Pipe()
	conn.end, r.end = net.Pipe()
	return conn, r, nil
}

// A relay writes to a response what its relayConn is given.
type relay struct {
	// Static after construction.
	ctx     context.Context // ends when the client has gone
	w       http.ResponseWriter
	control *http.ResponseController
	bytes   net.Conn // what is to be written
	end     net.Conn // closed when everything is written, or nothing more can be

	mu   sync.Mutex
	over bool // run is about to return, after which nobody may use the response
}

// relayBuffer is how many bytes a relay takes at once.
const relayBuffer = 4 << 10

// run writes until nothing more comes, or the client has gone. It runs on the handler's
// goroutine.
func (r *relay) run() {
	defer r.finish()
	defer context.AfterFunc(r.ctx, func() {
		r.bytes.Close()
		r.end.Close()
	})()
	buf := make([]byte, relayBuffer)
	for {
		n, err := r.bytes.Read(buf)
		if err != nil {
			return
		}
		if _, err := r.w.Write(buf[:n]); err != nil {
			return
		}
		if r.control.Flush() != nil {
			return
		}
	}
}

func (r *relay) finish() {
	r.mu.Lock()
	r.over = true
	r.mu.Unlock()
	r.bytes.Close()
	r.end.Close()
}

// cut ends a write that waits for the client, for which the response's deadlines were lifted.
func (r *relay) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.over {
		r.control.SetWriteDeadline(time.Unix(1, 0)) // it has passed, so this does not wait
	}
}

// A relayConn is the outbox's end of a relay. Reading from it waits until the client has gone
// or, after CloseWrite, until it has everything.
type relayConn struct {
	net.Conn // takes what is to be written
	relay    *relay
	end      net.Conn
}

func (c *relayConn) Read(p []byte) (int, error)         { return c.end.Read(p) }
func (c *relayConn) SetReadDeadline(at time.Time) error { return c.end.SetReadDeadline(at) }

// CloseWrite tells the relay that nothing more comes.
func (c *relayConn) CloseWrite() error { return c.Conn.Close() }

// Close gives up what the client does not have yet.
func (c *relayConn) Close() error {
	c.Conn.Close()
	c.end.Close()
	c.relay.cut()
	return nil
}
