package layertest

import (
	"bytes"
	"context"
	"testing"
	"testing/synctest"

	"github.com/seed-29c60982/grouphub/internal/memory"
	"github.com/seed-29c60982/grouphub/layer"
)

// A faultyLayer is the memory layer with one fault.
type faultyLayer struct {
	layer.Layer
	publish func(ctx context.Context, p layer.Publication) error // nil: the memory layer's
	history func(ctx context.Context, topic string, after uint64) (layer.History, error)
}

func (l *faultyLayer) Publish(ctx context.Context, p layer.Publication) error {
	if l.publish != nil {
		return l.publish(ctx, p)
	}
	return l.Layer.Publish(ctx, p)
}

func (l *faultyLayer) History(ctx context.Context, topic string, after uint64) (layer.History, error) {
	if l.history != nil {
		return l.history(ctx, topic, after)
	}
	return l.Layer.History(ctx, topic, after)
}

func TestEveryPlantedFaultIsFound(t *testing.T) {
	for _, fault := range []struct {
		name   string
		plant  func(l *faultyLayer)
		caught string // the case that has to find it
	}{
		{"every other publication is dropped", func(l *faultyLayer) {
			n := 0
			l.publish = func(ctx context.Context, p layer.Publication) error {
				if n++; n%2 == 0 {
					return nil
				}
				return l.Layer.Publish(ctx, p)
			}
		}, "OneSendersOrderHolds"},
		{"payloads are cut at a zero byte", func(l *faultyLayer) {
			l.publish = func(ctx context.Context, p layer.Publication) error {
				p.Payload, _, _ = bytes.Cut(p.Payload, []byte{0})
				return l.Layer.Publish(ctx, p)
			}
		}, "PayloadsAreOpaqueAndTheSlicesBelongToTheirOwners"},
		{"the history includes the number it should begin after", func(l *faultyLayer) {
			l.history = func(ctx context.Context, topic string, after uint64) (layer.History, error) {
				return l.Layer.History(ctx, topic, max(after, 1)-1)
			}
		}, "HistoryBeginsAfterANumber"},
	} {
		t.Run(fault.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				for _, c := range cases() {
					if c.name != fault.caught {
						continue
					}
					l := &faultyLayer{Layer: memory.New()}
					fault.plant(l)
					failures := record(t, func(t testing.TB) { runCase(t, c, l, l) })
					if len(failures) == 0 {
						t.Errorf("%s passed", c.name)
					}
				}
			})
		})
	}
}
