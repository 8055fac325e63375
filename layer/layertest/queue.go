package layertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/seed-29c60982/grouphub/layer"
)

var queueCases = []testCase{
	{"QueueKeepsItsOrder", testQueueOrder},
	{"QueueGivesEachMessageToOneTaker", testQueueOneTaker},
	{"QueueWakesATakerThatWaits", testQueueWakes},
	{"QueueIsFullAtItsCapacity", testQueueFull},
	{"QueueLosesNothingWhenATakerLeaves", testQueueTakerLeaves},
	{"QueueMessagesBelongToTheirOwners", testQueueSlices},
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
				took <- string(message)
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

func testQueueFull(t testing.TB, f *fixture) {
	const most = 1000
	capacity := 0
	for ; capacity <= most; capacity++ {
		err := f.a.Append(f.ctx, "queue", fmt.Append(nil, capacity))
		if errors.Is(err, layer.ErrQueueFull) {
			break
		} else if err != nil {
			t.Fatalf("Append: %v", err)
		}
	}
	if capacity == 0 || capacity > most {
		t.Fatalf("%d messages fit into the queue", capacity)
	}
	f.append(f.a, "other", "x") // a full queue is nobody else's trouble
	f.take(f.b, "queue", "0")
	f.append(f.b, "queue", "last")
	if err := f.b.Append(f.ctx, "queue", []byte("more")); !errors.Is(err, layer.ErrQueueFull) {
		t.Errorf("Append to a full queue: %v, want ErrQueueFull", err)
	}
	f.take(f.a, "queue", "1")
}

func testQueueTakerLeaves(t testing.TB, f *fixture) {
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
