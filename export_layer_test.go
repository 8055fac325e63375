package grouphub

// MemoryInUse returns how many topics and queues the layer has in memory.
func MemoryInUse(l *MemoryLayer) (topics, queues int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.topics), len(l.queues)
}
