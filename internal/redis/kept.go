package redis

import (
	"context"
	"time"
)

// leastLife is how long a history is kept whose own life is not known.
const leastLife = 5 * time.Minute

// Kept reports whether a topic has a history, and for how long what is published now has to be
// kept so that it ends no sooner than it does as it is. It changes nothing: History would begin
// an epoch.
func (l *Layer) Kept(ctx context.Context, topic string) (kept bool, life time.Duration, err error) {
	keys := l.historyKeys(topic)
	result, err := l.do(ctx, "look for the history of", topic, l.client.B().Exists().Key(keys[0]).Build())
	if err != nil {
		return false, 0, err
	}
	if n, err := result.AsInt64(); err != nil || n == 0 {
		return false, 0, err
	}
	if result, err = l.do(ctx, "look for the history of", topic, l.client.B().Pttl().Key(keys[1]).Build()); err != nil {
		return false, 0, err
	}
	remaining, err := result.AsInt64()
	return true, max(leastLife, time.Duration(remaining)*time.Millisecond), err
}
