package grouphub_test

import (
	"log/slog"
	"testing"

	"github.com/redis/rueidis"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/internal/redistest"
)

// redisLayer returns a layer that is closed with the test.
func redisLayer(t testing.TB, url string, opts *grouphub.RedisOptions) *grouphub.RedisLayer {
	t.Helper()
	l, err := grouphub.NewRedisLayer(url, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// layerBehind returns a layer behind a proxy. Miniredis takes itself for a Cluster of one,
// whose address would lead past it.
func layerBehind(t *testing.T, proxy *redistest.Proxy) *grouphub.RedisLayer {
	t.Helper()
	return redisLayer(t, proxy.URL(), &grouphub.RedisOptions{
		Client: func(o *rueidis.ClientOption) { o.ForceSingleClient = true }})
}

// redisHubOn returns a hub on a Redis layer of its own, as in a process of its own, once
// its subscription is in force.
func redisHubOn(t *testing.T, s *redistest.Server, options grouphub.Options) *grouphub.Hub {
	t.Helper()
	layer := redisLayer(t, s.URL(), nil)
	options.Layer = layer
	hub := newHub(t, &options)
	eventually(t, func() bool { return hub.Stats().LayerUp }, "the layer is not up")
	return hub
}

// redisHubs returns two hubs that share nothing but the server, and serve one consumer.
func redisHubs(t *testing.T, s *redistest.Server, c grouphub.Consumer) (a, b *grouphub.Hub) {
	t.Helper()
	options := grouphub.Options{Consumer: c, Logger: slog.New(slog.DiscardHandler)}
	return redisHubOn(t, s, options), redisHubOn(t, s, options)
}

// onTwoHubs runs a test with two hubs that share a layer: in memory, and on Redis servers.
func onTwoHubs(t *testing.T, options grouphub.Options, run func(t *testing.T, a, b *grouphub.Hub)) {
	options.Logger = quiet()
	t.Run("memory", func(t *testing.T) {
		options := options
		options.Layer = grouphub.NewMemoryLayer()
		run(t, newHub(t, &options), newHub(t, &options))
	})
	redistest.OnBoth(t, func(t *testing.T, url string) {
		var hubs [2]*grouphub.Hub
		for i := range hubs {
			options := options
			options.Layer = redisLayer(t, url, nil)
			hubs[i] = newHub(t, &options)
			eventually(t, func() bool { return hubs[i].Stats().LayerUp }, "the layer is not up")
		}
		run(t, hubs[0], hubs[1])
	})
}
