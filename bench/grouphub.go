//go:build linux

package main

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"

	"github.com/seed-29c60982/grouphub"
)

// grouphubServer is this package with its defaults, and the handler that most programs
// want: each event as JSON, with its type and group around the data. It serves a WebSocket
// or an event stream, as the client asks for.
type grouphubServer struct {
	http.Handler
	hub  *grouphub.Hub
	keys []grouphub.SendOption // Latest, for events in turn; nil without
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
	if s.Snapshot {
		state := strings.Repeat("x", 4<<10)
		options.Policy = func(string) grouphub.GroupPolicy {
			return grouphub.GroupPolicy{Snapshot: func(context.Context, string) (any, error) {
				loads.Add(1)
				return state, nil
			}}
		}
	}
	var keys []grouphub.SendOption
	for i := range s.Latest {
		keys = append(keys, grouphub.Latest("key"+strconv.Itoa(i)))
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
		Events:     grouphub.Events{"event": grouphub.Forward(), "snapshot": grouphub.Forward()},
	}), hub, keys}, nil
}

func (s grouphubServer) publish(group string, n int, next func() []byte) error {
	for i := range n {
		var options []grouphub.SendOption
		if len(s.keys) > 0 {
			options = s.keys[i%len(s.keys):][:1]
		}
		if err := s.hub.GroupSend(context.Background(), group, "event", json.RawMessage(next()), options...); err != nil {
			return err
		}
	}
	return nil
}
