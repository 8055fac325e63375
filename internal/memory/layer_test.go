package memory

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-29c60982/grouphub/internal/leak"
	"github.com/seed-29c60982/grouphub/layer"
	"github.com/seed-29c60982/grouphub/layer/layertest"
)

// TestMain fails the suite if a goroutine outlives it.
func TestMain(m *testing.M) { leak.Check(m) }

func TestLayer(t *testing.T) {
	layertest.TestInBubbles(t, func(*testing.T) (a, b layer.Layer) {
		l := New()
		return l, l
	})
}

func TestLayerKeepsNothingOfWhatIsIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New()
		s := attach(t, l, "a", newWaitingReceiver())
		for i := range 100 {
			topic := fmt.Sprint("topic", i)
			if err := s.Add(t.Context(), topic); err != nil {
				t.Fatal(err)
			}
			if err := l.Publish(t.Context(), publication(topic, "x")); err != nil {
				t.Fatal(err)
			}
			s.Remove(topic)
			if err := l.Append(t.Context(), fmt.Sprint("expired", i), []byte("x")); err != nil {
				t.Fatal(err)
			}
			if err := l.Append(t.Context(), fmt.Sprint("taken", i), []byte("x")); err != nil {
				t.Fatal(err)
			}
			if _, err := l.Take(t.Context(), fmt.Sprint("taken", i)); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			if _, err := l.Take(ctx, fmt.Sprint("left", i)); !errors.Is(err, context.DeadlineExceeded) {
				t.Fatal(err)
			}
			cancel()
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if topics, queues := l.InUse(); topics != 1 || queues != 0 { // 1: the hub's own
			t.Errorf("%d topics and %d queues are left", topics, queues)
		}
	})
}
