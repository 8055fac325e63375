package memory

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-29c60982/grouphub/layer"
)

func TestQueueExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New()
		ctx := context.Background()
		add := func(message string) error { return l.Append(ctx, "queue", []byte(message)) }
		if err := add("old"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(59 * time.Second)
		for i := range 99 {
			if err := add(fmt.Sprint(i)); err != nil {
				t.Fatal(err)
			}
		}
		if err := add("more"); !errors.Is(err, layer.ErrQueueFull) {
			t.Errorf("message 101: %v, want ErrQueueFull", err)
		}
		time.Sleep(time.Second)
		if err := add("more"); err != nil {
			t.Errorf("after the first expired: %v", err)
		}
		if message, err := l.Take(ctx, "queue"); err != nil || string(message) != "0" {
			t.Errorf("took %q, %v, want what has not expired", message, err)
		}
		time.Sleep(time.Minute)
		ended, cancel := context.WithTimeout(ctx, time.Hour)
		defer cancel()
		if message, err := l.Take(ended, "queue"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("took %q, %v, want nothing", message, err)
		}
	})
}

func TestQueueTakersAreServedInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New()
		took := make([]string, 3)
		var wg sync.WaitGroup
		for i := range took {
			wg.Go(func() {
				message, err := l.Take(context.Background(), "queue")
				if err != nil {
					t.Error(err)
				}
				took[i] = string(message)
			})
			synctest.Wait()
		}
		for i := range took {
			if err := l.Append(context.Background(), "queue", fmt.Append(nil, i)); err != nil {
				t.Error(err)
			}
		}
		wg.Wait()
		if fmt.Sprint(took) != "[0 1 2]" {
			t.Errorf("took %v, want [0 1 2]", took)
		}
	})
}

func TestQueueKeepsAMessageWhoseTakerLeaves(t *testing.T) {
	l := New()
	for i := range 2000 {
		ctx, cancel := context.WithCancel(context.Background())
		took := make(chan string)
		go func() {
			message, err := l.Take(ctx, "queue")
			if err != nil && !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
			took <- string(message)
		}()
		go cancel()
		if err := l.Append(context.Background(), "queue", fmt.Append(nil, i)); err != nil {
			t.Fatal(err)
		}
		message := <-took
		if message == "" {
			left, err := l.Take(context.Background(), "queue")
			if err != nil {
				t.Fatal(err)
			}
			message = string(left)
		}
		if message != fmt.Sprint(i) {
			t.Fatalf("message %d: took %q", i, message)
		}
	}
}
