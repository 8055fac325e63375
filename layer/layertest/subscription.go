package layertest

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/seed-29c60982/grouphub/layer"
)

var subscriptionCases = []testCase{
	{name: "AttachSubscribesToTheHubsOwnTopic", run: testAttachSubscribes},
	{name: "AddedMeansThatNothingLaterIsMissed", run: testAdded},
	{name: "AddTakesManyTopics", run: testAddMany},
	{name: "AddTwiceIsTheSameAsOnce", run: testAddTwice},
	{name: "AddThatFailedLeavesNothing", run: testAddFailed},
	{name: "AddAfterRemoveWins", run: testAddAfterRemove},
	{name: "RemoveEndsDeliverySoon", run: testRemove},
	{name: "UpWhilePublicationsArrive", run: testUp},
	{name: "SubscriptionThatIsClosedIsSilent", run: testSubscriptionClose},
}

func testAttachSubscribes(t testing.TB, f *fixture) {
	first, second := f.attach(f.a), f.attach(f.b)
	for _, h := range []*receiver{first, second} {
		h.add(h.name) // already subscribed: this only waits until it is in force
		f.publish(f.a, h.name, "x")
		h.expect(h.name, "x")
	}
}

func testAdded(t testing.TB, f *fixture) {
	h := f.attach(f.a)
	for i := range 100 {
		topic := fmt.Sprint("topic", i)
		h.add(topic)
		f.publish(f.b, topic, "x")
	}
	for i := range 100 {
		h.expect(fmt.Sprint("topic", i), "x")
	}
}

func testAddMany(t testing.TB, f *fixture) {
	h := f.attach(f.a)
	topics := make([]string, 5000)
	for i := range topics {
		topics[i] = fmt.Sprint("topic", i)
	}
	h.add(topics...)
	for i := 0; i < len(topics); i += 500 {
		f.publish(f.b, topics[i], topics[i])
		h.expect(topics[i], topics[i])
	}
	h.Remove(topics...)
}

func testAddTwice(t testing.TB, f *fixture) {
	h := f.attach(f.a, "topic", "topic")
	h.add("topic")
	f.publish(f.b, "topic", "one")
	f.publish(f.b, "topic", "two")
	h.expect("topic", "one", "two")
	h.Remove("topic")
	f.expectSilence(h, "topic")
}

func testAddFailed(t testing.TB, f *fixture) {
	h := f.attach(f.a, "kept")
	ctx, cancel := context.WithCancel(f.ctx)
	cancel()
	if err := h.Add(ctx, "kept", "new"); err != nil {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("Add: %v, want its context's error", err)
		}
		f.expectSilence(h, "new")
	}
	f.publish(f.b, "kept", "x")
	h.expect("kept", "x")
	had := h.count("new")
	h.add("new")
	f.publish(f.b, "new", "y")
	if got := h.await("new", had+1); got[len(got)-1] != "y" {
		t.Errorf("received %q after Add, want y last", got)
	}
}

func testAddAfterRemove(t testing.TB, f *fixture) {
	h := f.attach(f.a)
	var want []string
	for i := range 50 {
		h.add("topic")
		want = append(want, fmt.Sprint(i))
		f.publish(f.b, "topic", fmt.Sprint(i))
		h.expect("topic", want...)
		h.Remove("topic")
	}
}

func testRemove(t testing.TB, f *fixture) {
	h, other := f.attach(f.a, "topic", "kept"), f.attach(f.b, "topic")
	h.Remove("topic", "never added")
	f.expectSilence(h, "topic")
	had := other.count("topic")
	f.publish(f.a, "topic", "last")
	f.publish(f.a, "kept", "x")
	h.expect("kept", "x")
	other.awaitCount("topic", had+1)
}

// expectSilence waits until publications to the topic no longer reach the hub.
func (f *fixture) expectSilence(h *receiver, topic string) {
	f.t.Helper()
	h.add("marker")
	ok := eventually(func() bool {
		had, marker := h.count(topic), h.count("marker")+1
		f.publish(f.a, topic, "x")
		f.publish(f.a, "marker", "x")
		h.awaitCount("marker", marker)
		if h.count(topic) != had {
			return false
		}
		// Two topics have no common order, so the one may be a little behind the other.
		time.Sleep(50 * time.Millisecond)
		return h.count(topic) == had
	})
	if !ok {
		f.t.Errorf("%s still receives publications to %q", h.name, topic)
	}
}

func testUp(t testing.TB, f *fixture) {
	h := f.attach(f.a, "topic")
	if !eventually(h.Up) {
		t.Error("Up is false")
	}
	if err := h.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if h.Up() {
		t.Error("Up is true after Close")
	}
}

func testSubscriptionClose(t testing.TB, f *fixture) {
	h, other := f.attach(f.a, "topic"), f.attach(f.b, "topic")
	ctx, cancel := context.WithCancel(f.ctx)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				f.b.Publish(ctx, layer.Publication{Topic: "topic", Payload: []byte("x")})
				runtime.Gosched()
			}
		})
	}
	h.await("topic", 10)
	if err := h.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	h.forbidCalls()
	other.awaitCount("topic", other.count("topic")+20)
	cancel()
	wg.Wait()
	if err := h.Add(f.ctx, "topic"); !errors.Is(err, layer.ErrClosed) {
		t.Errorf("Add after Close: %v, want ErrClosed", err)
	}
	h.Remove("topic")
	again := f.attach(f.a, "topic") // the layer is not closed
	f.publish(f.b, "topic", "last")
	if got := again.await("topic", 1); got[len(got)-1] != "last" {
		again.await("topic", len(got)+1)
	}
}
