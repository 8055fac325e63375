package grouphub

import (
	"context"
	"time"
)

// MemoryInUse returns how many topics and queues the layer has in memory.
func MemoryInUse(l *MemoryLayer) (topics, queues int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.topics), len(l.queues)
}

// SetRedisHeartbeat sets how often hubs that attach from now on prove their subscription.
func SetRedisHeartbeat(l *RedisLayer, d time.Duration) { l.heartbeat = d }

// RedisDiscarded returns how many payloads could not be opened.
func RedisDiscarded(l *RedisLayer) uint64 { return l.discarded.Load() }

// RedisChannel returns the channel of a topic.
func RedisChannel(l *RedisLayer, topic string) string { return l.key("topic", topic) }

// TakeAndCrash takes a message as a process does that ends before it hands it over.
func TakeAndCrash(l *RedisLayer, queue string) error {
	_, err := l.runQueue(context.Background(), "take from", queue, queueTake, milliseconds(redisQueueLease))
	return err
}
