package layertest

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/seed-29c60982/grouphub/layer"
)

var historyFaults = []fault{
	{"the history includes the number it should begin after", "HistoryBeginsAfterANumber", func(l *faultyLayer) {
		l.history = func(ctx context.Context, topic string, after uint64) (layer.History, error) {
			return l.inside.History(ctx, topic, max(after, 1)-1)
		}
	}},
	{"what is not kept is numbered, too", "KeptAndOthersOfOneSenderKeepTheirOrder", func(l *faultyLayer) {
		l.publish = func(ctx context.Context, p layer.Publication) error {
			p.Keep.Count, p.Keep.Life = max(p.Keep.Count, 1), max(p.Keep.Life, time.Minute)
			return l.inside.Publish(ctx, p)
		}
	}},
	{"a publication has another position in the history", "KeptPublicationsAreNumberedInTheirOrder", func(l *faultyLayer) {
		l.deliver(func(deliver func(layer.Publication), p layer.Publication) {
			if p.At.Number%7 == 0 {
				p.At.Number++
			}
			deliver(p)
		})
	}},
	{"fewer are kept than Count", "HistoryKeepsAsManyAsItWasTold", func(l *faultyLayer) {
		// It trims only now and then, but then to half of what it should keep.
		l.publish = func(ctx context.Context, p layer.Publication) error {
			return l.inside.Publish(ctx, p)
		}
		l.history = func(ctx context.Context, topic string, after uint64) (layer.History, error) {
			h, err := l.inside.History(ctx, topic, after)
			if n := int(h.Last % 8); len(h.Kept) > 5+n {
				h.Kept = h.Kept[len(h.Kept)-5-n:]
			}
			return h, err
		}
	}},
	{"Count is no limit", "HistoryKeepsAsManyAsItWasTold", func(l *faultyLayer) {
		l.publish = func(ctx context.Context, p layer.Publication) error {
			if p.Keep.Count > 0 {
				p.Keep.Count = 10_000
			}
			return l.inside.Publish(ctx, p)
		}
	}},
	{"Bytes is ignored", "HistoryIsBoundedInBytes", func(l *faultyLayer) {
		l.publish = func(ctx context.Context, p layer.Publication) error {
			p.Keep.Bytes = 0
			return l.inside.Publish(ctx, p)
		}
	}},
	{"Bytes is a limit of one publication", "HistoryIsBoundedInBytes", func(l *faultyLayer) {
		l.publish = func(ctx context.Context, p layer.Publication) error {
			if len(p.Payload) <= p.Keep.Bytes {
				p.Keep.Bytes = 0
			}
			return l.inside.Publish(ctx, p)
		}
	}},
	{"what is kept never ends", "HistoryEndsWithItsLifeAndTheNumbersGoOn", func(l *faultyLayer) {
		l.publish = func(ctx context.Context, p layer.Publication) error {
			p.Keep.Life = time.Hour
			return l.inside.Publish(ctx, p)
		}
	}},
	{"the count ends with what is kept", "HistoryEndsWithItsLifeAndTheNumbersGoOn", func(l *faultyLayer) {
		l.history = func(ctx context.Context, topic string, after uint64) (layer.History, error) {
			h, err := l.inside.History(ctx, topic, after)
			if len(h.Kept) == 0 {
				h = layer.History{}
			}
			for i := range h.Kept {
				h.Kept[i].At.Number -= h.Kept[0].At.Number - 1
			}
			h.Last = uint64(len(h.Kept))
			return h, err
		}
	}},
	{"Last is ahead of what is kept", "HistoryIsOneViewWhileOthersPublish", func(l *faultyLayer) {
		l.history = func(ctx context.Context, topic string, after uint64) (layer.History, error) {
			before, _ := l.inside.History(ctx, topic, after)
			time.Sleep(time.Microsecond)
			h, err := l.inside.History(ctx, topic, after)
			h.Kept = before.Kept
			return h, err
		}
		l.publish = func(ctx context.Context, p layer.Publication) error {
			time.Sleep(time.Microsecond)
			return l.inside.Publish(ctx, p)
		}
	}},
	{"the history's slice is the layer's own", "HistoryBelongsToItsCaller", func(l *faultyLayer) {
		var shared layer.History
		l.history = func(ctx context.Context, topic string, after uint64) (h layer.History, err error) {
			if shared.Last == 0 {
				shared, err = l.inside.History(ctx, topic, after)
			}
			return shared, err
		}
	}},
	{"Once is ignored", "PublishTakesAKeyOnce", func(l *faultyLayer) {
		l.publish = func(ctx context.Context, p layer.Publication) error {
			p.Keep.Once = ""
			return l.inside.Publish(ctx, p)
		}
	}},
	{"a key is remembered for all topics", "PublishTakesAKeyOnce", func(l *faultyLayer) {
		var mu sync.Mutex
		sent := make(map[string]bool)
		l.publish = func(ctx context.Context, p layer.Publication) error {
			mu.Lock()
			defer mu.Unlock()
			if key := p.Keep.Once; key != "" && sent[key] {
				return nil
			}
			sent[p.Keep.Once] = true
			return l.inside.Publish(ctx, p)
		}
	}},
	{"a key is remembered for two seconds", "AKeyIsRememberedForMinutes", func(l *faultyLayer) {
		l.publish = func(ctx context.Context, p layer.Publication) error {
			if p.Keep.Once != "" {
				p.Keep.Once += time.Now().Truncate(2 * time.Second).String()
			}
			return l.inside.Publish(ctx, p)
		}
	}},
	{"nothing gets older", "HistoryTellsAges", func(l *faultyLayer) {
		l.history = func(ctx context.Context, topic string, after uint64) (layer.History, error) {
			h, err := l.inside.History(ctx, topic, after)
			for i := range h.Kept {
				h.Kept[i].Age = 0
			}
			return h, err
		}
	}},
	{"what comes at once is said to be old", "HistoryTellsAges", func(l *faultyLayer) {
		l.deliver(func(deliver func(layer.Publication), p layer.Publication) {
			if p.At.Number > 0 {
				p.Age = time.Minute
			}
			deliver(p)
		})
	}},
	{"the epoch is the same everywhere", "NoTwoStoresHaveAnEpochInCommon", func(l *faultyLayer) {
		l.positions(func(at *layer.Position) { at.Epoch = "epoch" })
	}},
	{"the nonce is the same for all", "PositionsFitIntoAnID", func(l *faultyLayer) {
		l.positions(func(at *layer.Position) { at.Nonce = "nonce" })
	}},
	{"an epoch has a full stop", "PositionsFitIntoAnID", func(l *faultyLayer) {
		l.positions(func(at *layer.Position) { at.Epoch = "1.2" })
	}},
	{"an epoch is too long for an id", "PositionsFitIntoAnID", func(l *faultyLayer) {
		l.positions(func(at *layer.Position) { at.Epoch = strings.Repeat("e", 250) })
	}},
}

// positions changes the position of all that is kept.
func (l *faultyLayer) positions(change func(at *layer.Position)) {
	l.deliver(func(deliver func(layer.Publication), p layer.Publication) {
		if p.At != (layer.Position{}) {
			change(&p.At)
		}
		deliver(p)
	})
	history := l.history
	l.history = func(ctx context.Context, topic string, after uint64) (layer.History, error) {
		h, err := history(ctx, topic, after)
		for i := range h.Kept {
			change(&h.Kept[i].At)
			h.Epoch = h.Kept[i].At.Epoch
		}
		return h, err
	}
}
