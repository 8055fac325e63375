package layertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/seed-29c60982/grouphub/layer"
)

var queueCases = []testCase{
	{name: "QueueKeepsItsOrder", run: testQueueOrder},
	{name: "QueueGivesEachMessageToOneTaker", run: testQueueOneTaker},
	{name: "QueueWakesATakerThatWaits", run: testQueueWakes},
	{name: "QueueWakesATakerAtOnce", run: testQueueWakesAtOnce},
	{name: "QueueIsFullAtItsCapacity", run: testQueueFull},
	{name: "QueueHoldsNoMoreWhenManyAppend", run: testQueueFullForMany},
	{name: "QueueLosesNothingWhenATakerLeaves", run: testQueueTakerLeaves},
	{name: "QueueMessagesBelongToTheirOwners", run: testQueueSlices},
}

func testQueueOrder(t testing.TB, f *fixture) {
	for i := range 50 {
		f.append(f.a, "queue", fmt.Sprint(i))
	}
	f.append(f.b, "other", "other")
	for i := range 50 {
		f.take(f.b, "queue", fmt.Sprint(i))
	}
	f.take(f.a, "other", "other")
}

func testQueueOneTaker(t testing.TB, f *fixture) {
	const messages = 80
	ctx, cancel := context.WithCancel(f.ctx)
	took := make(chan string, 2*messages)
	var wg sync.WaitGroup
	for i := range 4 {
		l := f.a
		if i%2 == 1 {
			l = f.b
		}
		wg.Go(func() {
			for {
				message, err := l.Take(ctx, "queue")
				if err != nil {
					if !errors.Is(err, context.Canceled) {
						t.Errorf("Take: %v", err)
					}
					return
				}
				select {
				case took <- string(message):
				case <-ctx.Done(): // far more came than were sent
					return
				}
			}
		})
	}
	for i := range messages {
		f.append(f.a, "queue", fmt.Sprint(i))
	}
	times := make(map[string]int)
	for range messages {
		select {
		case message := <-took:
			times[message]++
		case <-f.ctx.Done():
			t.Fatalf("%d of %d messages were taken", len(times), messages)
		}
	}
	cancel()
	wg.Wait()
	if len(times) != messages || len(took) != 0 {
		t.Errorf("%d different messages of %d, and %d more", len(times), messages, len(took))
	}
}

func testQueueWakes(t testing.TB, f *fixture) {
	took := make(chan string)
	for i := range 5 {
		go func() {
			message, err := f.a.Take(f.ctx, "queue")
			if err != nil {
				t.Errorf("Take: %v", err)
			}
			took <- string(message)
		}()
		f.append(f.b, "queue", fmt.Sprint(i))
		if got := <-took; got != fmt.Sprint(i) {
			t.Errorf("took %q, want %d", got, i)
		}
	}
}

// testQueueWakesAtOnce measures how long a taker that waits already takes to return. A layer
// that only polls, each second or so, may be quick once, but not most of the time.
func testQueueWakesAtOnce(t testing.TB, f *fixture) {
	const rounds, quick = 7, 300 * time.Millisecond
	var took []time.Duration
	for i := range rounds {
		woken := make(chan time.Time, 1)
		go func() {
			f.take(f.a, "queue", fmt.Sprint(i))
			woken <- time.Now()
		}()
		time.Sleep(time.Duration(10+7*i) * time.Millisecond) // it waits by then
		begun := time.Now()
		f.append(f.b, "queue", fmt.Sprint(i))
		select {
		case end := <-woken:
			took = append(took, end.Sub(begun))
		case <-f.ctx.Done():
			t.Fatal("a taker that waits is not woken")
		}
	}
	slices.Sort(took)
	if took[rounds/2] > quick {
		t.Errorf("takers that waited were woken after %v, want less than %v mostly", took, quick)
	}
}

// mostMessages is how many messages a queue may hold for a case to fill it.
const mostMessages = 1000

func testQueueFull(t testing.TB, f *fixture) {
	capacity := 0
	for ; capacity <= mostMessages; capacity++ {
		err := f.a.Append(f.ctx, "queue", fmt.Append(nil, capacity))
		if errors.Is(err, layer.ErrQueueFull) {
			break
		} else if err != nil {
			t.Fatalf("Append: %v", err)
		}
	}
	if capacity == 0 || capacity > mostMessages {
		t.Fatalf("%d messages fit into the queue", capacity)
	}
	f.append(f.a, "other", "x") // a full queue holds up no other
	f.take(f.b, "queue", "0")
	f.append(f.b, "queue", "last")
	if err := f.b.Append(f.ctx, "queue", []byte("more")); !errors.Is(err, layer.ErrQueueFull) {
		t.Errorf("Append to a full queue: %v, want ErrQueueFull", err)
	}
	f.take(f.a, "queue", "1")
}

// testQueueFullForMany appends from many goroutines at once where one message has room.
func testQueueFullForMany(t testing.TB, f *fixture) {
	const rounds, callers = 50, 16
	var err error
	for i := 0; err == nil && i <= mostMessages; i++ {
		err = f.a.Append(f.ctx, "queue", []byte("x"))
	}
	if !errors.Is(err, layer.ErrQueueFull) {
		t.Fatalf("Append to a queue that is filled: %v", err)
	}
	for range rounds {
		f.take(f.a, "queue", "x")
		var added atomic.Int64
		var wg sync.WaitGroup
		for caller := range callers {
			l := f.a
			if caller%2 == 1 {
				l = f.b
			}
			wg.Go(func() {
				switch err := l.Append(f.ctx, "queue", []byte("x")); {
				case err == nil:
					added.Add(1)
				case !errors.Is(err, layer.ErrQueueFull):
					t.Errorf("Append: %v", err)
				}
			})
		}
		wg.Wait()
		if n := added.Load(); n != 1 {
			t.Fatalf("%d callers at once added %d messages where one had room", callers, n)
		}
	}
}

// testQueueTakerLeaves ends the taker's context at all times: before the message is there,
// with it, and while it is being taken.
func testQueueTakerLeaves(t testing.TB, f *fixture) {
	f.append(f.b, "queue", "first")
	begun := time.Now()
	f.take(f.a, "queue", "first")
	usual := time.Since(begun)
	const rounds = 100
	for i := range rounds {
		name := fmt.Sprint(i)
		f.append(f.b, "queue", name) // the taker finds it there
		ctx, cancel := context.WithTimeout(f.ctx, usual*time.Duration(i)/rounds*2)
		message, err := f.a.Take(ctx, "queue")
		cancel()
		switch {
		case err == nil && string(message) != name:
			t.Fatalf("took %q, want %d", message, i)
		case err != nil && !errors.Is(err, context.DeadlineExceeded):
			t.Errorf("Take: %v", err)
		case err != nil:
			f.take(f.b, "queue", name) // it was left for others
		}
	}
	for i := range 50 {
		ctx, cancel := context.WithCancel(f.ctx)
		took := make(chan string)
		go func() {
			message, err := f.a.Take(ctx, "queue")
			if err != nil && !errors.Is(err, context.Canceled) {
				t.Errorf("Take: %v", err)
			}
			took <- string(message)
		}()
		go cancel()
		f.append(f.b, "queue", fmt.Sprint(i))
		if message := <-took; message == "" {
			f.take(f.b, "queue", fmt.Sprint(i))
		} else if message != fmt.Sprint(i) {
			t.Fatalf("took %q, want %d", message, i)
		}
	}
}

func testQueueSlices(t testing.TB, f *fixture) {
	message := bytes.Repeat([]byte{0, 1, 2, 0xff}, 1<<16)
	want := bytes.Clone(message)
	for range 2 {
		if err := f.a.Append(f.ctx, "queue", message); err != nil {
			t.Fatalf("Append: %v", err)
		}
	}
	clear(message)
	for range 2 {
		got, err := f.b.Take(f.ctx, "queue")
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("Take: %d bytes, %v, want the %d that were appended", len(got), err, len(want))
		}
		clear(got)
	}
	f.append(f.a, "queue", "")
	f.take(f.b, "queue", "")
}
