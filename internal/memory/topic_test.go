package memory

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-29c60982/grouphub/layer"
)

func TestPublicationGoesToAllOrToNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New()
		roomy, full := newWaitingReceiver(), newWaitingReceiver()
		attach(t, l, "a", roomy, "topic")
		attach(t, l, "b", full, "topic")
		full.full <- struct{}{}

		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		err := l.Publish(ctx, publication("topic", "one"))
		if !errors.Is(err, layer.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Publish without room: %v, want ErrUnavailable and the context's error", err)
		}
		start := time.Now()
		err = l.Publish(context.Background(), publication("topic", "two"))
		if !errors.Is(err, layer.ErrUnavailable) || time.Since(start) != 5*time.Second {
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

func TestPublishersOfOneTopicTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New()
		r := newWaitingReceiver()
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
		if !errors.Is(err, layer.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
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

func TestPublishDoesNotWaitForAContextThatIsOver(t *testing.T) {
	l := New()
	r := newWaitingReceiver()
	attach(t, l, "a", r, "topic")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := l.Publish(ctx, publication("topic", "one")); err != nil || r.received() != "[one]" {
		t.Errorf("Publish where there is room: %v, received %v", err, r.received())
	}
	r.full <- struct{}{}
	err := l.Publish(ctx, publication("topic", "two"))
	if !errors.Is(err, layer.ErrUnavailable) || !errors.Is(err, context.Canceled) {
		t.Errorf("Publish where there is none: %v, want ErrUnavailable and the context's error", err)
	}
}

func TestPayloadIsTheReceivers(t *testing.T) {
	l := New()
	r := newWaitingReceiver()
	attach(t, l, "a", r, "topic")
	payload := []byte("before")
	if err := l.Publish(t.Context(), layer.Publication{Topic: "topic", Payload: payload}); err != nil {
		t.Fatal(err)
	}
	copy(payload, bytes.Repeat([]byte("x"), len(payload)))
	if got := r.received(); got != "[before]" {
		t.Errorf("received %v after the sender changed its slice", got)
	}
}

func TestPublishWithoutSubscribersDoesNotAllocate(t *testing.T) {
	l := New()
	p := publication("topic", "payload")
	if n := testing.AllocsPerRun(100, func() { l.Publish(context.Background(), p) }); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
}

func BenchmarkPublish(b *testing.B) {
	for subscribers := range 2 {
		b.Run(fmt.Sprint("subscribers=", subscribers), func(b *testing.B) {
			l := New()
			for i := range subscribers {
				s, err := l.Attach(fmt.Sprint(i), discard{})
				if err != nil {
					b.Fatal(err)
				}
				s.Add(context.Background(), "topic")
			}
			p := layer.Publication{Topic: "topic", Payload: make([]byte, 256)}
			b.ReportAllocs()
			for b.Loop() {
				l.Publish(context.Background(), p)
			}
		})
	}
}
