//go:build linux

package main

import (
	"context"
	"net/http"

	"github.com/coder/websocket"
)

// coderServer is a hub on coder/websocket, as in its chat example: a channel per
// client, and a goroutine that writes what comes through it.
type coderServer struct{ members *roster[*coderClient] }

type coderClient struct {
	conn *websocket.Conn
	send chan []byte
}

func newCoder(setup) (contender, error) {
	return coderServer{newRoster[*coderClient]()}, nil
}

func (s coderServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	conn, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	c, group := &coderClient{conn, make(chan []byte, 256)}, r.PathValue("group")
	s.members.join(group, c)
	// The handler returns, so that net/http frees what it holds for the request.
	ctx := conn.CloseRead(context.Background())
	go func() {
		defer conn.CloseNow()
		defer s.members.leave(group, c)
		for {
			select {
			case m := <-c.send:
				if conn.Write(ctx, websocket.MessageText, m) != nil {
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}()
}

func (s coderServer) publish(group string, n int, next func() []byte) error {
	for range n {
		m := next()
		s.members.each(group, func(c *coderClient) {
			select {
			case c.send <- m:
			default: // too slow
				go c.conn.Close(websocket.StatusPolicyViolation, "too slow")
			}
		})
	}
	return nil
}
