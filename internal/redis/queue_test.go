package redis

import (
	"context"
	"errors"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"

	"github.com/seed-29c60982/grouphub/internal/redistest"
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

func TestGarbageInAQueueIsNoHindrance(t *testing.T) {
	for _, c := range []struct {
		name, message string
		absent        bool // no message belongs to the id
		discarded     uint64
	}{
		{name: "no message", absent: true},
		{name: "over", message: "1:\x01x"},
		{name: "no deadline", message: "garbage"},
		{name: "nothing", message: ""},
		{name: "empty payload", message: "9999999999999:", discarded: 1},
		{name: "garbage payload", message: "9999999999999:garbage", discarded: 1},
		{name: "sealed payload", message: "9999999999999:\x02short", discarded: 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := miniredis.RunT(t)
			l := newTestLayer(t, "redis://"+m.Addr(), Options{})
			keys := l.queueKeys("queue")
			if !c.absent {
				m.HSet(keys[0], "garbage", c.message)
			}
			m.Push(keys[1], "garbage")
			m.ZAdd(keys[2], 1, "taken, and nothing is known of it")
			if err := l.Append(t.Context(), "queue", []byte("x")); err != nil {
				t.Fatalf("Append behind garbage: %v", err)
			}
			if message, err := l.Take(t.Context(), "queue"); err != nil || string(message) != "x" {
				t.Errorf("took %q, %v", message, err)
			}
			if n := l.Discarded(); n != c.discarded {
				t.Errorf("%d are counted as discarded, want %d", n, c.discarded)
			}
		})
	}
}

func TestCloseHandsNothingOutTwice(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	sender := newTestLayer(t, s.URL(), Options{})
	for i := range 20 {
		queue := fmt.Sprint("queue", i)
		if err := sender.Append(t.Context(), queue, []byte("x")); err != nil {
			t.Fatal(err)
		}
		l, err := New(s.URL(), Options{})
		if err != nil {
			t.Fatal(err)
		}
		mustTake(t, l, queue, "x")
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if left := s.CLI("ZCARD", "grouphub:taken:{"+queue+"}"); left != "0" {
			t.Fatalf("%s messages will be handed out again", left)
		}
	}
}

func TestQueueSkipsWhatIsNoMessage(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	l := newTestLayer(t, s.URL(), Options{})
	for i, garbage := range []string{"garbage", "", "12", ":x"} {
		queue := fmt.Sprint("queue", i)
		s.CLI("HSET", "grouphub:messages:{"+queue+"}", "id", garbage)
		s.CLI("RPUSH", "grouphub:waiting:{"+queue+"}", "id")
		if err := l.Append(t.Context(), queue, []byte("x")); err != nil {
			t.Errorf("behind %q: %v", garbage, err)
			continue
		}
		mustTake(t, l, queue, "x")
	}
}

func TestServerThatRefusesToWakeTakersQueuesAllTheSame(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	s.CLI("ACL", "SETUSER", "user", "on", ">pass", "~*", "+@all", "resetchannels")
	l := newTestLayer(t, "redis://user:pass@"+s.Address(), Options{})
	if err := l.Append(t.Context(), "queue", []byte("x")); err != nil {
		t.Error(err)
	}
	mustTake(t, l, "queue", "x")
}

func TestKeepsForeverWhatHasNoEnd(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	l := newTestLayer(t, s.URL(), Options{QueueExpiry: math.MaxInt64})
	if err := l.Publish(t.Context(), kept("topic", "x", layer.Keep{Count: 5, Life: math.MaxInt64})); err != nil {
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

func TestTakeWaitsWhileTheServerIsDown(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	l := newTestLayer(t, s.URL(), Options{})
	took := make(chan string)
	go func() {
		message, err := l.Take(context.Background(), "queue")
		if err != nil {
			t.Errorf("Take: %v", err)
		}
		took <- string(message)
	}()
	s.Kill()
	s.Restart()
	await(t, "Append to work again", func() bool { return l.Append(t.Context(), "queue", []byte("x")) == nil })
	if message := <-took; message != "x" {
		t.Errorf("took %q, want x", message)
	}
}
