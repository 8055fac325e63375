package grouphub

import (
	"reflect"

	"github.com/seed-29c60982/grouphub/internal/envelope"
)

// HubName returns the name that the hub's channels begin with.
func HubName(h *Hub) string { return h.name }

// LayerOf returns the hub's layer.
func LayerOf(h *Hub) Layer { return h.layer }

// MemoryInUse returns how many topics and queues the layer has in memory.
func MemoryInUse(l *MemoryLayer) (topics, queues int) { return l.memory.InUse() }

// MemoryLeases returns how many topics the layer has leases of, expired ones included.
// Nobody may use it at that time.
func MemoryLeases(l *MemoryLayer) int {
	MemoryInUse(l) // takes the lock, so that what was done before is seen
	return reflect.ValueOf(l.memory).Elem().FieldByName("leases").Len()
}

// RedisDiscarded returns how many payloads could not be opened.
func RedisDiscarded(l *RedisLayer) uint64 { return l.discarded() }

// EncodeEvent returns an event as it travels through a layer.
func EncodeEvent(group, event string, data any) []byte {
	env, err := envelope.NewEvent(group, event, data, 1<<20)
	if err != nil {
		panic(err)
	}
	return env.Encode()
}

// SetFullShard sets how many members a shard gets before its group is given another one. It
// is called before the hub has members.
func SetFullShard(h *Hub, members int32) { h.fullShard = members }

// ShardSizes returns how many members each shard of a group has.
func ShardSizes(h *Hub, group string) (sizes []int) {
	if g := h.group(group); g != nil {
		for s := range g.shards() {
			sizes = append(sizes, int(s.size.Load()))
		}
	}
	return sizes
}

// AskForHubs has the hub ask at once whether another hub is there, as it otherwise does once
// nothing was interrupted for a while.
func AskForHubs(h *Hub) { h.hubLeases.doubted.Store(int64(uptime() - hubLeaseDoubt)) }

// Asked returns the highest ticket that a group's loader has given out.
func Asked(h *Hub, group string) uint64 {
	l := h.group(group).loader
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.asked
}

// LeaseLife is how long the presence of a hub that has crashed is still read.
const LeaseLife = leaseLife
