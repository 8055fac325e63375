package hubtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/seed-29c60982/grouphub"
)

const (
	// layerPatience is how long a case waits for what must happen. It is not a
	// measure of anything: a machine may be slow.
	layerPatience = 30 * time.Second
	// layerWatchdog is how long a case may take before the process is stopped.
	layerWatchdog = 2 * time.Minute
	// contextPatience is how long a call may go on when its context has ended: not until
	// the five seconds are over after which it ends in any case.
	contextPatience = 4 * time.Second
)

// TestLayer checks that a layer keeps the word that [grouphub.Layer],
// [grouphub.Receiver] and [grouphub.Subscription] give. newPair is called for each
// case and returns two ends that see the same world: two layers on one server, or the
// same layer twice. TestLayer closes them; what newPair started besides, it ends with
// t.Cleanup. After each case no goroutine may be left, so no other test should run at
// the same time.
//
// What a layer does when its server goes away is not checked here, nor how long its
// queues keep a message.
func TestLayer(t *testing.T, newPair func(t *testing.T) (a, b grouphub.Layer)) {
	cases := []struct {
		name string
		run  func(t *testing.T, w *layerWorld)
	}{
		{"PublishReachesEverySubscriber", testPublishReachesEverySubscriber},
		{"PublishWithoutSubscribersIsNoError", testPublishWithoutSubscribers},
		{"AttachSubscribesToTheHubsOwnTopic", testAttachSubscribes},
		{"AddedMeansThatNothingLaterIsMissed", testAdded},
		{"AddTakesManyTopics", testAddMany},
		{"AddTwiceIsTheSameAsOnce", testAddTwice},
		{"AddThatFailedLeavesNothing", testAddFailed},
		{"AddAfterRemoveWins", testAddAfterRemove},
		{"RemoveEndsDeliverySoon", testRemove},
		{"OneSendersOrderHolds", testOrder},
		{"SubscribersOfOneLayerSeeOneOrder", testOneOrder},
		{"PayloadsAreOpaqueAndTheSlicesBelongToTheirOwners", testPayloads},
		{"NamesAreOpaque", testNames},
		{"PublishThatFailedReachesNobody", testPublishFailed},
		{"CallsEndWithTheirContext", testContexts},
		{"UpWhilePublicationsArrive", testUp},
		{"SubscriptionThatIsClosedIsSilent", testSubscriptionClose},
		{"KeptPublicationsAreNumberedInTheirOrder", testKeep},
		{"KeptAndOthersOfOneSenderKeepTheirOrder", testKeepOrder},
		{"HistoryBeginsAfterANumber", testHistoryAfter},
		{"HistoryKeepsAsManyAsItWasTold", testHistoryCount},
		{"HistoryEndsWithItsLifeAndTheNumbersGoOn", testHistoryLife},
		{"HistoryIsOneViewWhileOthersPublish", testHistoryView},
		{"PublishTakesAKeyOnce", testOnce},
		{"LeasesBelongToTheirTopicsAndHolders", testLeases},
		{"LeaseEndsUnlessItIsProlonged", testLeaseLife},
		{"QueueKeepsItsOrder", testQueueOrder},
		{"QueueGivesEachMessageToOneTaker", testQueueOneTaker},
		{"QueueWakesATakerThatWaits", testQueueWakes},
		{"QueueIsFullAtItsCapacity", testQueueFull},
		{"QueueLosesNothingWhenATakerLeaves", testQueueTakerLeaves},
		{"QueueMessagesBelongToTheirOwners", testQueueSlices},
		{"EverythingAtOnce", testEverythingAtOnce},
		{"AfterCloseEverythingIsErrClosed", testClose},
	}
	for _, c := range cases {
		before := runtime.NumGoroutine()
		ok := t.Run(c.name, func(t *testing.T) {
			watchdog := time.AfterFunc(layerWatchdog, func() {
				stacks := make([]byte, 1<<20)
				os.Stderr.Write(stacks[:runtime.Stack(stacks, true)])
				panic("hubtest: the layer hangs in " + t.Name())
			})
			defer watchdog.Stop()
			ctx, cancel := context.WithTimeout(context.Background(), layerPatience)
			defer cancel()
			w := &layerWorld{ctx: ctx, t: t}
			w.a, w.b = newPair(t)
			defer w.close()
			c.run(t, w)
		})
		// By now the cleanups of newPair have run, too.
		if ok && !eventually(func() bool { return runtime.NumGoroutine() <= before }) {
			stacks := make([]byte, 1<<20)
			t.Errorf("%s: %d goroutines before, %d after Close:\n%s", c.name, before,
				runtime.NumGoroutine(), stacks[:runtime.Stack(stacks, true)])
		}
	}
}

// eventually polls for what gives no signal.
func eventually(condition func() bool) bool {
	for deadline := time.Now().Add(layerPatience); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			return false
		}
	}
	return true
}

// layerWorld is the two ends under test, with a context that ends when patience does.
type layerWorld struct {
	t    *testing.T
	ctx  context.Context
	a, b grouphub.Layer
	hubs int
	once sync.Once
}

// close closes both ends and checks that Close reports no error.
func (w *layerWorld) close() {
	w.once.Do(func() {
		if err := w.a.Close(); err != nil {
			w.t.Errorf("Close: %v", err)
		}
		if w.b != w.a {
			if err := w.b.Close(); err != nil {
				w.t.Errorf("Close: %v", err)
			}
		}
	})
}

// hub attaches a new hub to a layer and subscribes it to topics.
func (w *layerWorld) hub(l grouphub.Layer, topics ...string) *layerHub {
	w.t.Helper()
	w.hubs++
	h := &layerHub{name: fmt.Sprint("hub", w.hubs), t: w.t, world: w, got: make(map[string][]grouphub.Publication),
		busy: make(map[string]bool), changed: make(chan struct{})}
	s, err := l.Attach(h.name, h)
	if err != nil {
		w.t.Fatalf("Attach: %v", err)
	}
	h.Subscription = s
	h.add(topics...)
	return h
}

func (w *layerWorld) publish(l grouphub.Layer, topic, payload string) {
	w.t.Helper()
	if err := l.Publish(w.ctx, grouphub.Publication{Topic: topic, Payload: []byte(payload)}); err != nil {
		w.t.Fatalf("Publish: %v", err)
	}
}

// keep publishes with what keep says.
func (w *layerWorld) keep(l grouphub.Layer, topic, payload string, keep grouphub.Keep) {
	w.t.Helper()
	if err := l.Publish(w.ctx, grouphub.Publication{Topic: topic, Payload: []byte(payload), Keep: keep}); err != nil {
		w.t.Fatalf("Publish: %v", err)
	}
}

// history returns the history after a number, and checks that it is one: all from
// there, or from the first that is kept, to the last.
func (w *layerWorld) history(l grouphub.Layer, topic string, after uint64) grouphub.History {
	w.t.Helper()
	h, err := l.History(w.ctx, topic, after)
	if err != nil {
		w.t.Fatalf("History: %v", err)
	}
	next := h.Last + 1 - uint64(len(h.Kept))
	if len(h.Kept) > 0 && next <= after {
		w.t.Errorf("History after %d begins with %d", after, next)
	}
	for _, p := range h.Kept {
		if p.Topic != topic || p.At.Number != next || p.At.Epoch != h.Epoch {
			w.t.Fatalf("History after %d of %q in epoch %q: %q at %+v, want number %d", after, topic, h.Epoch, p.Topic, p.At, next)
		}
		next++
	}
	return h
}

func (w *layerWorld) append(l grouphub.Layer, queue, message string) {
	w.t.Helper()
	if err := l.Append(w.ctx, queue, []byte(message)); err != nil {
		w.t.Fatalf("Append: %v", err)
	}
}

func (w *layerWorld) take(l grouphub.Layer, queue, want string) {
	w.t.Helper()
	message, err := l.Take(w.ctx, queue)
	if err != nil || string(message) != want {
		w.t.Fatalf("Take: %q, %v, want %q", message, err, want)
	}
}

// layerHub is a receiver that keeps all it is given, and checks that no two calls for
// one topic overlap.
type layerHub struct {
	grouphub.Subscription
	name  string
	t     *testing.T
	world *layerWorld

	mu      sync.Mutex
	got     map[string][]grouphub.Publication // by topic
	busy    map[string]bool                   // topics with a call under way
	full    bool                              // Ready waits for its context
	closed  bool                              // no call is allowed any more
	changed chan struct{}                     // closed and replaced when got changes
}

func (h *layerHub) enter(call, topic string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.busy[topic] {
		h.t.Errorf("%s of %q while another call for it is under way", call, topic)
	}
	if h.closed {
		h.t.Errorf("%s of %q after the subscription was closed", call, topic)
	}
	h.busy[topic] = true
}

func (h *layerHub) Ready(ctx context.Context, topic string) error {
	h.enter("Ready", topic)
	runtime.Gosched()
	h.mu.Lock()
	full := h.full
	h.mu.Unlock()
	if full {
		<-ctx.Done()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.busy, topic)
	if full {
		return ctx.Err()
	}
	return nil
}

func (h *layerHub) Deliver(p grouphub.Publication) {
	h.enter("Deliver", p.Topic)
	runtime.Gosched()
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.busy, p.Topic)
	h.got[p.Topic] = append(h.got[p.Topic], p)
	close(h.changed)
	h.changed = make(chan struct{})
}

func (h *layerHub) Lost(topics []string) {
	h.t.Errorf("Lost(%q) while the layer was up", topics)
}

func (h *layerHub) add(topics ...string) {
	h.t.Helper()
	if err := h.Add(h.world.ctx, topics...); err != nil {
		h.t.Fatalf("Add: %v", err)
	}
}

// received returns what has arrived of a topic.
func (h *layerHub) received(topic string) []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.receivedLocked(topic)
}

func (h *layerHub) receivedLocked(topic string) []string {
	payloads := make([]string, len(h.got[topic]))
	for i, p := range h.got[topic] {
		payloads[i] = string(p.Payload)
	}
	return payloads
}

// await waits until n publications of the topic have arrived, and returns them all.
func (h *layerHub) await(topic string, n int) []string {
	h.t.Helper()
	for {
		h.mu.Lock()
		changed, got := h.changed, len(h.got[topic])
		h.mu.Unlock()
		if got >= n {
			return h.received(topic)
		}
		select {
		case <-changed:
		case <-h.world.ctx.Done():
			h.t.Fatalf("%s received %d of %d publications to %q", h.name, got, n, topic)
		}
	}
}

// expect waits for exactly these publications of the topic.
func (h *layerHub) expect(topic string, want ...string) {
	h.t.Helper()
	if got := h.await(topic, len(want)); !slices.Equal(got, want) {
		h.t.Fatalf("%s received %.200q of %q, want %.200q", h.name, got, topic, want)
	}
}

func testPublishReachesEverySubscriber(t *testing.T, w *layerWorld) {
	hubs := []*layerHub{w.hub(w.a, "one", "two"), w.hub(w.a, "one"), w.hub(w.b, "one")}
	w.publish(w.a, "one", "from a")
	w.publish(w.b, "one", "from b")
	w.publish(w.b, "two", "two")
	for _, h := range hubs {
		if got := h.await("one", 2); !slices.Contains(got, "from a") || !slices.Contains(got, "from b") {
			t.Errorf("%s received %q", h.name, got)
		}
	}
	hubs[0].expect("two", "two")
	for _, h := range hubs[1:] {
		h.add("last")
		w.publish(w.b, "last", "last")
		h.await("last", 1)
		if got := h.received("two"); len(got) != 0 {
			t.Errorf("%s received %q of a topic it is not subscribed to", h.name, got)
		}
	}
}

func testPublishWithoutSubscribers(t *testing.T, w *layerWorld) {
	w.publish(w.a, "nobody", "x")
	h := w.hub(w.a, "nobody")
	w.publish(w.b, "nobody", "y")
	h.expect("nobody", "y")
}

func testAttachSubscribes(t *testing.T, w *layerWorld) {
	first, second := w.hub(w.a), w.hub(w.b)
	for _, h := range []*layerHub{first, second} {
		h.add(h.name) // already subscribed: this only waits until it is in force
		w.publish(w.a, h.name, "x")
		h.expect(h.name, "x")
	}
}

func testAdded(t *testing.T, w *layerWorld) {
	h := w.hub(w.a)
	for i := range 100 {
		topic := fmt.Sprint("topic", i)
		h.add(topic)
		w.publish(w.b, topic, "x")
	}
	for i := range 100 {
		h.expect(fmt.Sprint("topic", i), "x")
	}
}

func testAddMany(t *testing.T, w *layerWorld) {
	h := w.hub(w.a)
	topics := make([]string, 5000)
	for i := range topics {
		topics[i] = fmt.Sprint("topic", i)
	}
	h.add(topics...)
	for i := 0; i < len(topics); i += 500 {
		w.publish(w.b, topics[i], topics[i])
		h.expect(topics[i], topics[i])
	}
	h.Remove(topics...)
}

func testAddTwice(t *testing.T, w *layerWorld) {
	h := w.hub(w.a, "topic", "topic")
	h.add("topic")
	w.publish(w.b, "topic", "one")
	w.publish(w.b, "topic", "two")
	h.expect("topic", "one", "two")
	h.Remove("topic")
	w.expectSilence(h, "topic")
}

// expectSilence waits until publications to the topic no longer reach the hub.
func (w *layerWorld) expectSilence(h *layerHub, topic string) {
	w.t.Helper()
	h.add("marker")
	ok := eventually(func() bool {
		had := len(h.received(topic))
		marker := len(h.received("marker")) + 1
		w.publish(w.a, topic, "x")
		w.publish(w.a, "marker", "x")
		h.await("marker", marker)
		// Two topics have no common order, but in a second they catch up.
		if len(h.received(topic)) != had {
			return false
		}
		time.Sleep(50 * time.Millisecond)
		return len(h.received(topic)) == had
	})
	if !ok {
		w.t.Errorf("%s still receives publications to %q", h.name, topic)
	}
}

func testAddFailed(t *testing.T, w *layerWorld) {
	h := w.hub(w.a, "kept")
	ctx, cancel := context.WithCancel(w.ctx)
	cancel()
	if err := h.Add(ctx, "kept", "new"); err != nil {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("Add: %v, want its context's error", err)
		}
		w.expectSilence(h, "new")
	}
	w.publish(w.b, "kept", "x")
	h.expect("kept", "x")
	had := len(h.received("new"))
	h.add("new")
	w.publish(w.b, "new", "y")
	if got := h.await("new", had+1); got[len(got)-1] != "y" {
		t.Errorf("received %q after Add, want y last", got)
	}
}

func testAddAfterRemove(t *testing.T, w *layerWorld) {
	h := w.hub(w.a)
	var want []string
	for i := range 50 {
		h.add("topic")
		want = append(want, fmt.Sprint(i))
		w.publish(w.b, "topic", fmt.Sprint(i))
		h.expect("topic", want...)
		h.Remove("topic")
	}
}

func testRemove(t *testing.T, w *layerWorld) {
	h, other := w.hub(w.a, "topic", "kept"), w.hub(w.b, "topic")
	h.Remove("topic", "never added")
	w.expectSilence(h, "topic")
	had := len(other.received("topic"))
	w.publish(w.a, "topic", "last")
	w.publish(w.a, "kept", "x")
	h.expect("kept", "x")
	other.await("topic", had+1)
}

func testOrder(t *testing.T, w *layerWorld) {
	hubs := []*layerHub{w.hub(w.a, "topic"), w.hub(w.b, "topic")}
	var want []string
	for i := range 1000 {
		want = append(want, fmt.Sprint(i))
		w.publish(w.b, "topic", want[i])
	}
	for _, h := range hubs {
		h.expect("topic", want...)
	}
}

func testOneOrder(t *testing.T, w *layerWorld) {
	const publishers, each = 8, 100
	hubs := []*layerHub{w.hub(w.a, "topic"), w.hub(w.a, "topic"), w.hub(w.a, "topic")}
	var wg sync.WaitGroup
	for i := range publishers {
		l := w.a
		if i%2 == 1 {
			l = w.b
		}
		wg.Go(func() {
			for j := range each {
				err := l.Publish(w.ctx, grouphub.Publication{Topic: "topic", Payload: fmt.Append(nil, i, ":", j)})
				if err != nil {
					t.Errorf("Publish: %v", err)
				}
			}
		})
	}
	wg.Wait()
	first := hubs[0].await("topic", publishers*each)
	for _, h := range hubs[1:] {
		h.expect("topic", first...)
	}
	next := make(map[string]int)
	for _, payload := range first {
		publisher, number, _ := strings.Cut(payload, ":")
		if number != fmt.Sprint(next[publisher]) {
			t.Fatalf("publisher %s: received %s, want %d", publisher, number, next[publisher])
		}
		next[publisher]++
	}
}

func testPayloads(t *testing.T, w *layerWorld) {
	hubs := []*layerHub{w.hub(w.a, "topic"), w.hub(w.a, "topic"), w.hub(w.b, "topic")}
	binary := make([]byte, 256)
	for i := range binary {
		binary[i] = byte(i)
	}
	var want []string
	var kept []string
	for _, payload := range [][]byte{nil, {}, {0}, {1}, {2}, {3}, []byte("\x03a 1 b x"), []byte("\r\n"), binary, bytes.Repeat(binary, 4096)} {
		kept = append(kept, string(payload))
		for _, keep := range []grouphub.Keep{{}, plenty} {
			want = append(want, string(payload))
			payload := bytes.Clone(payload)
			if err := w.a.Publish(w.ctx, grouphub.Publication{Topic: "topic", Payload: payload, Keep: keep}); err != nil {
				t.Fatalf("Publish: %v", err)
			}
			for i := range payload {
				payload[i] = 'x' // the sender's again: no receiver may see it
			}
		}
	}
	for i, p := range w.history(w.b, "topic", 0).Kept {
		if string(p.Payload) != kept[i] {
			t.Errorf("%d bytes %.20q are kept as %d bytes %.20q", len(kept[i]), kept[i], len(p.Payload), p.Payload)
		}
	}
	for _, h := range hubs {
		for i, got := range h.await("topic", len(want)) {
			if got != want[i] {
				t.Errorf("%d bytes %.20q arrived as %d bytes %.20q", len(want[i]), want[i], len(got), got)
			}
		}
	}
}

// oddNames are names that a careless layer mixes up or takes for a pattern.
var oddNames = []string{"a", "A", " a", "a ", "a*", "a?", "[a]", "{a}", "a}", "}", "{", "{}", "a{b}c", "a:b", "a/b",
	"a%7D", "%", "a\x00b", "a\r\nb", "\xff\xfe", "日本", "🙂", strings.Repeat("x", 300), strings.Repeat("}", 300)}

func testNames(t *testing.T, w *layerWorld) {
	h := w.hub(w.a, oddNames...)
	for _, name := range oddNames {
		w.publish(w.b, name, name)
		w.append(w.b, name, name)
		w.keep(w.b, name, name, plenty)
		for _, holder := range oddNames {
			w.lease(w.b, name, holder, []byte(name+holder), time.Minute, true)
		}
	}
	for _, name := range oddNames {
		h.expect(name, name, name)
		w.take(w.a, name, name)
		if h := w.history(w.a, name, 0); len(h.Kept) != 1 || string(h.Kept[0].Payload) != name {
			t.Errorf("history of %q: %+v", name, h.Kept)
		}
		leases := make(map[string]string)
		for _, holder := range oddNames {
			leases[holder] = name + holder
		}
		w.expectLeases(name, leases)
	}
}

func testPublishFailed(t *testing.T, w *layerWorld) {
	roomy, full := w.hub(w.a, "topic"), w.hub(w.a, "topic")
	full.mu.Lock()
	full.full = true
	full.mu.Unlock()
	ctx, cancel := context.WithTimeout(w.ctx, 50*time.Millisecond)
	defer cancel()
	err := w.a.Publish(ctx, grouphub.Publication{Topic: "topic", Payload: []byte("one")})
	full.mu.Lock()
	full.full = false
	full.mu.Unlock()
	w.publish(w.a, "topic", "two")
	want := []string{"one", "two"}
	if errors.Is(err, grouphub.ErrUnavailable) && errors.Is(err, context.DeadlineExceeded) {
		want = want[1:]
	} else if errors.Is(err, grouphub.ErrUncertain) {
		return
	} else if err != nil {
		t.Errorf("Publish without room: %v, want ErrUnavailable and the context's error", err)
	}
	roomy.expect("topic", want...)
	full.expect("topic", want...)
}

// testContexts calls everything with a context that has ended, and with one that ends
// while the call waits. A call that has nothing to wait for may go through. Any other
// returns now, with its context's error, and except for Take, which says no more than
// that, with ErrUnavailable or ErrUncertain.
func testContexts(t *testing.T, w *layerWorld) {
	h, full := w.hub(w.a, "topic"), w.hub(w.a, "full")
	full.mu.Lock()
	full.full = true
	full.mu.Unlock()
	publish := func(topic string, keep grouphub.Keep) func(context.Context) error {
		return func(ctx context.Context) error {
			return w.a.Publish(ctx, grouphub.Publication{Topic: topic, Payload: []byte("x"), Keep: keep})
		}
	}
	take := func(l grouphub.Layer) func(context.Context) error {
		return func(ctx context.Context) error {
			message, err := l.Take(ctx, "empty")
			if err == nil {
				err = fmt.Errorf("%q, and no error", message)
			}
			return err
		}
	}
	// finish waits for a call whose context has ended.
	finish := func(call string, result <-chan error) {
		t.Helper()
		select {
		case err := <-result:
			switch {
			case strings.HasPrefix(call, "Take"):
				if !errors.Is(err, context.Canceled) {
					t.Errorf("%s: %v, want its context's error", call, err)
				}
			case err != nil && (!errors.Is(err, grouphub.ErrUnavailable) && !errors.Is(err, grouphub.ErrUncertain) || !errors.Is(err, context.Canceled)):
				t.Errorf("%s: %v, want none, or ErrUnavailable or ErrUncertain together with its context's error", call, err)
			}
		case <-time.After(contextPatience):
			t.Errorf("%s: still waiting %v after its context has ended", call, contextPatience)
		}
	}
	begin := func(ctx context.Context, call func(context.Context) error) <-chan error {
		result := make(chan error, 1)
		go func() { result <- call(ctx) }()
		return result
	}

	over, cancel := context.WithCancel(w.ctx)
	cancel()
	for _, c := range []struct {
		name string
		call func(context.Context) error
	}{
		{"Publish", publish("topic", grouphub.Keep{})},
		{"Publish of what is kept", publish("topic", plenty)},
		{"Publish where there is no room", publish("full", grouphub.Keep{})},
		{"Publish of what is kept where there is no room", publish("full", plenty)},
		{"History", func(ctx context.Context) error {
			_, err := w.a.History(ctx, "topic", 0)
			return err
		}},
		{"Lease", func(ctx context.Context) error {
			_, err := w.a.Lease(ctx, "topic", "holder", []byte("x"), time.Minute)
			return err
		}},
		{"Lease that is prolonged", func(ctx context.Context) error {
			_, err := w.a.Lease(ctx, "topic", "holder", nil, time.Minute)
			return err
		}},
		{"Lease that ends", func(ctx context.Context) error {
			_, err := w.a.Lease(ctx, "topic", "holder", nil, 0)
			return err
		}},
		{"Leases", func(ctx context.Context) error {
			_, err := w.a.Leases(ctx, "topic")
			return err
		}},
		{"Append", func(ctx context.Context) error { return w.a.Append(ctx, "appended", []byte("x")) }},
		{"Add", func(ctx context.Context) error { return h.Add(ctx, "more") }},
		{"Take", take(w.a)},
	} {
		finish(c.name+" with a context that is over", begin(over, c.call))
	}

	// Another's Take that waits is in nobody's way.
	waiting, stop := context.WithCancel(w.ctx)
	defer stop()
	taking, publishing := begin(waiting, take(w.a)), begin(waiting, publish("full", grouphub.Keep{}))
	finish("Take beside another, with a context that is over", begin(over, take(w.b)))
	stop()
	finish("Take whose context ends", taking)
	finish("Publish where there is no room, whose context ends", publishing)
}

func testUp(t *testing.T, w *layerWorld) {
	h := w.hub(w.a, "topic")
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

func testSubscriptionClose(t *testing.T, w *layerWorld) {
	h, other := w.hub(w.a, "topic"), w.hub(w.b, "topic")
	ctx, cancel := context.WithCancel(w.ctx)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				w.b.Publish(ctx, grouphub.Publication{Topic: "topic", Payload: []byte("x")})
				runtime.Gosched()
			}
		})
	}
	h.await("topic", 10)
	if err := h.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	h.mu.Lock()
	h.closed = true
	h.mu.Unlock()
	other.await("topic", len(other.received("topic"))+20)
	cancel()
	wg.Wait()
	if err := h.Add(w.ctx, "topic"); !errors.Is(err, grouphub.ErrClosed) {
		t.Errorf("Add after Close: %v, want ErrClosed", err)
	}
	h.Remove("topic")
	again := w.hub(w.a, "topic") // the layer is not closed
	w.publish(w.b, "topic", "last")
	if got := again.await("topic", 1); got[len(got)-1] != "last" {
		again.await("topic", len(got)+1)
	}
}

// plenty keeps what a case publishes.
var plenty = grouphub.Keep{Count: 1000, Life: time.Minute}

func testKeep(t *testing.T, w *layerWorld) {
	const publishers, each = 6, 50
	hubs := []*layerHub{w.hub(w.a, "topic"), w.hub(w.a, "topic"), w.hub(w.b, "topic")}
	var wg sync.WaitGroup
	for i := range publishers {
		l := w.a
		if i%2 == 1 {
			l = w.b
		}
		wg.Go(func() {
			for j := range each {
				err := l.Publish(w.ctx, grouphub.Publication{Topic: "topic", Payload: fmt.Append(nil, i, ":", j), Keep: plenty})
				if err != nil {
					t.Errorf("Publish: %v", err)
				}
			}
		})
	}
	wg.Wait()
	kept := w.history(w.b, "topic", 0)
	if kept.Last != publishers*each || len(kept.Kept) != publishers*each || kept.Epoch == "" {
		t.Fatalf("%d publications are kept, epoch %q, last %d, want %d", len(kept.Kept), kept.Epoch, kept.Last, publishers*each)
	}
	for _, h := range hubs {
		h.await("topic", publishers*each)
		h.mu.Lock()
		for i, p := range h.got["topic"] {
			if want := kept.Kept[i]; p.At != want.At || !bytes.Equal(p.Payload, want.Payload) {
				t.Errorf("%s received %q at %+v, History says %q at %+v", h.name, p.Payload, p.At, want.Payload, want.At)
			}
		}
		h.mu.Unlock()
	}
}

func testKeepOrder(t *testing.T, w *layerWorld) {
	hubs := []*layerHub{w.hub(w.a, "topic"), w.hub(w.b, "topic")}
	var want []string
	for i := range 200 {
		keep := plenty
		if i%2 == 1 {
			keep = grouphub.Keep{}
		}
		want = append(want, fmt.Sprint(i))
		w.keep(w.a, "topic", want[i], keep)
	}
	for _, h := range hubs {
		h.expect("topic", want...)
		h.mu.Lock()
		for i, p := range h.got["topic"] {
			if kept := p.At != (grouphub.Position{}); kept != (i%2 == 0) {
				t.Errorf("%s received %q at %+v", h.name, p.Payload, p.At)
			}
		}
		h.mu.Unlock()
	}
	if h := w.history(w.b, "topic", 0); h.Last != 100 || len(h.Kept) != 100 {
		t.Errorf("%d are kept, last %d, want 100", len(h.Kept), h.Last)
	}
}

func testHistoryAfter(t *testing.T, w *layerWorld) {
	for _, after := range []uint64{0, 1, 1 << 62} {
		if h := w.history(w.a, "nothing", after); h.Epoch != "" || h.Last != 0 || len(h.Kept) != 0 {
			t.Errorf("History of a topic that nothing was published to: %+v", h)
		}
	}
	for i := range 20 {
		w.keep(w.a, "topic", fmt.Sprint(i+1), plenty) // without a subscriber
		w.keep(w.b, "other", "x", plenty)
	}
	for _, after := range []uint64{0, 1, 19, 20, 21, 1 << 62} {
		h := w.history(w.b, "topic", after)
		if want := 20 - int(min(after, 20)); h.Last != 20 || len(h.Kept) != want {
			t.Errorf("History after %d: %d publications, last %d, want %d and 20", after, len(h.Kept), h.Last, want)
		}
		for _, p := range h.Kept {
			if string(p.Payload) != fmt.Sprint(p.At.Number) {
				t.Errorf("%q has number %d", p.Payload, p.At.Number)
			}
		}
	}
}

func testHistoryCount(t *testing.T, w *layerWorld) {
	const count, published = 10, 500
	for i := range published {
		w.keep(w.a, "topic", fmt.Sprint(i+1), grouphub.Keep{Count: count, Life: time.Minute})
	}
	h := w.history(w.b, "topic", 0)
	if n := len(h.Kept); n < count || n > published/2 || h.Last != published {
		t.Errorf("%d of %d publications are kept, last %d, want %d", n, published, h.Last, count)
	}
}

func testHistoryLife(t *testing.T, w *layerWorld) {
	short := grouphub.Keep{Count: 10, Life: time.Second}
	w.hub(w.a, "topic")
	w.keep(w.a, "topic", "one", short)
	w.keep(w.a, "long", "long", plenty)
	epoch := w.history(w.a, "topic", 0).Epoch
	if !eventually(func() bool { return len(w.history(w.b, "topic", 0).Kept) == 0 }) {
		t.Fatal("what was kept for a second is still there")
	}
	w.keep(w.b, "topic", "two", short)
	if h := w.history(w.a, "topic", 0); h.Epoch != epoch || h.Last != 2 || len(h.Kept) != 1 {
		t.Errorf("epoch %q, last %d, %d kept after the end of the first, want %q, 2, 1", h.Epoch, h.Last, len(h.Kept), epoch)
	}
	if h := w.history(w.a, "long", 0); len(h.Kept) != 1 {
		t.Error("what was to be kept for a minute is gone after a second")
	}
}

func testHistoryView(t *testing.T, w *layerWorld) {
	var publishing, reading sync.WaitGroup
	published := make(chan struct{})
	for range 4 {
		publishing.Go(func() {
			for range 100 {
				err := w.a.Publish(w.ctx, grouphub.Publication{Topic: "topic", Payload: []byte("x"), Keep: plenty})
				if err != nil {
					t.Errorf("Publish: %v", err)
				}
			}
		})
	}
	for i := range 4 {
		reading.Go(func() {
			for after := uint64(0); ; after += uint64(i) { // some read all of it, some what is new
				h, err := w.b.History(w.ctx, "topic", after)
				if err != nil || len(h.Kept) != int(h.Last-min(after, h.Last)) {
					t.Errorf("History after %d: %d publications, last %d, %v", after, len(h.Kept), h.Last, err)
				}
				select {
				case <-published:
					return
				default:
				}
			}
		})
	}
	publishing.Wait()
	close(published)
	reading.Wait()
	if h := w.history(w.b, "topic", 0); len(h.Kept) != 400 {
		t.Errorf("%d publications are kept, want 400", len(h.Kept))
	}
}

func testOnce(t *testing.T, w *layerWorld) {
	h := w.hub(w.a, "topic", "other")
	once := func(key string) grouphub.Keep {
		keep := plenty
		keep.Once = key
		return keep
	}
	var wg sync.WaitGroup
	for _, l := range []grouphub.Layer{w.a, w.b, w.a, w.b} {
		wg.Go(func() {
			for range 10 {
				if err := l.Publish(w.ctx, grouphub.Publication{Topic: "topic", Payload: []byte("x"), Keep: once("key")}); err != nil {
					t.Errorf("Publish: %v", err)
				}
			}
		})
	}
	wg.Wait()
	want := []string{"x"}
	for _, key := range append(oddNames, strings.Repeat("long", 1000)) {
		w.keep(w.b, "topic", key, once(key))
		w.keep(w.a, "topic", key, once(key))
		want = append(want, key)
	}
	w.keep(w.b, "other", "of another topic", once("key"))
	w.keep(w.b, "topic", "no key", plenty)
	w.keep(w.b, "topic", "no key", plenty)
	h.expect("topic", append(want, "no key", "no key")...)
	h.expect("other", "of another topic")
	if got := w.history(w.b, "topic", 0); len(got.Kept) != len(want)+2 {
		t.Errorf("%d publications are kept, want %d", len(got.Kept), len(want)+2)
	}
}

// expectLeases compares a topic's leases, as both ends see them.
func (w *layerWorld) expectLeases(topic string, want map[string]string) {
	w.t.Helper()
	for _, l := range []grouphub.Layer{w.a, w.b} {
		leases, err := l.Leases(w.ctx, topic)
		if err != nil {
			w.t.Fatalf("Leases: %v", err)
		}
		same := len(leases) == len(want)
		for holder, value := range want {
			got, ok := leases[holder]
			same = same && ok && string(got) == value
		}
		if !same {
			w.t.Errorf("leases of %q: %.300q, want %.300q", topic, leases, want)
		}
		for _, value := range leases {
			clear(value) // the caller's
		}
	}
}

func (w *layerWorld) lease(l grouphub.Layer, topic, holder string, value []byte, life time.Duration, want bool) {
	w.t.Helper()
	if ok, err := l.Lease(w.ctx, topic, holder, value, life); ok != want || err != nil {
		w.t.Errorf("Lease of %.20q to %.20q: %v, %v, want %v", topic, holder, ok, err, want)
	}
}

func testLeases(t *testing.T, w *layerWorld) {
	w.expectLeases("topic", nil)
	w.lease(w.a, "topic", "one", nil, time.Minute, false) // there is nothing to prolong
	w.expectLeases("topic", nil)
	value := []byte("first")
	w.lease(w.a, "topic", "one", value, time.Minute, true)
	clear(value)
	w.lease(w.b, "topic", "two", []byte{}, time.Minute, true)
	w.lease(w.b, "other", "one", []byte("other"), time.Minute, true)
	w.expectLeases("topic", map[string]string{"one": "first", "two": ""})
	w.lease(w.b, "topic", "one", nil, time.Minute, true)
	w.expectLeases("topic", map[string]string{"one": "first", "two": ""})
	large := bytes.Repeat([]byte{0, 1, 0xff}, 1<<16)
	w.lease(w.a, "topic", "one", large, time.Minute, true)
	w.expectLeases("topic", map[string]string{"one": string(large), "two": ""})
	w.lease(w.a, "topic", "one", nil, 0, true)
	w.lease(w.a, "topic", "one", nil, time.Minute, false)
	w.lease(w.a, "topic", "two", []byte("not nil"), 0, true)
	w.lease(w.a, "topic", "never", nil, 0, true)
	w.expectLeases("topic", nil)
	w.expectLeases("other", map[string]string{"one": "other"})
}

func testLeaseLife(t *testing.T, w *layerWorld) {
	w.lease(w.a, "topic", "short", []byte("short"), time.Second, true)
	w.lease(w.a, "topic", "long", []byte("long"), time.Second, true)
	w.lease(w.b, "topic", "long", nil, time.Minute, true)
	w.lease(w.a, "other", "short", []byte("alone"), time.Second, true)
	w.expectLeases("topic", map[string]string{"short": "short", "long": "long"})
	gone := func(topic string, left int) bool {
		return eventually(func() bool {
			leases, err := w.b.Leases(w.ctx, topic)
			if err != nil {
				t.Fatalf("Leases: %v", err)
			}
			return len(leases) == left
		})
	}
	if !gone("topic", 1) || !gone("other", 0) {
		t.Error("a lease of a second does not end")
	}
	w.lease(w.a, "topic", "short", nil, time.Minute, false)
	w.expectLeases("topic", map[string]string{"long": "long"})
}

func testQueueOrder(t *testing.T, w *layerWorld) {
	for i := range 50 {
		w.append(w.a, "queue", fmt.Sprint(i))
	}
	w.append(w.b, "other", "other")
	for i := range 50 {
		w.take(w.b, "queue", fmt.Sprint(i))
	}
	w.take(w.a, "other", "other")
}

func testQueueOneTaker(t *testing.T, w *layerWorld) {
	const messages = 80
	ctx, cancel := context.WithCancel(w.ctx)
	took := make(chan string, 2*messages)
	var wg sync.WaitGroup
	for i := range 4 {
		l := w.a
		if i%2 == 1 {
			l = w.b
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
		w.append(w.a, "queue", fmt.Sprint(i))
	}
	times := make(map[string]int)
	for range messages {
		select {
		case message := <-took:
			times[message]++
		case <-w.ctx.Done():
			t.Fatalf("%d of %d messages were taken", len(times), messages)
		}
	}
	cancel()
	wg.Wait()
	if len(times) != messages || len(took) != 0 {
		t.Errorf("%d different messages of %d, and %d more", len(times), messages, len(took))
	}
}

func testQueueWakes(t *testing.T, w *layerWorld) {
	took := make(chan string)
	for i := range 5 {
		go func() {
			message, err := w.a.Take(w.ctx, "queue")
			if err != nil {
				t.Errorf("Take: %v", err)
			}
			took <- string(message)
		}()
		w.append(w.b, "queue", fmt.Sprint(i))
		if got := <-took; got != fmt.Sprint(i) {
			t.Errorf("took %q, want %d", got, i)
		}
	}
}

func testQueueFull(t *testing.T, w *layerWorld) {
	const most = 1000
	capacity := 0
	for ; capacity <= most; capacity++ {
		err := w.a.Append(w.ctx, "queue", fmt.Append(nil, capacity))
		if errors.Is(err, grouphub.ErrQueueFull) {
			break
		} else if err != nil {
			t.Fatalf("Append: %v", err)
		}
	}
	if capacity == 0 || capacity > most {
		t.Fatalf("%d messages fit into the queue", capacity)
	}
	w.append(w.a, "other", "x") // a full queue is nobody else's trouble
	w.take(w.b, "queue", "0")
	w.append(w.b, "queue", "last")
	if err := w.b.Append(w.ctx, "queue", []byte("more")); !errors.Is(err, grouphub.ErrQueueFull) {
		t.Errorf("Append to a full queue: %v, want ErrQueueFull", err)
	}
	w.take(w.a, "queue", "1")
}

func testQueueTakerLeaves(t *testing.T, w *layerWorld) {
	for i := range 50 {
		ctx, cancel := context.WithCancel(w.ctx)
		took := make(chan string)
		go func() {
			message, err := w.a.Take(ctx, "queue")
			if err != nil && !errors.Is(err, context.Canceled) {
				t.Errorf("Take: %v", err)
			}
			took <- string(message)
		}()
		go cancel()
		w.append(w.b, "queue", fmt.Sprint(i))
		if message := <-took; message == "" {
			w.take(w.b, "queue", fmt.Sprint(i))
		} else if message != fmt.Sprint(i) {
			t.Fatalf("took %q, want %d", message, i)
		}
	}
}

func testQueueSlices(t *testing.T, w *layerWorld) {
	message := bytes.Repeat([]byte{0, 1, 2, 0xff}, 1<<16)
	want := bytes.Clone(message)
	for range 2 {
		if err := w.a.Append(w.ctx, "queue", message); err != nil {
			t.Fatalf("Append: %v", err)
		}
	}
	clear(message)
	for range 2 {
		got, err := w.b.Take(w.ctx, "queue")
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("Take: %d bytes, %v, want the %d that were appended", len(got), err, len(want))
		}
		clear(got)
	}
	w.append(w.a, "queue", "")
	w.take(w.b, "queue", "")
}

func testEverythingAtOnce(t *testing.T, w *layerWorld) {
	hubs := []*layerHub{w.hub(w.a), w.hub(w.b)}
	var wg sync.WaitGroup
	for i := range 8 {
		h, l := hubs[i%2], w.b
		if i%4 < 2 {
			l = w.a
		}
		topic, queue := fmt.Sprint("topic", i/2), fmt.Sprint("queue", i)
		wg.Go(func() {
			for j := range 25 {
				if err := h.Add(w.ctx, topic, fmt.Sprint("own", i)); err != nil {
					t.Errorf("Add: %v", err)
				}
				if err := l.Publish(w.ctx, grouphub.Publication{Topic: topic, Payload: fmt.Append(nil, j)}); err != nil {
					t.Errorf("Publish: %v", err)
				}
				if err := l.Publish(w.ctx, grouphub.Publication{Topic: topic, Payload: fmt.Append(nil, j), Keep: plenty}); err != nil {
					t.Errorf("Publish: %v", err)
				}
				if _, err := l.History(w.ctx, topic, uint64(j)); err != nil {
					t.Errorf("History: %v", err)
				}
				if ok, err := l.Lease(w.ctx, topic, queue, []byte{byte(j)}, time.Minute); err != nil || !ok {
					t.Errorf("Lease: %v, %v", ok, err)
				}
				if leases, err := l.Leases(w.ctx, topic); err != nil || !bytes.Equal(leases[queue], []byte{byte(j)}) {
					t.Errorf("Leases: %q, %v", leases, err)
				}
				h.Remove(topic)
				if err := l.Append(w.ctx, queue, fmt.Append(nil, j)); err != nil {
					t.Errorf("Append: %v", err)
				}
				if got, err := l.Take(w.ctx, queue); err != nil || string(got) != fmt.Sprint(j) {
					t.Errorf("Take: %q, %v, want %d", got, err, j)
				}
				h.Up()
			}
		})
	}
	wg.Wait()
	for _, h := range hubs {
		h.add("last")
		w.publish(w.a, "last", "x")
		h.await("last", 1)
	}
}

func testClose(t *testing.T, w *layerWorld) {
	h := w.hub(w.a, "topic")
	took := make(chan error, 2)
	go func() {
		_, err := w.a.Take(w.ctx, "queue")
		took <- err
	}()
	go func() {
		// Whether this one begins before or after Close, it ends with ErrClosed.
		_, err := w.a.Take(w.ctx, "other")
		took <- err
	}()
	w.publish(w.a, "topic", "x")
	h.expect("topic", "x")
	w.close()
	h.mu.Lock()
	h.closed = true
	h.mu.Unlock()
	_, attach := w.a.Attach("late", &layerHub{t: t, busy: make(map[string]bool)})
	_, take := w.a.Take(w.ctx, "queue")
	_, history := w.a.History(w.ctx, "topic", 0)
	_, lease := w.a.Lease(w.ctx, "topic", "holder", nil, time.Minute)
	_, leases := w.a.Leases(w.ctx, "topic")
	for call, err := range map[string]error{
		"Attach":           attach,
		"Publish":          w.a.Publish(w.ctx, grouphub.Publication{Topic: "topic", Payload: []byte("y")}),
		"History":          history,
		"Lease":            lease,
		"Leases":           leases,
		"Append":           w.a.Append(w.ctx, "queue", []byte("y")),
		"Take":             take,
		"Take that waited": <-took,
		"Take that began":  <-took,
		"Add":              h.Add(w.ctx, "topic"),
		"Close":            w.a.Close(),
	} {
		if !errors.Is(err, grouphub.ErrClosed) {
			t.Errorf("%s after Close: %v, want ErrClosed", call, err)
		}
	}
	h.Remove("topic")
	if h.Up() {
		t.Error("Up is true after Close")
	}
	if err := h.Subscription.Close(); err != nil && !errors.Is(err, grouphub.ErrClosed) {
		t.Errorf("closing a subscription after its layer: %v", err)
	}
}
