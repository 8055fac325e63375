package layertest

import (
	"context"
	"testing"
	"testing/synctest"

	"github.com/seed-29c60982/grouphub/internal/memory"
	"github.com/seed-29c60982/grouphub/layer"
)

var positionerFaults = []fault{
	{"positions come in another order", "PositionsAreThoseOfTheHistories", func(l *faultyLayer) {
		l.say(func(positions []layer.Position) { positions[0], positions[1] = positions[1], positions[0] })
	}},
	{"a topic that comes again has no position", "PositionsAreThoseOfTheHistories", func(l *faultyLayer) {
		l.say(func(positions []layer.Position) { positions[len(positions)-1] = layer.Position{} })
	}},
	{"what is returned is the layer's", "PositionsAreThoseOfTheHistories", func(l *faultyLayer) {
		var shared []layer.Position
		l.positionsOf = func(ctx context.Context, topics []string) (_ []layer.Position, err error) {
			if len(shared) != len(topics) {
				shared, err = l.inside.Positions(ctx, topics)
			}
			return shared, err
		}
	}},
	{"to ask begins an epoch", "PositionsBeginNoEpoch", func(l *faultyLayer) {
		l.positionsOf = func(ctx context.Context, topics []string) ([]layer.Position, error) {
			for _, topic := range topics {
				l.inside.History(ctx, topic, 0)
			}
			return l.inside.Positions(ctx, topics)
		}
	}},
	{"positions are from before the last publication", "PositionsAreOfOneMomentWhileOthersPublish", func(l *faultyLayer) {
		l.say(func(positions []layer.Position) {
			positions[1] = layer.Position{Epoch: positions[1].Epoch, Number: positions[1].Number - 1}
		})
	}},
	{"number and nonce are of two moments", "PositionsAreOfOneMomentWhileOthersPublish", func(l *faultyLayer) {
		l.say(func(positions []layer.Position) {
			if positions[1].Number%10 == 9 {
				positions[1].Nonce = "another"
			}
		})
	}},
	{"Positions does not know that the layer is closed", "AfterCloseEverythingIsErrClosed", func(l *faultyLayer) {
		l.positionsOf = func(context.Context, []string) ([]layer.Position, error) { return nil, nil }
	}},
}

// say changes what Positions returns.
func (l *faultyLayer) say(change func(positions []layer.Position)) {
	inside := l.positionsOf
	l.positionsOf = func(ctx context.Context, topics []string) ([]layer.Position, error) {
		positions, err := inside(ctx, topics)
		if len(positions) > 1 {
			change(positions)
		}
		return positions, err
	}
}

func TestALayerThatIsNoPositionerPasses(t *testing.T) {
	for _, c := range append(positionerCases, lifeCases...) {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				runCase(t, c, func() pair {
					l := struct{ layer.Layer }{memory.New()}
					return pair{a: l, b: l}
				})
			})
		})
	}
}
