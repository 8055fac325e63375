package layertest

import (
	"bytes"
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/seed-29c60982/grouphub/layer"
)

var queueFaults = []fault{
	{"messages come newest first", "QueueKeepsItsOrder", func(l *faultyLayer) {
		stacks := make(map[string][][]byte)
		l.appendTo = func(_ context.Context, queue string, message []byte) error {
			stacks[queue] = append(stacks[queue], bytes.Clone(message))
			return nil
		}
		l.take = func(_ context.Context, queue string) ([]byte, error) {
			last := len(stacks[queue]) - 1
			message := stacks[queue][last]
			stacks[queue] = stacks[queue][:last]
			return message, nil
		}
	}},
	{"a message is taken twice", "QueueGivesEachMessageToOneTaker", func(l *faultyLayer) {
		l.take = func(ctx context.Context, queue string) ([]byte, error) {
			message, err := l.inside.Take(ctx, queue)
			if string(message) == "17" {
				l.inside.Append(ctx, queue, message)
			}
			return message, err
		}
	}},
	{"a taker that waits is not woken", "QueueWakesATakerThatWaits", func(l *faultyLayer) {
		l.take = func(ctx context.Context, queue string) ([]byte, error) {
			return l.inside.Take(ctx, "nobody's "+queue)
		}
	}},
	{"a taker that waits polls every second", "QueueWakesATakerAtOnce", func(l *faultyLayer) {
		l.take = func(ctx context.Context, queue string) ([]byte, error) {
			message, err := l.inside.Take(ctx, queue)
			if err == nil {
				time.Sleep(time.Until(time.Now().Truncate(time.Second).Add(time.Second)))
			}
			return message, err
		}
	}},
	{"a queue has no capacity", "QueueIsFullAtItsCapacity", func(l *faultyLayer) {
		l.appendTo = func(ctx context.Context, queue string, message []byte) error {
			if err := l.inside.Append(ctx, queue, message); !errors.Is(err, layer.ErrQueueFull) {
				return err
			}
			return nil
		}
	}},
	{"many that append at once exceed the capacity", "QueueHoldsNoMoreWhenManyAppend", func(l *faultyLayer) {
		const capacity = 10 // less than the memory layer's
		var length atomic.Int64
		l.appendTo = func(ctx context.Context, queue string, message []byte) error {
			if length.Load() >= capacity {
				return layer.ErrQueueFull
			}
			time.Sleep(time.Microsecond) // between looking and adding
			length.Add(1)
			return l.inside.Append(ctx, queue, message)
		}
		l.take = func(ctx context.Context, queue string) ([]byte, error) {
			message, err := l.inside.Take(ctx, queue)
			length.Add(-1)
			return message, err
		}
	}},
	{"a taker that leaves takes a message with it", "QueueLosesNothingWhenATakerLeaves", func(l *faultyLayer) {
		l.take = func(ctx context.Context, queue string) ([]byte, error) {
			message, err := l.inside.Take(ctx, queue)
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			return message, err
		}
	}},
	{"the sender's message is kept", "QueueMessagesBelongToTheirOwners", func(l *faultyLayer) {
		var kept [][]byte
		l.appendTo = func(_ context.Context, _ string, message []byte) error {
			kept = append(kept, message)
			return nil
		}
		l.take = func(context.Context, string) ([]byte, error) {
			message := kept[0]
			kept = kept[1:]
			return message, nil
		}
	}},
}
