package grouphub_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/rueidis"
	"github.com/seed-29c60982/grouphub"
)

// redisHub keeps what it receives, and signals changes.
type redisHub struct {
	grouphub.Subscription
	t       *testing.T
	name    string        // its own topic, which is not among what is noted as lost
	changed chan struct{} // has room for one

	mu   sync.Mutex
	got  []string // payloads, in order
	lost []string // topics, those of each call sorted
}

func attachRedis(t *testing.T, l grouphub.Layer, topics ...string) *redisHub {
	t.Helper()
	h := &redisHub{t: t, name: fmt.Sprint("hub", redisPrefixes.Add(1)), changed: make(chan struct{}, 1)}
	h.Subscription = attach(t, l, h.name, h, topics...)
	return h
}

func (h *redisHub) Ready(context.Context, string) error { return nil }

func (h *redisHub) Deliver(p grouphub.Publication) { h.note(&h.got, string(p.Payload)) }

func (h *redisHub) Lost(topics []string) {
	topics = slices.DeleteFunc(topics, func(topic string) bool { return topic == h.name })
	slices.Sort(topics)
	h.note(&h.lost, topics...)
}

func (h *redisHub) note(where *[]string, what ...string) {
	h.mu.Lock()
	*where = append(*where, what...)
	h.mu.Unlock()
	select {
	case h.changed <- struct{}{}:
	default:
	}
}

func (h *redisHub) state() (got, lost []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.got), slices.Clone(h.lost)
}

// until waits for a state.
func (h *redisHub) until(what string, condition func(got, lost []string) bool) {
	h.t.Helper()
	patience := time.After(30 * time.Second)
	for {
		got, lost := h.state()
		if condition(got, lost) {
			return
		}
		select {
		case <-h.changed:
		case <-patience:
			h.t.Fatalf("waited for %s: received %.300q, lost %.300q", what, got, lost)
		}
	}
}

func (h *redisHub) untilReceived(payload string) {
	h.t.Helper()
	h.until(payload, func(got, _ []string) bool { return slices.Contains(got, payload) })
}

func (h *redisHub) untilLost(topics ...string) {
	h.t.Helper()
	h.until("Lost", func(_, lost []string) bool { return slices.Equal(lost, topics) })
}

// await polls for what gives no signal.
func await(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for patience := time.Now().Add(30 * time.Second); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(patience) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func mustPublish(t *testing.T, l grouphub.Layer, topic, payload string) {
	t.Helper()
	if err := l.Publish(context.Background(), publication(topic, payload)); err != nil {
		t.Fatal(err)
	}
}

func TestNewRedisLayerSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0") // accepts, and never answers
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	absent := miniredis.NewMiniRedis()
	if err := absent.Start(); err != nil {
		t.Fatal(err)
	}
	absentAddress := absent.Addr()
	absent.Close()
	locked := miniredis.RunT(t)
	locked.RequireAuth("other")
	for _, c := range []struct {
		url, want string
		opts      *grouphub.RedisOptions
	}{
		{"127.0.0.1:6379", "invalid redis URL", nil},
		{"redis://:hunter2@host:port", "invalid redis URL", nil},
		{"redis://:hun/ter2@127.0.0.1:1", "invalid redis URL", nil},
		{"redis://:%zhunter2@127.0.0.1:1", "invalid redis URL", nil},
		{"", "invalid redis URL", nil},
		{"redis://:hunter2@" + absentAddress, absentAddress, nil},
		{"redis://:hunter2@" + listener.Addr().String(), listener.Addr().String(), nil},
		{"redis://:hunter2@" + locked.Addr(), "WRONGPASS", nil},
		{"redis://" + locked.Addr(), "NOAUTH", nil},
		{"redis://" + locked.Addr(), "brace", &grouphub.RedisOptions{Prefix: "{app}"}},
		{"redis://" + locked.Addr(), "empty", &grouphub.RedisOptions{EncryptionKeys: []string{"a", ""}}},
		{"redis://" + locked.Addr(), "negative", &grouphub.RedisOptions{QueueCapacity: -1}},
	} {
		start := time.Now()
		_, err := grouphub.NewRedisLayer(c.url, c.opts)
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "grouphub: ") {
			t.Errorf("%s: %v, want an error with %q", c.url, err, c.want)
		}
		if err != nil && (strings.Contains(err.Error(), "hun") || strings.Contains(err.Error(), "ter2")) {
			t.Errorf("%s: the error shows the password: %v", c.url, err)
		}
		if took := time.Since(start); took > 6*time.Second {
			t.Errorf("%s: took %v, want 5s at most", c.url, took)
		}
	}
}

func TestRedisRestartIsSurvived(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	l := redisLayer(t, s.url(), nil)
	h := attachRedis(t, l, "one", "two")
	mustPublish(t, l, "one", "before")
	h.untilReceived("before")
	await(t, "Up", h.Up)
	s.kill()
	await(t, "Up to be false", func() bool { return !h.Up() })
	for _, call := range []func(context.Context) error{
		func(ctx context.Context) error { return l.Publish(ctx, publication("one", "x")) },
		func(ctx context.Context) error { return l.Append(ctx, "queue", []byte("x")) },
		func(ctx context.Context) error { return h.Add(ctx, "three") },
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		start := time.Now()
		// A command on its way while the connection broke may be uncertain.
		if err := call(ctx); !errors.Is(err, grouphub.ErrUnavailable) && !errors.Is(err, grouphub.ErrUncertain) {
			t.Errorf("%v, want ErrUnavailable", err)
		}
		if took := time.Since(start); took > time.Second {
			t.Errorf("took %v, want no more than its context", took)
		}
		cancel()
	}
	if err := l.Publish(t.Context(), publication("one", "x")); !errors.Is(err, grouphub.ErrUnavailable) {
		t.Errorf("Publish while the server is down: %v, want ErrUnavailable", err)
	}
	if err := s.start(); err != nil {
		t.Fatal(err)
	}
	back := time.Now()
	h.untilLost("one", "two")
	await(t, "Up", h.Up)
	mustPublish(t, l, "one", "after")
	h.untilReceived("after")
	if took := time.Since(back); took > 5*time.Second {
		t.Errorf("publications flow again after %v, want 5s at most", took)
	}
	if got, _ := h.state(); !slices.Equal(got, []string{"before", "after"}) {
		t.Errorf("received %q", got)
	}
}

func TestRedisSubscriberThatIsKilledAgainAndAgain(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	l := redisLayer(t, s.url(), nil)
	h := attachRedis(t, l, "topic")
	var sent []string
	for i := range 20 {
		s.cli("CLIENT", "KILL", "TYPE", "pubsub")
		for j := range 10 {
			sent = append(sent, fmt.Sprint(i, ":", j))
			mustPublish(t, l, "topic", sent[len(sent)-1])
		}
	}
	h.until("Lost", func(_, lost []string) bool { return len(lost) > 0 })
	await(t, "Up", h.Up)
	h.Add(t.Context(), "more")
	mustPublish(t, l, "topic", "last")
	h.untilReceived("last")
	got, _ := h.state()
	rest := sent // what arrived is a subsequence: in order, nothing twice
	for _, payload := range got[:len(got)-1] {
		i := slices.Index(rest, payload)
		if i < 0 {
			t.Fatalf("received %q out of order or twice: %q", payload, got)
		}
		rest = rest[i+1:]
	}
	s.cli("CLIENT", "KILL", "TYPE", "normal")
	await(t, "Publish to work again", func() bool { return l.Publish(t.Context(), publication("topic", "again")) == nil })
	h.untilReceived("again")
}

func TestRedisThatIsFrozenKeepsNobodyLongerThanHisContext(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	l := redisLayer(t, s.url(), nil)
	h := attachRedis(t, l, "topic")
	var wg sync.WaitGroup
	s.process.Process.Signal(syscall.SIGSTOP)
	defer s.process.Process.Signal(syscall.SIGCONT)
	for range 1500 {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
			defer cancel()
			start := time.Now()
			err := l.Publish(ctx, publication("topic", "x"))
			if !errors.Is(err, grouphub.ErrUnavailable) && !errors.Is(err, grouphub.ErrUncertain) || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%v, want ErrUnavailable or ErrUncertain, and the context's error", err)
			}
			if took := time.Since(start); took > 2*time.Second {
				t.Errorf("took %v, want 200ms", took)
			}
		})
	}
	wg.Wait()
	await(t, "Up to be false", func() bool { return !h.Up() })
	start := time.Now()
	if err := l.Close(); err != nil || time.Since(start) > 3*time.Second {
		t.Errorf("Close of a layer whose server is frozen: %v after %v", err, time.Since(start))
	}
}

func TestRedisUnavailableMeansNeverAndUncertainPerhaps(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	l := redisLayer(t, s.url(), nil)
	h := attachRedis(t, l, "topic")
	s.process.Process.Signal(syscall.SIGSTOP)
	// As many as there are pipelines are on their way.
	for _, want := range []error{grouphub.ErrUncertain, grouphub.ErrUncertain, grouphub.ErrUnavailable, grouphub.ErrUnavailable} {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		err := l.Publish(ctx, publication("topic", want.Error()))
		if !errors.Is(err, want) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v, want %v and the context's error", err, want)
		}
		cancel()
	}
	s.process.Process.Signal(syscall.SIGCONT)
	await(t, "Publish to work again", func() bool { return l.Publish(t.Context(), publication("topic", "after")) == nil })
	h.untilReceived("after")
	if got, _ := h.state(); slices.Contains(got, grouphub.ErrUnavailable.Error()) {
		t.Errorf("received %q: what was unavailable went out", got)
	}
}

func TestRedisErrorsSayThatNothingHappened(t *testing.T) {
	t.Parallel()
	m := miniredis.RunT(t)
	l := redisLayer(t, "redis://"+m.Addr(), nil)
	h := attachRedis(t, l, "topic")
	for _, answer := range []string{"LOADING Redis is loading the dataset in memory", "READONLY You can't write against a read only replica.",
		"NOAUTH Authentication required.", "CLUSTERDOWN The cluster is down", "MASTERDOWN Link with MASTER is down"} {
		m.SetError(answer)
		for _, err := range []error{
			l.Publish(t.Context(), publication("topic", "x")),
			l.Append(t.Context(), "queue", []byte("x")),
		} {
			if !errors.Is(err, grouphub.ErrUnavailable) || !strings.Contains(err.Error(), answer) {
				t.Errorf("%v, want ErrUnavailable with %q", err, answer)
			}
		}
	}
	m.SetError("")
	mustPublish(t, l, "topic", "last")
	h.untilReceived("last")
	if got, _ := h.state(); len(got) != 1 {
		t.Errorf("received %q, want only the last", got)
	}
}

func TestRedisThatIsFullRefuses(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	l := redisLayer(t, s.url(), nil)
	s.cli("CONFIG", "SET", "maxmemory", "1")
	if err := l.Append(t.Context(), "queue", []byte("x")); !errors.Is(err, grouphub.ErrUnavailable) || !strings.Contains(err.Error(), "OOM") {
		t.Errorf("Append to a full server: %v, want ErrUnavailable with OOM", err)
	}
	s.cli("CONFIG", "SET", "maxmemory", "0")
	if err := l.Append(t.Context(), "queue", []byte("y")); err != nil {
		t.Error(err)
	}
	s.cli("SCRIPT", "FLUSH")
	if message, err := l.Take(t.Context(), "queue"); err != nil || string(message) != "y" {
		t.Errorf("took %q, %v after SCRIPT FLUSH, want y", message, err)
	}
}

func TestRedisThatForgetsItsScriptsIsNotNoticed(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	l := redisLayer(t, s.url(), nil)
	h := attachRedis(t, l, "topic")
	check := func(what string, err error, ok bool) {
		t.Helper()
		if err != nil || !ok {
			t.Errorf("%s: %v, and its result is good: %v", what, err, ok)
		}
	}
	// every calls each script once, and before before each of them.
	every := func(round int, before func()) {
		p := publication("topic", fmt.Sprint(round))
		p.Keep = grouphub.Keep{Count: 100, Life: time.Minute}
		before()
		check("Publish", l.Publish(t.Context(), p), true)
		p.Keep.Once = "key" // of the first round
		before()
		check("Publish with a key", l.Publish(t.Context(), p), true)
		before()
		history, err := l.History(t.Context(), "topic", 0)
		check("History", err, len(history.Kept) == round+2)
		before()
		ok, err := l.Lease(t.Context(), "topic", "holder", []byte("x"), time.Minute)
		check("Lease", err, ok)
		before()
		ok, err = l.Lease(t.Context(), "topic", "holder", nil, time.Minute)
		check("Lease that is prolonged", err, ok)
		before()
		leases, err := l.Leases(t.Context(), "topic")
		check("Leases", err, string(leases["holder"]) == "x")
		before()
		ok, err = l.Lease(t.Context(), "topic", "holder", nil, 0)
		check("Lease that ends", err, ok)
		before()
		check("Append", l.Append(t.Context(), "queue", []byte("x")), true)
		before()
		message, err := l.Take(t.Context(), "queue")
		check("Take", err, string(message) == "x")
	}
	every(0, func() { s.cli("SCRIPT", "FLUSH") })
	client := s.client()
	flushing, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		for flushing.Err() == nil {
			client.Do(context.Background(), client.B().ScriptFlush().Build())
		}
	})
	for round := range 100 {
		every(round+1, func() {})
	}
	stop()
	running.Wait()
	mustPublish(t, l, "topic", "last")
	h.untilReceived("last")
	want := []string{"0", "0"} // the second with its key
	for round := range 100 {
		want = append(want, fmt.Sprint(round+1))
	}
	if got, _ := h.state(); !slices.Equal(got, append(want, "last")) {
		t.Errorf("received %q", got)
	}
}

func TestRedisPermissionsOfAUser(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	s.cli("ACL", "SETUSER", "app", "on", ">pa:ss", "~app:*", "&app:topic:{allowed*", "&app:beat:*", "&app:topic:{hub*", "+@all")
	l := redisLayer(t, "redis://app:pa%3Ass@127.0.0.1:"+s.port, &grouphub.RedisOptions{Prefix: "app"})
	h := attachRedis(t, l, "allowed")
	if err := h.Add(t.Context(), "allowed too", "forbidden"); !errors.Is(err, grouphub.ErrUnavailable) || !strings.Contains(err.Error(), "NOPERM") {
		t.Errorf("Add of a forbidden channel: %v, want ErrUnavailable with NOPERM", err)
	}
	if err := h.Add(t.Context(), "allowed three"); err != nil {
		t.Errorf("Add after one was forbidden: %v", err)
	}
	mustPublish(t, l, "allowed", "x")
	h.untilReceived("x")
	if _, lost := h.state(); len(lost) > 0 {
		t.Errorf("lost %q, want nothing", lost)
	}
}

func TestRedisManyTopicsComeBackAfterALostConnection(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	l := redisLayer(t, s.url(), nil)
	h := attachRedis(t, l)
	topics := make([]string, 10_000)
	for i := range topics {
		topics[i] = fmt.Sprintf("topic%06d", i)
	}
	if err := h.Add(t.Context(), topics...); err != nil {
		t.Fatal(err)
	}
	s.cli("CLIENT", "KILL", "TYPE", "pubsub")
	h.untilLost(topics...)
	mustPublish(t, l, topics[7777], "x")
	h.untilReceived("x")
	h.Remove(topics...)
	await(t, "the server to forget", func() bool { return strings.Count(s.cli("PUBSUB", "CHANNELS"), "\n") < 10 })
}

func TestRedisDiscardsWhatItCannotOpen(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	plain := redisLayer(t, s.url(), nil)
	sealed := redisLayer(t, s.url(), &grouphub.RedisOptions{EncryptionKeys: []string{"key"}})
	stranger := redisLayer(t, s.url(), &grouphub.RedisOptions{EncryptionKeys: []string{"another"}})
	open, closed := attachRedis(t, plain, "topic", "other"), attachRedis(t, sealed, "topic", "other")
	const channel = "grouphub:topic:{topic}"
	for _, garbage := range []string{"", "garbage", "\x02", "\x02short", "\x02" + strings.Repeat("x", 100), "\x09newer"} {
		s.cli("PUBLISH", channel, garbage)
		s.cli("PUBLISH", "grouphub:topic:{nobody}", garbage)
	}
	mustPublish(t, stranger, "topic", "of a stranger")
	mustPublish(t, plain, "topic", "plain")
	mustPublish(t, sealed, "topic", "sealed")
	open.untilReceived("plain")
	closed.untilReceived("sealed")
	await(t, "what is discarded", func() bool {
		return grouphub.RedisDiscarded(plain) == 8 && grouphub.RedisDiscarded(sealed) == 8
	})
	for _, h := range []*redisHub{open, closed} {
		if got, lost := h.state(); len(got) != 1 || len(lost) != 0 || !h.Up() {
			t.Errorf("received %q, lost %q, want nothing else", got, lost)
		}
	}

	// What was sealed for one name opens under no other.
	tap := redisTap(t, s, channel)
	mustPublish(t, sealed, "topic", "moved")
	closed.untilReceived("moved")
	before := grouphub.RedisDiscarded(sealed)
	s.publish("grouphub:topic:{other}", <-tap)
	await(t, "the moved one", func() bool { return grouphub.RedisDiscarded(sealed) == before+1 })
}

// redisTap returns what is published to a channel, as it is on the wire.
func redisTap(t *testing.T, s *redisServer, channel string) <-chan string {
	t.Helper()
	client := s.client()
	tapped := make(chan string, 10)
	tap, cancel := client.Dedicate()
	t.Cleanup(cancel)
	tap.SetPubSubHooks(rueidis.PubSubHooks{OnMessage: func(m rueidis.PubSubMessage) { tapped <- m.Message }})
	if err := tap.Do(t.Context(), tap.B().Subscribe().Channel(channel).Build()).Error(); err != nil {
		t.Fatal(err)
	}
	return tapped
}

// client returns another client of the server.
func (s *redisServer) client() rueidis.Client {
	s.t.Helper()
	client, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{"127.0.0.1:" + s.port}, DisableCache: true,
		ForceSingleClient: true, PipelineMultiplex: -1})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(client.Close)
	return client
}

func (s *redisServer) publish(channel, message string) {
	s.t.Helper()
	client := s.client()
	if err := client.Do(s.t.Context(), client.B().Publish().Channel(channel).Message(message).Build()).Error(); err != nil {
		s.t.Fatal(err)
	}
}

func TestRedisEncryptionKeysRotate(t *testing.T) {
	t.Parallel()
	m := miniredis.RunT(t)
	var layers []*grouphub.RedisLayer
	var hubs []*redisHub
	for _, keys := range [][]string{{"old"}, {"old", "new"}, {"new", "old"}, {"new"}} {
		l := redisLayer(t, "redis://"+m.Addr(), &grouphub.RedisOptions{EncryptionKeys: keys})
		layers = append(layers, l)
		hubs = append(hubs, attachRedis(t, l, "topic"))
	}
	// Each of the first three seals with its first key, and these can open it.
	for i, readers := range [][]int{{0, 1, 2}, {0, 1, 2}, {1, 2, 3}} {
		payload := fmt.Sprint("from ", i)
		mustPublish(t, layers[i], "topic", payload)
		for _, reader := range readers {
			hubs[reader].untilReceived(payload)
			if err := layers[i].Append(t.Context(), "queue", []byte(payload)); err != nil {
				t.Fatal(err)
			}
			if message, err := layers[reader].Take(t.Context(), "queue"); err != nil || string(message) != payload {
				t.Errorf("took %q, %v, want %q", message, err, payload)
			}
		}
	}
	if err := layers[0].Append(t.Context(), "queue", []byte("from 0")); err != nil {
		t.Fatal(err)
	}
	if raw := m.Dump(); strings.Contains(raw, "from ") {
		t.Errorf("redis holds a message in the clear:\n%s", raw)
	}
}

func TestRedisSilentDeathOfASubscriptionIsNoticed(t *testing.T) {
	t.Parallel()
	old, new := miniredis.RunT(t), miniredis.RunT(t)
	var address atomic.Pointer[string]
	use := func(m *miniredis.Miniredis) { a := m.Addr(); address.Store(&a) }
	use(old)
	var mu sync.Mutex
	var conns []net.Conn
	l := redisLayer(t, "", &grouphub.RedisOptions{Client: func(o *rueidis.ClientOption) {
		o.InitAddress = []string{"the-service:6379"}
		o.ForceSingleClient = true
		o.DialCtxFn = func(ctx context.Context, _ string, dialer *net.Dialer, _ *tls.Config) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, "tcp", *address.Load())
			mu.Lock()
			defer mu.Unlock()
			conns = append(conns, conn)
			return conn, err
		}
	}})
	grouphub.SetRedisHeartbeat(l, 100*time.Millisecond)
	h := attachRedis(t, l, "topic")
	await(t, "Up", h.Up)
	// The name now means another server. The subscriber's connection stays healthy.
	use(new)
	mu.Lock()
	conns[0].Close()
	mu.Unlock()
	h.untilLost("topic")
	mustPublish(t, l, "topic", "x")
	h.untilReceived("x")
}

func TestRedisConnectsInManyWays(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "redis.sock")
	s := startRedis(t, "--unixsocket", socket, "--requirepass", "secret")
	secure := miniredis.NewMiniRedis()
	certificate := httptest.NewTLSServer(nil) // one that is at hand
	defer certificate.Close()
	if err := secure.StartTLS(&tls.Config{Certificates: certificate.TLS.Certificates}); err != nil {
		t.Fatal(err)
	}
	defer secure.Close()
	if _, err := grouphub.NewRedisLayer("rediss://"+secure.Addr(), nil); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("%v, want an error about the certificate", err)
	}
	for _, url := range []string{
		"rediss://" + secure.Addr() + "?skip_verify=true",
		"unix://:secret@" + socket + "?db=1",
		"redis://:secret@127.0.0.1:" + s.port + "/2",
		"redis://:secret@127.0.0.1:" + s.port + "?protocol=2",
	} {
		l := redisLayer(t, url, nil)
		h := attachRedis(t, l, "topic")
		mustPublish(t, l, "topic", url)
		h.untilReceived(url)
	}
}

func TestRedisCloseLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	client := s.client()
	connections := func() int {
		list, err := client.Do(t.Context(), client.B().ClientList().Build()).ToString()
		if err != nil {
			t.Fatal(err)
		}
		return strings.Count(list, "\n")
	}
	before := connections()
	l := redisLayer(t, s.url(), nil)
	h := attachRedis(t, l, "topic")
	took := make(chan error)
	go func() {
		_, err := l.Take(context.Background(), "queue")
		took <- err
	}()
	mustPublish(t, l, "topic", "x")
	h.untilReceived("x")
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if err := <-took; !errors.Is(err, grouphub.ErrClosed) {
		t.Errorf("Take: %v, want ErrClosed", err)
	}
	await(t, "the connections to end", func() bool { return connections() == before })
}

func TestRedisTakeWaitsWhileTheServerIsDown(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	l := redisLayer(t, s.url(), nil)
	took := make(chan string)
	go func() {
		message, err := l.Take(context.Background(), "queue")
		if err != nil {
			t.Errorf("Take: %v", err)
		}
		took <- string(message)
	}()
	s.kill()
	if err := s.start(); err != nil {
		t.Fatal(err)
	}
	await(t, "Append to work again", func() bool { return l.Append(t.Context(), "queue", []byte("x")) == nil })
	if message := <-took; message != "x" {
		t.Errorf("took %q, want x", message)
	}
}

func BenchmarkRedisPublish(b *testing.B) {
	s := startRedis(b)
	l, err := grouphub.NewRedisLayer(s.url(), nil)
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	p := grouphub.Publication{Topic: "topic", Payload: make([]byte, 256)}
	for _, publishers := range []int{1, 64, 512} {
		b.Run(fmt.Sprint("publishers=", publishers), func(b *testing.B) {
			var wg sync.WaitGroup
			var left atomic.Int64
			left.Store(int64(b.N))
			for range publishers {
				wg.Go(func() {
					for left.Add(-1) >= 0 {
						if err := l.Publish(context.Background(), p); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "publishes/s")
		})
	}
}
