package grouphub

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// A turnLog notes in which order groups have their turns. It says no position, so that their histories are read.
type turnLog struct{ turns chan string }

func (l turnLog) Positions(_ context.Context, topics []string) ([]Position, error) {
	for _, topic := range topics {
		l.turns <- topic
	}
	return nil, nil
}

func TestNoTurnIsLeftOutWhenAProcessHasStoodStill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := New(&Options{Policy: func(string) GroupPolicy { return GroupPolicy{History: 1} }})
		log := turnLog{make(chan string, 1000)}
		h.positioner = log
		for i := range 2 * upkeepSteps {
			defer h.releaseGroup(h.acquireGroup(fmt.Sprint(i)))
		}
		begun, ticks := time.Now(), make(chan time.Time)
		h.goroutines.Go(func() { h.takeTurns(begun, ticks) })
		synctest.Wait()
		tick := func(after time.Duration) (turns []string) {
			time.Sleep(after)
			ticks <- time.Now()
			synctest.Wait()
			for len(log.turns) > 0 {
				turns = append(turns, <-log.turns)
			}
			slices.Sort(turns)
			return turns
		}
		for _, c := range []struct {
			after time.Duration
			want  int
		}{{time.Second, 2}, {time.Second / 2, 0}, {time.Second / 2, 2}, {7 * time.Second, 14}, {11 * time.Second, 22}, {time.Hour, 40}, {time.Second, 2}} {
			turns := tick(c.after)
			if len(turns) != c.want {
				t.Errorf("%d groups had their turn after %v, want %d: %q", len(turns), c.after, c.want, turns)
			}
			if once := len(slices.Compact(turns)); once != len(turns) {
				t.Errorf("after %v only %d groups had %d turns", c.after, once, len(turns))
			}
		}
		h.Shutdown(context.Background())
	})
}

func TestGroupsHaveTheirTurnsWhereThereAreFewest(t *testing.T) {
	h := New(&Options{Policy: func(name string) GroupPolicy { return GroupPolicy{Presence: name != "none"} }})
	defer h.Shutdown(context.Background())
	var groups []*group
	for i := range 100 {
		groups = append(groups, h.acquireGroup(fmt.Sprint(i)))
	}
	none := h.acquireGroup("none")
	for _, g := range groups {
		if g.turn < 10 { // they leave
			h.releaseGroup(g)
		}
	}
	for i := range 50 { // others come
		h.acquireGroup(fmt.Sprint("new", i))
	}
	for step, groups := range h.turns {
		if _, ok := groups[none]; ok || len(groups) != 5 {
			t.Errorf("%d groups have their turn in step %d, want 5, and not the one that needs no upkeep", len(groups), step)
		}
	}
}
