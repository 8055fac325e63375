package redis

import (
	"testing"
	"time"

	"github.com/seed-29c60982/grouphub/internal/redistest"
	"github.com/seed-29c60982/grouphub/layer"
)

func TestKeptFindsAHistoryAndBeginsNone(t *testing.T) {
	redistest.OnBoth(t, func(t *testing.T, url string) {
		l := newTestLayer(t, url, Options{})
		for range 2 {
			if kept, _, err := l.Kept(t.Context(), "topic"); kept || err != nil {
				t.Errorf("%t, %v before anything was kept", kept, err)
			}
		}
		if err := l.Publish(t.Context(), kept("topic", "x", layer.Keep{Count: 5, Life: time.Hour})); err != nil {
			t.Fatal(err)
		}
		if kept, life, err := l.Kept(t.Context(), "topic"); !kept || life < 59*time.Minute || life > time.Hour || err != nil {
			t.Errorf("%t, %v, %v, want an hour", kept, life, err)
		}
		if _, err := l.History(t.Context(), "read", 0); err != nil {
			t.Fatal(err)
		}
		if kept, life, err := l.Kept(t.Context(), "read"); !kept || life != leastLife || err != nil {
			t.Errorf("%t, %v, %v of a history that is empty", kept, life, err)
		}
	})
}
