package redis

import (
	"fmt"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"

	"github.com/seed-29c60982/grouphub/internal/redistest"
	"github.com/seed-29c60982/grouphub/layer"
)

func positions(t *testing.T, l *Layer, topics ...string) []layer.Position {
	t.Helper()
	got, err := l.Positions(t.Context(), topics)
	if err != nil || len(got) != len(topics) {
		t.Fatalf("%d positions of %d topics, %v", len(got), len(topics), err)
	}
	return got
}

func TestPositionsOfManyTopicsAreOneCommand(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	l := newTestLayer(t, s.URL(), Options{})
	var topics []string
	for i := range 1000 {
		topics = append(topics, fmt.Sprint(i))
	}
	keep(t, l, "7", "x")
	monitor := s.Monitor()
	if got := positions(t, l, topics...); got[7].Number != 1 || got[8] != (layer.Position{}) {
		t.Errorf("%+v", got[:10])
	}
	if commands := monitor.Commands("{"); len(commands) != 1 || commands[0] != "MGET" {
		t.Errorf("commands %q", commands)
	}
}

// What makes no sense as a count is left to History, which begins anew.
func TestGarbageForACountIsNoPosition(t *testing.T) {
	redistest.OnBoth(t, func(t *testing.T, url string) {
		l := newTestLayer(t, url, Options{})
		keep(t, l, "good", "x")
		topics := []string{"none", "list", "good"}
		do := func(command ...string) {
			if err := l.client.Do(t.Context(), l.client.B().Arbitrary(command[0]).Keys(command[1]).Args(command[2:]...).Build()).Error(); err != nil {
				t.Fatal(err)
			}
		}
		do("RPUSH", l.key("count", "list"), "x")
		for i, count := range []string{"", "garbage", "epoch x", "epoch -1 0 nonce ", "épo 1 0 nonce ", "epoch 99999999999999999999 0 nonce "} {
			topics = append(topics, fmt.Sprint(i))
			do("SET", l.key("count", topics[len(topics)-1]), count)
		}
		for i, at := range positions(t, l, topics...) {
			if want := topics[i] == "good"; (at.Number == 1 && at.Epoch != "" && at.Nonce != "") != want || !want && at != (layer.Position{}) {
				t.Errorf("%s is at %+v", topics[i], at)
			}
		}
	})
}

func TestPositionsProlongNoEpoch(t *testing.T) {
	m := miniredis.RunT(t)
	l := newTestLayer(t, "redis://"+m.Addr(), Options{})
	history(t, l, "unused", 0)
	if at := positions(t, l, "unused", "absent"); at[0].Nonce == "" || at[1] != (layer.Position{}) {
		t.Errorf("%+v", at)
	}
	m.FastForward(unusedLife - time.Minute)
	positions(t, l, "unused", "absent")
	if left := m.TTL(l.key("count", "unused")); left != time.Minute || len(m.Keys()) != 1 {
		t.Errorf("the epoch ends in %v, want a minute, and %q is kept", left, m.Keys())
	}
	m.FastForward(time.Minute)
	if at := positions(t, l, "unused"); at[0] != (layer.Position{}) {
		t.Errorf("%+v is left", at)
	}
}

func TestPositionsAreAnErrorWithoutAServer(t *testing.T) {
	m := miniredis.RunT(t)
	for name, topics := range map[string][]string{"one": {"a"}, "three": {"a", "b", "c"}} {
		l := newTestLayer(t, "redis://"+m.Addr(), Options{})
		m.SetError("LOADING")
		if got, err := l.Positions(t.Context(), topics); err == nil {
			t.Errorf("%s: %+v, and no error", name, got)
		}
		m.SetError("")
	}
}
