package grouphub

import (
	"time"

	"github.com/seed-29c60982/grouphub/internal/envelope"
	"github.com/seed-29c60982/grouphub/internal/memory"
	"github.com/seed-29c60982/grouphub/internal/redis"
)

// LayerOf returns the hub's layer.
func LayerOf(h *Hub) Layer { return h.layer }

// MemoryInUse returns how many topics and queues the layer has in memory.
func MemoryInUse(l *MemoryLayer) (topics, queues int) { return l.inside.(*memory.Layer).InUse() }

// SetRedisHeartbeat sets how often hubs that attach from now on prove their subscription.
func SetRedisHeartbeat(l *RedisLayer, d time.Duration) { l.inside.(*redis.Layer).Heartbeat = d }

// RedisDiscarded returns how many payloads could not be opened.
func RedisDiscarded(l *RedisLayer) uint64 { return l.inside.(*redis.Layer).Discarded() }

// EncodeEvent returns an event as it travels through a layer.
func EncodeEvent(group, event string, data any) []byte {
	env, err := envelope.NewEvent(group, event, data, 1<<20)
	if err != nil {
		panic(err)
	}
	return env.Encode()
}
