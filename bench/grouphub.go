//go:build linux

package main

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"

	"github.com/seed-29c60982/grouphub"
)

// grouphubServer is this package with its defaults, and the handler that most programs
// want: each event as JSON, with its type and group around the data. It serves a WebSocket
// or an event stream, as the client asks for.
type grouphubServer struct {
	http.Handler
	hub *grouphub.Hub
}

func newGrouphub(s setup) (contender, error) {
	options := new(grouphub.Options)
	if s.Redis != "" {
		layer, err := grouphub.NewRedisLayer(s.Redis, nil)
		if err != nil {
			return nil, err
		}
		options.Layer = layer
	}
	if s.History {
		options.Policy = func(string) grouphub.GroupPolicy { return grouphub.GroupPolicy{History: 100} }
	}
	hub := grouphub.New(options)
	return grouphubServer{hub.Handler(grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error {
			defer joined.Add(1)
			for i := range s.Groups {
				if err := c.Join("quiet" + strconv.Itoa(i)); err != nil {
					return err
				}
			}
			return c.Join(c.PathValue("group"))
		},
		Disconnect: func(context.Context, *grouphub.Conn, int) { left.Add(1) },
		Events:     grouphub.Events{"event": grouphub.Forward()},
	}), hub}, nil
}

func (s grouphubServer) publish(group string, n int, next func() []byte) error {
	for range n {
		if err := s.hub.GroupSend(context.Background(), group, "event", json.RawMessage(next())); err != nil {
			return err
		}
	}
	return nil
}
