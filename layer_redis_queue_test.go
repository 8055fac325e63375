package grouphub_test

import (
	"fmt"
	"testing"

	"github.com/seed-29c60982/grouphub"
)

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
		if _, err := l.Take(t.Context(), queue); err != nil {
			t.Error(err)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if left := s.cli("ZCARD", "grouphub:taken:{"+queue+"}"); left != "0" {
			t.Fatalf("%s messages will be handed out again", left)
		}
	}
}
