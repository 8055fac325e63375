package grouphub

import (
	"context"

	"github.com/seed-29c60982/grouphub/internal/memory"
)

// A MemoryLayer connects the hubs of one process. It runs no goroutine, and keeps
// nothing of a topic without subscribers or history, or of a queue without messages.
//
// A publication goes to every subscriber or to none: Publish waits until all of them
// have room, and one publisher of a topic does so at a time. If there is nothing to wait for,
// it does not look at its context. A queue holds 100 messages, each for 60 seconds.
type MemoryLayer struct {
	Layer
	memory *memory.Layer // the same
}

// NewMemoryLayer returns a layer for the hubs that are given it.
func NewMemoryLayer() *MemoryLayer {
	l := memory.New()
	return &MemoryLayer{Layer: l, memory: l}
}

// Positions implements [layer.Positioner].
func (l *MemoryLayer) Positions(ctx context.Context, topics []string) ([]Position, error) {
	return l.memory.Positions(ctx, topics)
}
