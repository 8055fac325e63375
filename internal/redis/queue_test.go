package redis

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"

	"github.com/seed-29c60982/grouphub/layer"
)

// takeAndCrash takes a message as a process does that ends before it hands it over.
func takeAndCrash(t *testing.T, l *Layer, queue string) {
	t.Helper()
	if _, err := l.runQueue(t.Context(), "take from", queue, queueTake, milliseconds(queueLease)); err != nil {
		t.Fatal(err)
	}
}

func TestQueueRedeliversAndExpires(t *testing.T) {
	m := miniredis.RunT(t)
	now := time.Unix(1_700_000_000, 0)
	m.SetTime(now)
	l, err := New("redis://"+m.Addr(), Options{QueueCapacity: 2, QueueExpiry: 40 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	add := func(message string) error { return l.Append(t.Context(), "queue", []byte(message)) }
	take := func(want string) {
		t.Helper()
		if message, err := l.Take(t.Context(), "queue"); err != nil || string(message) != want {
			t.Errorf("took %q, %v, want %q", message, err, want)
		}
	}
	if err := errors.Join(add("one"), add("two")); err != nil {
		t.Fatal(err)
	}
	takeAndCrash(t, l, "queue")
	m.SetTime(now.Add(queueLease + time.Second)) // the lease is over: it is the first again
	if err := add("three"); !errors.Is(err, layer.ErrQueueFull) {
		t.Errorf("Append: %v, want ErrQueueFull", err)
	}
	take("one")
	if err := add("three"); err != nil {
		t.Error(err)
	}
	m.SetTime(now.Add(41 * time.Second)) // two has expired, and does not count
	if err := add("four"); err != nil {
		t.Error(err)
	}
	take("three")
	take("four")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if message, err := l.Take(ctx, "queue"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("took %q, %v, want nothing", message, err)
	}
}

func TestEveryKeyExpires(t *testing.T) {
	m := miniredis.RunT(t)
	now := time.Unix(1_700_000_000, 0)
	m.SetTime(now)
	l, err := New("redis://"+m.Addr(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	check := func(when string, want int) {
		t.Helper()
		if keys := m.Keys(); len(keys) != want {
			t.Errorf("%s: keys %q, want %d", when, keys, want)
		}
		for _, key := range m.Keys() {
			if m.TTL(key) <= 0 {
				t.Errorf("%s: %s does not expire", when, key)
			}
		}
	}
	for _, message := range []string{"one", "two"} {
		if err := l.Append(t.Context(), "queue", []byte(message)); err != nil {
			t.Fatal(err)
		}
	}
	check("two messages wait", 2)
	takeAndCrash(t, l, "queue")
	takeAndCrash(t, l, "queue")
	check("both are taken", 2)
	m.SetTime(now.Add(queueLease + time.Second))
	takeAndCrash(t, l, "queue") // and so the other waits again
	check("one is back", 3)
	m.FastForward(time.Hour)
	check("nobody came", 0)
}
