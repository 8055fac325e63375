package grouphub_test

import (
	"errors"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/seed-29c60982/grouphub"
)

func kept(topic, payload string, keep grouphub.Keep) grouphub.Publication {
	return grouphub.Publication{Topic: topic, Payload: []byte(payload), Keep: keep}
}

// payloadsOf returns what is kept of a topic.
func payloadsOf(t *testing.T, l grouphub.Layer, topic string) (payloads []string) {
	t.Helper()
	h, err := l.History(t.Context(), topic, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range h.Kept {
		payloads = append(payloads, string(p.Payload))
	}
	return payloads
}

func TestRedisThatRefusesToPublishKeepsNothing(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	listener := attachRedis(t, redisLayer(t, s.url(), nil), "topic")
	s.cli("ACL", "SETUSER", "user", "on", ">pass", "~*", "+@all", "-publish", "&*")
	l := redisLayer(t, "redis://user:pass@127.0.0.1:"+s.port, nil)
	keep := grouphub.Keep{Count: 5, Life: time.Minute, Once: "key"}
	for range 2 { // on the first there is no count yet
		if err := l.Publish(t.Context(), kept("topic", "refused", keep)); !errors.Is(err, grouphub.ErrUnavailable) {
			t.Errorf("%v, want ErrUnavailable", err)
		}
		if got := payloadsOf(t, l, "topic"); len(got) > 0 {
			t.Errorf("kept %q", got)
		}
	}
	s.cli("ACL", "SETUSER", "user", "+publish")
	for range 2 {
		if err := l.Publish(t.Context(), kept("topic", "at last", keep)); err != nil {
			t.Fatal(err)
		}
	}
	s.cli("ACL", "SETUSER", "user", "-publish")
	if l.Publish(t.Context(), kept("topic", "refused", grouphub.Keep{Count: 5, Life: time.Minute})) == nil {
		t.Error("was not refused")
	}
	s.cli("ACL", "SETUSER", "user", "+publish")
	if err := l.Publish(t.Context(), kept("topic", "next", grouphub.Keep{Count: 5, Life: time.Minute})); err != nil {
		t.Fatal(err)
	}
	listener.untilReceived("next")
	want := []string{"at last", "next"}
	if got, _ := listener.state(); !slices.Equal(got, want) {
		t.Errorf("received %q, want %q", got, want)
	}
	h, err := l.History(t.Context(), "topic", 0)
	if got := payloadsOf(t, l, "topic"); !slices.Equal(got, want) || err != nil || h.Last != 2 || h.Kept[1].At.Number != 2 {
		t.Errorf("kept %q, last %d, %v, want %q", got, h.Last, err, want)
	}
}

func TestRedisThatRefusesToWakeTakersQueuesAllTheSame(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	s.cli("ACL", "SETUSER", "user", "on", ">pass", "~*", "+@all", "resetchannels")
	l := redisLayer(t, "redis://user:pass@127.0.0.1:"+s.port, nil)
	if err := l.Append(t.Context(), "queue", []byte("x")); err != nil {
		t.Error(err)
	}
	mustTake(t, l, "queue", "x")
}

func TestRedisKeepsForeverWhatHasNoEnd(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	l := redisLayer(t, s.url(), &grouphub.RedisOptions{QueueExpiry: math.MaxInt64})
	if err := l.Publish(t.Context(), kept("topic", "x", grouphub.Keep{Count: 5, Life: math.MaxInt64})); err != nil {
		t.Error(err)
	}
	if got := payloadsOf(t, l, "topic"); len(got) != 1 {
		t.Errorf("kept %q", got)
	}
	if err := l.Append(t.Context(), "queue", []byte("x")); err != nil {
		t.Error(err)
	}
	mustTake(t, l, "queue", "x")
}

func TestRedisThatRefusesToWriteCanBeRead(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	l := redisLayer(t, s.url(), nil)
	if err := l.Publish(t.Context(), kept("topic", "x", grouphub.Keep{Count: 5, Life: time.Minute})); err != nil {
		t.Fatal(err)
	}
	lease := func(holder string, life time.Duration) {
		if _, err := l.Lease(t.Context(), "topic", holder, []byte("x"), life); err != nil {
			t.Fatal(err)
		}
	}
	lease("stays", time.Hour)
	lease("ends", 50*time.Millisecond)
	s.cli("PEXPIRE", "grouphub:count:{topic}", "60000") // it is to be prolonged
	s.cli("CONFIG", "SET", "min-replicas-to-write", "1")
	if _, err := l.Lease(t.Context(), "topic", "new", []byte("x"), time.Minute); !errors.Is(err, grouphub.ErrUnavailable) {
		t.Errorf("%v, want a refusal", err)
	}
	await(t, "the lease to end", func() bool {
		leases, err := l.Leases(t.Context(), "topic")
		if err != nil {
			t.Fatal(err)
		}
		return len(leases) == 1 && string(leases["stays"]) == "x"
	})
	if got := payloadsOf(t, l, "topic"); !slices.Equal(got, []string{"x"}) {
		t.Errorf("kept %q", got)
	}
}
