package grouphub_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
)

// memoryReceiver collects what it is given. Where full is set, Ready waits.
type memoryReceiver struct {
	full chan struct{} // holds a token while there is no room

	mu  sync.Mutex
	got []string
}

func newMemoryReceiver() *memoryReceiver { return &memoryReceiver{full: make(chan struct{}, 1)} }

func (r *memoryReceiver) Ready(ctx context.Context, _ string) error {
	select {
	case r.full <- struct{}{}:
		<-r.full
		return nil
	default:
	}
	select {
	case r.full <- struct{}{}:
		<-r.full
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (r *memoryReceiver) Deliver(p grouphub.Publication) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.got = append(r.got, string(p.Payload))
}

func (r *memoryReceiver) Lost([]string) {}

func (r *memoryReceiver) received() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return fmt.Sprint(r.got)
}

func attach(t *testing.T, l grouphub.Layer, hub string, r grouphub.Receiver, topics ...string) grouphub.Subscription {
	t.Helper()
	s, err := l.Attach(hub, r)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Add(context.Background(), topics...); err != nil {
		t.Fatal(err)
	}
	return s
}

func publication(topic, payload string) grouphub.Publication {
	return grouphub.Publication{Topic: topic, Payload: []byte(payload)}
}

func TestMemoryLayer(t *testing.T) {
	hubtest.TestLayer(t, func(*testing.T) (a, b grouphub.Layer) {
		l := grouphub.NewMemoryLayer()
		return l, l
	})
}

func TestMemoryPublicationGoesToAllOrToNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := grouphub.NewMemoryLayer()
		roomy, full := newMemoryReceiver(), newMemoryReceiver()
		attach(t, l, "a", roomy, "topic")
		attach(t, l, "b", full, "topic")
		full.full <- struct{}{}

		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		err := l.Publish(ctx, publication("topic", "one"))
		if !errors.Is(err, grouphub.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Publish without room: %v, want ErrUnavailable and the context's error", err)
		}
		start := time.Now()
		err = l.Publish(context.Background(), publication("topic", "two"))
		if !errors.Is(err, grouphub.ErrUnavailable) || time.Since(start) != 5*time.Second {
			t.Errorf("Publish without room or deadline: %v after %v, want ErrUnavailable after 5s", err, time.Since(start))
		}
		if roomy.received()+full.received() != "[][]" {
			t.Errorf("received %v and %v, want nothing", roomy.received(), full.received())
		}

		published := make(chan error)
		go func() { published <- l.Publish(context.Background(), publication("topic", "three")) }()
		synctest.Wait()
		<-full.full
		if err := <-published; err != nil {
			t.Error(err)
		}
		if roomy.received()+full.received() != "[three][three]" {
			t.Errorf("received %v and %v, want three", roomy.received(), full.received())
		}
	})
}

func TestMemoryPublishersOfOneTopicTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := grouphub.NewMemoryLayer()
		r := newMemoryReceiver()
		attach(t, l, "a", r, "topic", "other")
		r.full <- struct{}{}
		published := make(chan error)
		publish := func(payload string) { published <- l.Publish(context.Background(), publication("topic", payload)) }
		go publish("one")
		synctest.Wait()
		go publish("two")
		synctest.Wait()
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		err := l.Publish(ctx, publication("topic", "never"))
		if !errors.Is(err, grouphub.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Publish out of turn: %v, want ErrUnavailable and the context's error", err)
		}
		<-r.full
		if err := errors.Join(<-published, <-published); err != nil {
			t.Error(err)
		}
		if got := r.received(); got != "[one two]" {
			t.Errorf("received %v, want [one two]", got)
		}
	})
}

func TestMemorySubscriptionThatEndsHoldsNobodyUp(t *testing.T) {
	for _, end := range []string{"Subscription", "Layer"} {
		t.Run(end, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := grouphub.NewMemoryLayer()
				r, full := newMemoryReceiver(), newMemoryReceiver()
				attach(t, l, "a", r, "topic")
				s := attach(t, l, "b", full, "topic")
				full.full <- struct{}{}
				published := make(chan error)
				go func() { published <- l.Publish(context.Background(), publication("topic", "one")) }()
				synctest.Wait()
				start := time.Now()
				if end == "Layer" {
					l.Close()
					if err := <-published; !errors.Is(err, grouphub.ErrClosed) {
						t.Errorf("Publish: %v, want ErrClosed", err)
					}
				} else {
					s.Close()
					if err := <-published; err != nil || r.received() != "[one]" {
						t.Errorf("Publish: %v, received %v, want one", err, r.received())
					}
				}
				if time.Since(start) != 0 || full.received() != "[]" {
					t.Errorf("took %v, received %v, want nothing at once", time.Since(start), full.received())
				}
			})
		})
	}
}

func TestMemoryPublishDoesNotWaitForAContextThatIsOver(t *testing.T) {
	l := grouphub.NewMemoryLayer()
	r := newMemoryReceiver()
	attach(t, l, "a", r, "topic")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := l.Publish(ctx, publication("topic", "one")); err != nil || r.received() != "[one]" {
		t.Errorf("Publish where there is room: %v, received %v", err, r.received())
	}
	r.full <- struct{}{}
	err := l.Publish(ctx, publication("topic", "two"))
	if !errors.Is(err, grouphub.ErrUnavailable) || !errors.Is(err, context.Canceled) {
		t.Errorf("Publish where there is none: %v, want ErrUnavailable and the context's error", err)
	}
}

func TestMemoryQueueExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := grouphub.NewMemoryLayer()
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
		if err := add("more"); !errors.Is(err, grouphub.ErrQueueFull) {
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

func TestMemoryQueueTakersAreServedInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := grouphub.NewMemoryLayer()
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

func TestMemoryQueueKeepsAMessageWhoseTakerLeaves(t *testing.T) {
	l := grouphub.NewMemoryLayer()
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

func TestMemoryLayerKeepsNothingOfWhatIsIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := grouphub.NewMemoryLayer()
		s := attach(t, l, "a", newMemoryReceiver())
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
		if topics, queues := grouphub.MemoryInUse(l); topics != 1 || queues != 0 { // 1: the hub's own
			t.Errorf("%d topics and %d queues are left", topics, queues)
		}
	})
}

func TestMemoryPayloadIsTheReceivers(t *testing.T) {
	l := grouphub.NewMemoryLayer()
	r := newMemoryReceiver()
	attach(t, l, "a", r, "topic")
	payload := []byte("before")
	if err := l.Publish(t.Context(), grouphub.Publication{Topic: "topic", Payload: payload}); err != nil {
		t.Fatal(err)
	}
	copy(payload, bytes.Repeat([]byte("x"), len(payload)))
	if got := r.received(); got != "[before]" {
		t.Errorf("received %v after the sender changed its slice", got)
	}
}

func TestMemoryPublishWithoutSubscribersDoesNotAllocate(t *testing.T) {
	l := grouphub.NewMemoryLayer()
	p := publication("topic", "payload")
	if n := testing.AllocsPerRun(100, func() { l.Publish(context.Background(), p) }); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
}

func BenchmarkMemoryPublish(b *testing.B) {
	for subscribers := range 2 {
		b.Run(fmt.Sprint("subscribers=", subscribers), func(b *testing.B) {
			l := grouphub.NewMemoryLayer()
			for i := range subscribers {
				s, err := l.Attach(fmt.Sprint(i), discard{})
				if err != nil {
					b.Fatal(err)
				}
				s.Add(context.Background(), "topic")
			}
			p := grouphub.Publication{Topic: "topic", Payload: make([]byte, 256)}
			b.ReportAllocs()
			for b.Loop() {
				l.Publish(context.Background(), p)
			}
		})
	}
}

// discard is a receiver that always has room and keeps nothing.
type discard struct{}

func (discard) Ready(context.Context, string) error { return nil }
func (discard) Deliver(grouphub.Publication)        {}
func (discard) Lost([]string)                       {}
