// Package redis_test runs the Redis layer against real servers that freeze, load, move
// slots and fail over. It takes minutes.
package redis_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/seed-29c60982/grouphub"
)

// patience is how long a test waits for what must happen.
const patience = 60 * time.Second

// server is a redis-server of one test, on a port of its own.
type server struct {
	t       *testing.T
	port    string
	dir     string
	args    []string
	process *exec.Cmd
}

// aFreePort stands for a port in the arguments of start.
const aFreePort = "a free port"

// start runs a redis-server until the end of the test. The first arguments may be a
// configuration file and --sentinel.
func start(t *testing.T, args ...string) *server {
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("redis-server is not installed")
		}
		t.Skip("redis-server is not installed")
	}
	s := &server{t: t, dir: t.TempDir()}
	t.Cleanup(s.kill)
	for range 10 { // somebody else may have a port
		s.args = slices.Clone(args)
		if i := slices.Index(args, aFreePort); i >= 0 {
			s.args[i] = port()
		}
		s.port = port()
		if s.run() == nil {
			return s
		}
	}
	t.Fatal("redis-server does not start")
	return nil
}

// port returns a port that no kernel hands out by itself, so that a server that was killed has it
// again when it comes back.
func port() string { return strconv.Itoa(20_000 + rand.IntN(12_000)) }

// run starts the process and returns when it listens.
func (s *server) run(more ...string) error {
	args := append(slices.Clone(s.args), "--port", s.port, "--bind", "127.0.0.1", "--dir", s.dir, "--save", "", "--enable-debug-command", "local")
	s.process = exec.Command("redis-server", append(args, more...)...)
	output, err := s.process.StdoutPipe()
	if err != nil {
		return err
	}
	if err := s.process.Start(); err != nil {
		return err
	}
	listens := false
	for lines := bufio.NewScanner(output); !listens && lines.Scan(); {
		if strings.Contains(lines.Text(), "Server initialized") || strings.Contains(lines.Text(), "Sentinel ID") {
			go func() {
				for lines.Scan() {
				}
			}()
			listens = true
		}
	}
	if !listens {
		return fmt.Errorf("redis-server: %w", s.process.Wait())
	}
	return nil
}

func (s *server) kill() {
	if s.process != nil && s.process.ProcessState == nil {
		s.process.Process.Kill()
		s.process.Wait()
	}
}

func (s *server) addr() string { return "127.0.0.1:" + s.port }
func (s *server) url() string  { return "redis://" + s.addr() }

// cli runs a command and returns what redis-cli prints.
func (s *server) cli(args ...string) string {
	s.t.Helper()
	out, err := exec.Command("redis-cli", append([]string{"-p", s.port}, args...)...).CombinedOutput()
	if err != nil {
		s.t.Fatalf("redis-cli %q: %v: %s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// isMaster reports whether the server says that it is a master. One that changes what it is may
// hang up.
func (s *server) isMaster() bool {
	out, _ := exec.Command("redis-cli", "-p", s.port, "ROLE").Output()
	return strings.HasPrefix(string(out), "master")
}

// await polls for what gives no signal.
func await(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func layer(t *testing.T, url string, opts *grouphub.RedisOptions) *grouphub.RedisLayer {
	t.Helper()
	l, err := grouphub.NewRedisLayer(url, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// hub is a receiver that keeps what it gets.
type hub struct {
	grouphub.Subscription
	t *testing.T

	mu   sync.Mutex
	got  map[string][]string // payloads by topic
	lost map[string]int      // how often, by topic
}

var hubs atomic.Int64

func attach(t *testing.T, l grouphub.Layer, topics ...string) *hub {
	t.Helper()
	h := &hub{t: t, got: make(map[string][]string), lost: make(map[string]int)}
	s, err := l.Attach(fmt.Sprint("hub", hubs.Add(1)), h)
	if err != nil {
		t.Fatal(err)
	}
	h.Subscription = s
	if err := s.Add(t.Context(), topics...); err != nil {
		t.Fatal(err)
	}
	return h
}

func (h *hub) Ready(context.Context, string) error { return nil }

func (h *hub) Deliver(p grouphub.Publication) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.got[p.Topic] = append(h.got[p.Topic], string(p.Payload))
}

func (h *hub) Lost(topics []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, topic := range topics {
		h.lost[topic]++
	}
}

func (h *hub) received(topic string) []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.got[topic])
}

func (h *hub) losses(topic string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.lost[topic]
}

func (h *hub) untilReceived(topic, payload string) {
	h.t.Helper()
	await(h.t, payload+" of "+topic, func() bool { return slices.Contains(h.received(topic), payload) })
}

// load publishes numbers to topics until it is stopped.
type load struct {
	stop func()

	mu   sync.Mutex
	sent map[string][]string // payloads whose Publish returned nil, by topic
	errs []error
}

func publishTo(t *testing.T, l grouphub.Layer, topics ...string) *load {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	w := &load{sent: make(map[string][]string)}
	w.stop = func() { cancel(); wg.Wait() }
	t.Cleanup(w.stop)
	for _, topic := range topics {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				payload := fmt.Sprint(i)
				err := l.Publish(context.Background(), grouphub.Publication{Topic: topic, Payload: []byte(payload)})
				w.mu.Lock()
				if err == nil {
					w.sent[topic] = append(w.sent[topic], payload)
				} else {
					w.errs = append(w.errs, err)
				}
				w.mu.Unlock()
				select {
				case <-ctx.Done():
				case <-time.After(time.Millisecond):
				}
			}
		})
	}
	return w
}

// errors returns what Publish returned so far, and checks that all of it is of a kind
// that tells the caller what to do.
func (w *load) errors(t *testing.T) int {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, err := range w.errs {
		if !errors.Is(err, grouphub.ErrUnavailable) && !errors.Is(err, grouphub.ErrUncertain) {
			t.Errorf("Publish: %v", err)
		}
	}
	return len(w.errs)
}

// checkNumbers fails if a hub got something twice or out of order.
func checkNumbers(t *testing.T, h *hub, topic string) {
	t.Helper()
	last := -1
	for _, payload := range h.received(topic) {
		var n int
		if _, err := fmt.Sscan(payload, &n); err != nil {
			continue // not of the load
		}
		if n <= last {
			t.Errorf("%s: received %d after %d", topic, n, last)
			return
		}
		last = n
	}
}

// checkOrder is checkNumbers, and fails if a hub missed something of a topic that it was
// not told about. In between, what was sent is numbered.
func checkOrder(t *testing.T, w *load, h *hub, topic string) {
	t.Helper()
	checkNumbers(t, h, topic)
	checkArrived(t, w, h, topic)
}

// checkArrived fails if a hub missed something of a topic that it was not told about.
func checkArrived(t *testing.T, w *load, h *hub, topic string) {
	t.Helper()
	got := h.received(topic)
	w.mu.Lock()
	defer w.mu.Unlock()
	if h.losses(topic) > 0 {
		return
	}
	for _, payload := range w.sent[topic] {
		if !slices.Contains(got, payload) {
			t.Errorf("%s: %s was accepted and did not arrive, and Lost was not called", topic, payload)
			return
		}
	}
}
