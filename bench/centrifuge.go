//go:build linux

package main

import (
	"context"
	"net/http"
	"time"

	"github.com/centrifugal/centrifuge"
)

// centrifugeHello is the connect command of its JSON protocol. The server subscribes
// the client, so that one round trip is enough.
const centrifugeHello = `{"id":1,"connect":{}}`

// centrifugeServer is a centrifuge node with what its documentation offers for many
// connections and was found to be cheapest: pooled write buffers, commands off the read
// loop, no pings of its own protocol, and frames joined without a limit by a timer of
// a millisecond, which saves a goroutine per connection as well.
type centrifugeServer struct {
	http.Handler
	node *centrifuge.Node
}

type groupKey struct{}

// centrifugeQuery is the same for an event stream.
const centrifugeQuery = `?cf_connect=%7B%22id%22%3A1%2C%22connect%22%3A%7B%7D%7D`

func newCentrifuge(s setup) (contender, error) {
	node, err := newCentrifugeNode(s.Redis)
	if err != nil {
		return nil, err
	}
	return centrifugeServer{inGroup(centrifuge.NewWebsocketHandler(node, centrifuge.WebsocketConfig{
		ReadBufferSize:             1024,
		UseWriteBufferPool:         true,
		ProcessCommandsOffReadLoop: true,
		PingPongConfig:             centrifugeNoPings,
	})), node}, nil
}

// newCentrifugeSSE serves event streams, which centrifuge calls SSE.
func newCentrifugeSSE(s setup) (contender, error) {
	node, err := newCentrifugeNode(s.Redis)
	if err != nil {
		return nil, err
	}
	return centrifugeServer{inGroup(centrifuge.NewSSEHandler(node, centrifuge.SSEConfig{PingPongConfig: centrifugeNoPings})), node}, nil
}

var centrifugeNoPings = centrifuge.PingPongConfig{PingInterval: -1, PongTimeout: -1}

// inGroup has a handler know the group that the path names.
func inGroup(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), groupKey{}, r.PathValue("group"))))
	})
}

func newCentrifugeNode(redis string) (*centrifuge.Node, error) {
	node, err := centrifuge.New(centrifuge.Config{})
	if err != nil {
		return nil, err
	}
	if redis != "" {
		shard, err := centrifuge.NewRedisShard(node, centrifuge.RedisShardConfig{Address: redis})
		if err != nil {
			return nil, err
		}
		broker, err := centrifuge.NewRedisBroker(node, centrifuge.RedisBrokerConfig{Shards: []*centrifuge.RedisShard{shard}})
		if err != nil {
			return nil, err
		}
		node.SetBroker(broker)
	}
	node.OnConnecting(func(ctx context.Context, _ centrifuge.ConnectEvent) (centrifuge.ConnectReply, error) {
		return centrifuge.ConnectReply{
			Credentials:        &centrifuge.Credentials{},
			Subscriptions:      map[string]centrifuge.SubscribeOptions{ctx.Value(groupKey{}).(string): {}},
			MaxMessagesInFrame: -1,
			WriteDelay:         time.Millisecond,
			WriteWithTimer:     true,
		}, nil
	})
	node.OnConnect(func(c *centrifuge.Client) {
		joined.Add(1)
		c.OnDisconnect(func(centrifuge.DisconnectEvent) { left.Add(1) })
	})
	if err := node.Run(); err != nil {
		return nil, err
	}
	return node, nil
}

func (s centrifugeServer) publish(group string, n int, next func() []byte) error {
	for range n {
		if _, err := s.node.Publish(group, next()); err != nil {
			return err
		}
	}
	return nil
}
