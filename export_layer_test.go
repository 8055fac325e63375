package grouphub

import "time"

// MemoryInUse returns how many topics and queues the layer has in memory.
func MemoryInUse(l *MemoryLayer) (topics, queues int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.topics), len(l.queues)
}

// SetRedisHeartbeat sets how often hubs that attach from now on prove their subscription.
func SetRedisHeartbeat(l *RedisLayer, d time.Duration) { l.redis.Heartbeat = d }

// RedisDiscarded returns how many payloads could not be opened.
func RedisDiscarded(l *RedisLayer) uint64 { return l.redis.Discarded() }
