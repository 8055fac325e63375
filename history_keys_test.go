package grouphub_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
	"github.com/seed-29c60982/grouphub/internal/redistest"
)

func TestIdleGroupLeavesNothingInRedis(t *testing.T) {
	t.Parallel()
	m := miniredis.RunT(t)
	hub := newHub(t, &grouphub.Options{Layer: redisLayer(t, "redis://"+m.Addr(), nil), Logger: quiet(),
		Consumer: grouphub.Consumer{Connect: joinAll, Events: grouphub.Events{"n": grouphub.Forward()}},
		Policy: func(string) grouphub.GroupPolicy {
			return grouphub.GroupPolicy{History: 10, HistoryTTL: time.Minute, Presence: true}
		}})
	c := hubtest.Dial(t, hub, "/")
	for i := range 1000 {
		send(t, hub, "all", "n", i, grouphub.Once(fmt.Sprint(i)))
	}
	for range 1000 {
		c.ExpectEvent("n")
	}
	eventually(t, func() bool { return m.Exists("grouphub:present:{g:all}") }, "no lease")
	if err := hub.GroupClose(background, "nobody", 1000, ""); err != nil {
		t.Fatal(err)
	}
	if entries, err := m.Stream("grouphub:stream:{g:all}"); err != nil || len(entries) > 110 {
		t.Errorf("%d events are kept, %v, want 10", len(entries), err)
	}
	for _, key := range m.Keys() {
		if m.TTL(key) <= 0 {
			t.Errorf("%s does not expire", key)
		}
	}
	c.Close()
	eventually(t, func() bool { return !m.Exists("grouphub:present:{g:all}") }, "the lease is still there")
	if groups := hub.Stats().Groups; groups != 0 {
		t.Errorf("%d groups", groups)
	}
	m.FastForward(time.Minute)
	if m.Exists("grouphub:stream:{g:all}") {
		t.Error("the history is still there")
	}
	m.FastForward(25 * time.Hour)
	if keys := m.Keys(); len(keys) != 0 {
		t.Errorf("%q are left", keys)
	}
}

func TestEveryKeyInRedisExpires(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	proxy := redistest.StartProxy(t, s.URL())
	options := func(layer grouphub.Layer) *grouphub.Options {
		return &grouphub.Options{Layer: layer, Logger: quiet(), Consumer: noteConsumer,
			Policy: func(string) grouphub.GroupPolicy {
				return grouphub.GroupPolicy{History: 10, HistoryTTL: time.Second, Presence: true}
			}}
	}
	hub, taker := newHub(t, options(redisLayer(t, s.URL(), nil))), newHub(t, options(layerBehind(t, proxy)))
	client := s.Client()
	// keys returns the kinds of the keys that there are, each of which expires.
	keys := func() map[string]bool {
		t.Helper()
		names, err := client.Do(t.Context(), client.B().Keys().Pattern("*").Build()).AsStrSlice()
		if err != nil {
			t.Fatal(err)
		}
		kinds := make(map[string]bool)
		for _, name := range names {
			kinds[strings.Split(name, ":")[1]] = true
			left, err := client.Do(t.Context(), client.B().Ttl().Key(name).Build()).AsInt64()
			if err != nil || left == -1 || left > 25*60*60 { // -2: it has just expired
				t.Errorf("%s expires in %d s, %v", name, left, err)
			}
		}
		return kinds
	}
	c := hubtest.Dial(t, hub, "/")
	for i := range 20 {
		send(t, hub, "all", "note", i, grouphub.Once(fmt.Sprint(i)))
		c.ExpectEvent("note")
	}
	if err := errors.Join(hub.GroupClose(background, "nobody", 1000, ""), hub.Send(background, "stranger!1", "n", 1)); err != nil {
		t.Fatal(err)
	}
	// One message waits, and another was taken by a process that never knew.
	if err := hub.Send(background, "others", "n", 1); err != nil {
		t.Fatal(err)
	}
	if err := second(hub.Receive(background, "others")); err != nil { // and the server knows the script
		t.Fatal(err)
	}
	if err := errors.Join(hub.Send(background, "others", "n", 1), hub.Send(background, "jobs", "n", 1)); err != nil {
		t.Fatal(err)
	}
	proxy.LoseReply("grouphub:taken:{jobs}")
	receiving, stop := context.WithCancel(background)
	var waiting sync.WaitGroup
	defer waiting.Wait()
	defer stop()
	waiting.Go(func() { taker.Receive(receiving, "jobs") })
	all := []string{"count", "stream", "once", "present", "messages", "waiting", "taken"}
	eventually(t, func() bool {
		kinds := keys()
		return !slices.ContainsFunc(all, func(kind string) bool { return !kinds[kind] })
	}, "not all kinds of keys are there, but %v", keys())
	c.Close()
	eventually(t, func() bool { return s.CLI("EXISTS", "grouphub:present:{g:all}") == "0" }, "the lease is still there")
	eventually(t, func() bool { return s.CLI("EXISTS", "grouphub:stream:{g:all}") == "0" }, "the history is still there")
	if groups := hub.Stats().Groups; groups != 0 {
		t.Errorf("%d groups", groups)
	}
}
