package layertest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/seed-29c60982/grouphub/layer"
)

// The cases of a layer that is a [layer.Positioner]. For others they are skipped.
var positionerCases = []testCase{
	{name: "PositionsAreThoseOfTheHistories", run: testPositionsOfMany},
	{name: "PositionsBeginNoEpoch", run: testPositionsOfNothing},
	{name: "PositionsAreOfOneMomentWhileOthersPublish", run: testPositionsView},
}

// positions returns where topics are, or skips the case.
func (f *fixture) positions(l layer.Layer, topics ...string) []layer.Position {
	f.t.Helper()
	p, ok := l.(layer.Positioner)
	if !ok {
		f.t.Skip("the layer is no Positioner")
	}
	positions, err := p.Positions(f.ctx, topics)
	if err != nil || len(positions) != len(topics) {
		f.t.Fatalf("Positions of %d topics: %d, %v", len(topics), len(positions), err)
	}
	return positions
}

// positionsOf calls Positions of a layer that has it.
func positionsOf(ctx context.Context, l layer.Layer, topics ...string) ([]layer.Position, error) {
	if p, ok := l.(layer.Positioner); ok {
		return p.Positions(ctx, topics)
	}
	return nil, nil
}

func testPositionsOfMany(t testing.TB, f *fixture) {
	f.positions(f.a)
	topics := slices.Clone(oddNames)
	for i := range 600 {
		topics = append(topics, fmt.Sprint("topic", i))
	}
	topics = append(topics, topics[:3]...)
	var want []layer.Position
	for i, topic := range topics {
		if i%3 > 0 {
			f.publishKept(f.a, topic, "x", layer.Keep{Count: 1, Life: plenty.Life})
		}
		if i%3 > 1 {
			f.publishKept(f.b, topic, "y", layer.Keep{Count: 1, Life: plenty.Life})
		}
	}
	for _, topic := range topics { // of some it begins the epoch
		h := f.history(f.b, topic, 0)
		want = append(want, layer.Position{Epoch: h.Epoch, Number: h.Last, Nonce: h.Nonce})
	}
	for _, l := range []layer.Layer{f.a, f.b} {
		got := f.positions(l, topics...)
		for i := range topics {
			if got[i] != want[i] {
				t.Fatalf("Positions of %d topics: %q is at %+v, want %+v", len(topics), topics[i], got[i], want[i])
			}
		}
		clear(got) // it is the caller's
	}
}

func testPositionsOfNothing(t testing.TB, f *fixture) {
	for range 2 {
		for i, at := range f.positions(f.a, "nothing", "topic") {
			if at != (layer.Position{}) {
				t.Errorf("topic %d, of which nothing was kept and nobody has asked for the history, is at %+v", i, at)
			}
		}
		f.publish(f.b, "topic", "not kept")
	}
	f.publishKept(f.b, "topic", "kept", plenty)
	if at := f.positions(f.a, "nothing", "topic"); at[0] != (layer.Position{}) || at[1].Number != 1 {
		t.Errorf("positions of a topic of which nothing was kept, and of one with one publication: %+v", at)
	}
}

func testPositionsView(t testing.TB, f *fixture) {
	f.positions(f.a)
	h := f.attach(f.b, "topic")
	var mu sync.Mutex
	published := 0
	var seen []layer.Position
	var wg sync.WaitGroup
	for _, l := range []layer.Layer{f.a, f.b} {
		wg.Go(func() {
			for range 100 {
				if err := l.Publish(f.ctx, layer.Publication{Topic: "topic", Payload: []byte("x"), Keep: plenty}); err != nil {
					t.Errorf("Publish: %v", err)
				}
				mu.Lock()
				published++
				least := published
				mu.Unlock()
				positions, err := l.(layer.Positioner).Positions(f.ctx, []string{"other", "topic"})
				if err != nil || len(positions) != 2 || positions[1].Number < uint64(least) {
					t.Errorf("Positions after %d publications: %+v, %v", least, positions, err)
					return
				}
				mu.Lock()
				seen = append(seen, positions[1])
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	h.await("topic", published)
	given := make(map[layer.Position]bool)
	for _, p := range h.publications("topic") {
		given[p.At] = true
	}
	for _, at := range seen {
		if !given[at] {
			t.Fatalf("Positions has said %+v, which no publication had", at)
		}
	}
}
