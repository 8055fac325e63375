package redis

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/seed-29c60982/grouphub/layer"
)

// Positions implements [layer.Positioner]. In a Cluster each topic has a slot of its own, and one
// that a node does not tell in time is left out.
func (l *Layer) Positions(ctx context.Context, topics []string) ([]layer.Position, error) {
	positions := make([]layer.Position, len(topics))
	switch {
	case len(topics) == 0:
		return positions, nil
	case l.cluster:
		return positions, l.positionsBySlot(ctx, topics, positions)
	}
	keys := make([]string, len(topics))
	for i, topic := range topics {
		keys[i] = l.key("count", topic)
	}
	result, err := l.do(ctx, "positions beginning with that of", topics[0], l.client.B().Mget().Key(keys...).Build())
	if err != nil {
		return nil, err
	}
	counts, err := result.ToArray()
	if err == nil && len(counts) != len(topics) {
		err = fmt.Errorf("%d counts for %d topics", len(counts), len(topics))
	}
	if err != nil {
		return nil, fmt.Errorf("%w: positions beginning with that of %q: %w", layer.ErrUnavailable, topics[0], err)
	}
	for i := range counts {
		if count, err := counts[i].ToString(); err == nil { // else there is none, or it is none of ours
			positions[i] = positionOf(count)
		}
	}
	return positions, nil
}

// positionsBySlot sets the position of each topic that can be learned. It returns an error if none can.
func (l *Layer) positionsBySlot(ctx context.Context, topics []string, positions []layer.Position) error {
	errs := make([]error, len(topics))
	var asking sync.WaitGroup
	for i, topic := range topics {
		asking.Go(func() {
			result, err := l.do(ctx, "position of", topic, l.client.B().Get().Key(l.key("count", topic)).Build())
			if errs[i] = err; err != nil {
				return
			}
			if count, err := result.ToString(); err == nil {
				positions[i] = positionOf(count)
			}
		})
	}
	asking.Wait()
	if slices.Contains(errs, nil) {
		return nil
	}
	return errs[0]
}

// positionOf returns the position that a count says, zero if it makes no sense.
func positionOf(count string) layer.Position {
	h, _ := cutCount(count)
	return layer.Position{Epoch: h.Epoch, Number: h.Last, Nonce: h.Nonce}
}
