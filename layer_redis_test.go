package grouphub_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
)

// redisServer is a real redis-server of one test, on a port of its own.
type redisServer struct {
	t       testing.TB
	port    string
	args    []string
	process *exec.Cmd
}

// startRedis starts a redis-server that ends with the test. Without the binary the test
// is skipped, except where CI is true.
func startRedis(t testing.TB, args ...string) *redisServer {
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("redis-server is not installed")
		}
		t.Skip("redis-server is not installed")
	}
	s := &redisServer{t: t, args: append([]string{"--bind", "127.0.0.1", "--dir", t.TempDir(), "--save", "",
		"--enable-debug-command", "local"}, args...)}
	t.Cleanup(func() { s.kill() })
	for range 10 { // somebody else may get the port first
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		_, s.port, _ = net.SplitHostPort(listener.Addr().String())
		listener.Close()
		if s.start() == nil {
			return s
		}
	}
	t.Fatal("redis-server does not start")
	return nil
}

// start runs the server and returns when it accepts connections.
func (s *redisServer) start() error {
	s.process = exec.Command("redis-server", append([]string{"--port", s.port}, s.args...)...)
	output, err := s.process.StdoutPipe()
	if err != nil {
		return err
	}
	if err := s.process.Start(); err != nil {
		return err
	}
	for lines := bufio.NewScanner(output); lines.Scan(); {
		if strings.Contains(lines.Text(), "Ready to accept connections") {
			go func() {
				for lines.Scan() {
				}
			}()
			return nil
		}
	}
	return fmt.Errorf("redis-server on port %s: %w", s.port, s.process.Wait())
}

// kill ends the server as a crash would.
func (s *redisServer) kill() {
	if s.process != nil && s.process.ProcessState == nil {
		s.process.Process.Kill()
		s.process.Wait()
	}
}

func (s *redisServer) url() string { return "redis://127.0.0.1:" + s.port }

// cli runs a command on the server and returns what redis-cli prints.
func (s *redisServer) cli(args ...string) string {
	s.t.Helper()
	out, err := exec.Command("redis-cli", append([]string{"-p", s.port}, args...)...).CombinedOutput()
	if err != nil {
		s.t.Fatalf("redis-cli %q: %v: %s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

var redisPrefixes atomic.Int64

// redisLayer returns a layer that is closed with the test.
func redisLayer(t *testing.T, url string, opts *grouphub.RedisOptions) *grouphub.RedisLayer {
	t.Helper()
	l, err := grouphub.NewRedisLayer(url, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func redisPair(url func() string, opts grouphub.RedisOptions) func(t *testing.T) (a, b grouphub.Layer) {
	return func(t *testing.T) (a, b grouphub.Layer) {
		opts := opts
		opts.Prefix = fmt.Sprint("test", redisPrefixes.Add(1))
		return redisLayer(t, url(), &opts), redisLayer(t, url(), &opts)
	}
}

// tick lets the time of a miniredis go on, until the end of the test.
func tick(t *testing.T, m *miniredis.Miniredis) {
	ctx, cancel := context.WithCancel(context.Background())
	var ticking sync.WaitGroup
	t.Cleanup(func() { cancel(); ticking.Wait() })
	ticking.Go(func() {
		const interval = 50 * time.Millisecond
		ticker := time.NewTicker(interval)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				m.FastForward(interval)
			case <-ctx.Done():
				return
			}
		}
	})
}

func TestRedisLayerOnMiniredis(t *testing.T) {
	m := miniredis.RunT(t)
	tick(t, m)
	url := func() string { return "redis://" + m.Addr() }
	hubtest.TestLayer(t, redisPair(url, grouphub.RedisOptions{}))
}

func TestRedisLayerOnRedis(t *testing.T) {
	s := startRedis(t)
	hubtest.TestLayer(t, redisPair(s.url, grouphub.RedisOptions{}))
}

func TestRedisLayerShardedAndEncrypted(t *testing.T) {
	s := startRedis(t)
	hubtest.TestLayer(t, redisPair(s.url, grouphub.RedisOptions{Sharded: true, EncryptionKeys: []string{"secret"}}))
}
