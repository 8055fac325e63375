package main

import (
	"context"
	"sync"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/internal/redis"
)

// historyCount is how many events a history keeps at least in which this command publishes.
// The application's own next event cuts it to what its Policy says.
const historyCount = 10_000

// policies are what Redis shows of groups in place of the application's Policy, which the
// command does not know.
type policies struct {
	layer *redis.Layer

	mu    sync.Mutex
	known map[string]grouphub.GroupPolicy
}

// find finds out whether a group's events are numbered and kept. It is called before the hub
// sends to the group or joins it.
func (p *policies) find(ctx context.Context, group string) error {
	kept, life, err := p.layer.Kept(ctx, "g:"+group)
	if err != nil || !kept {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.known[group] = grouphub.GroupPolicy{History: historyCount, HistoryTTL: life, Presence: true}
	return nil
}

// of is the hub's Policy. Every group may have presence.
func (p *policies) of(group string) grouphub.GroupPolicy {
	p.mu.Lock()
	defer p.mu.Unlock()
	if policy, ok := p.known[group]; ok {
		return policy
	}
	return grouphub.GroupPolicy{Presence: true}
}
