package grouphub_test

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
	"github.com/seed-29c60982/grouphub/internal/redistest"
)

func TestGarbageThroughRedisIsCountedAndLoggedOnce(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	var logged safeBuffer
	layer := redisLayer(t, s.URL(), nil)
	hub := newHub(t, &grouphub.Options{Layer: layer, Consumer: noteConsumer, Logger: slog.New(slog.NewTextHandler(&logged, nil))})
	c := hubtest.Dial(t, hub, "/")
	const channel = "grouphub:topic:{g:all}"
	tap := s.Tap(channel)
	send(t, hub, "all", "note", "as it should be")
	c.ExpectEvent("note")
	whole := <-tap
	for _, c := range []struct {
		name    string
		payload []string
		hub     bool // whose business it is; otherwise the layer's
	}{
		{"nothing", []string{""}, false},
		{"garbage", []string{"garbage", "{}", strings.Repeat("\xff", 10_000)}, false},
		{"sealed under an unknown key", []string{"\x02" + strings.Repeat("x", 100)}, false},
		{"a newer layer's", []string{"\x09" + whole[1:]}, false},
		{"a newer hub's", []string{whole[:1] + "\x09" + whole[2:], whole[:1] + "\x09"}, true},
		{"of an unknown kind", []string{whole[:2] + "\x63" + whole[3:]}, true},
		{"cut short", []string{whole[:1], whole[:2], whole[:3], whole[:len(whole)/2], whole[:len(whole)-1]}, true},
	} {
		dropped, discarded := hub.Stats().Dropped, grouphub.RedisDiscarded(layer)
		for _, payload := range c.payload {
			s.Publish(channel, payload)
			<-tap // which must not get full
		}
		n := uint64(len(c.payload))
		if dropped += n; !c.hub {
			discarded += n
		}
		eventually(t, func() bool {
			return hub.Stats().Dropped == dropped && grouphub.RedisDiscarded(layer) == discarded
		}, "what is %s is not counted", c.name)
	}
	s.Publish(channel, whole)
	c.Expect(`{"type":"note","group":"all","data":"as it should be"}`)
	if n := hub.Stats(); n.Resyncs > 0 || !n.LayerUp || n.Conns != 1 {
		t.Errorf("%+v after garbage, want nothing but drops", n)
	}
	for _, fault := range []string{"truncated", "version 9", "kind 99"} {
		eventually(t, func() bool { return strings.Count(logged.String(), fault) == 1 }, "%s is not logged once", fault)
	}
}

func TestGarbageThatRedisKeepsHidesNothing(t *testing.T) {
	redistest.OnBoth(t, func(t *testing.T, url string) {
		stranger := redisLayer(t, url, nil) // speaks as a layer does, and makes no sense
		hub := newHub(t, &grouphub.Options{Layer: redisLayer(t, url, nil), Consumer: noteConsumer, Logger: quiet(),
			Policy: func(string) grouphub.GroupPolicy { return grouphub.GroupPolicy{History: 10, Presence: true} }})
		c := hubtest.Dial(t, hub, "/")
		garbage := []string{"", "garbage", "\x09newer", "{}"}
		for _, payload := range garbage {
			p := grouphub.Publication{Topic: "g:all", Payload: []byte(payload), Keep: grouphub.Keep{Count: 10, Life: time.Minute}}
			if err := errors.Join(
				stranger.Publish(background, p),
				stranger.Append(background, "jobs", []byte(payload)),
				second(stranger.Lease(background, "g:all", "stranger "+payload, grouphub.LeaseChange{Version: 1, Life: time.Minute, Set: map[string][]byte{"1": []byte("<" + payload)}})),
			); err != nil {
				t.Fatal(err)
			}
		}
		send(t, hub, "all", "note", 1)
		c.ExpectEvent("note")
		if err := hub.Send(background, "jobs", "job", 1); err != nil {
			t.Error(err)
		}
		if job, err := hub.Receive(background, "jobs"); err != nil || job.Type != "job" {
			t.Errorf("Receive: %+v, %v", job, err)
		}
		if members, err := hub.Members(background, "all"); err != nil || len(members) != 1 {
			t.Errorf("Members: %+v, %v", members, err)
		}
		if n, want := hub.Stats(), uint64(3*len(garbage)); n.Dropped != want || n.Resyncs != 0 {
			t.Errorf("%+v, want %d dropped and nothing else", n, want)
		}
	})
}
