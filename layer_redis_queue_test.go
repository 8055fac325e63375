package grouphub_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/seed-29c60982/grouphub"
)

func mustTake(t *testing.T, l grouphub.Layer, queue, want string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if message, err := l.Take(ctx, queue); err != nil || string(message) != want {
		t.Errorf("took %q, %v, want %q", message, err, want)
	}
}

func TestRedisCloseHandsNothingOutTwice(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	sender := redisLayer(t, s.url(), nil)
	for i := range 20 {
		queue := fmt.Sprint("queue", i)
		if err := sender.Append(t.Context(), queue, []byte("x")); err != nil {
			t.Fatal(err)
		}
		l, err := grouphub.NewRedisLayer(s.url(), nil)
		if err != nil {
			t.Fatal(err)
		}
		mustTake(t, l, queue, "x")
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if left := s.cli("ZCARD", "grouphub:taken:{"+queue+"}"); left != "0" {
			t.Fatalf("%s messages will be handed out again", left)
		}
	}
}

func TestRedisQueueSkipsWhatIsNoMessage(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	l := redisLayer(t, s.url(), nil)
	for i, garbage := range []string{"garbage", "", "12", ":x"} {
		queue := fmt.Sprint("queue", i)
		s.cli("HSET", "grouphub:messages:{"+queue+"}", "id", garbage)
		s.cli("RPUSH", "grouphub:waiting:{"+queue+"}", "id")
		if err := l.Append(t.Context(), queue, []byte("x")); err != nil {
			t.Errorf("behind %q: %v", garbage, err)
			continue
		}
		mustTake(t, l, queue, "x")
	}
}
