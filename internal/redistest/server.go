// Package redistest starts real servers for tests, breaks the connections to them, and
// watches what they are told. The tests of the Redis layer and those of hubs on it share it.
// Only tests import it.
package redistest

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/rueidis"
)

// Servers get ports that no kernel hands out by itself, to connections or to whoever listens
// on port 0: one that is killed has its port again when it comes back.
const firstPort, ports = 20_000, 12_000

// A Server is a real redis-server of one test, on a port of its own.
type Server struct {
	t       testing.TB
	port    string
	args    []string
	process *exec.Cmd
}

// Start starts a redis-server that ends with the test. Without the binary the test is
// skipped, except where CI is true.
func Start(t testing.TB, args ...string) *Server {
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("redis-server is not installed")
		}
		t.Skip("redis-server is not installed")
	}
	s := &Server{t: t, args: append([]string{"--bind", "127.0.0.1", "--dir", t.TempDir(), "--save", "",
		"--enable-debug-command", "local", "--repl-diskless-sync-delay", "0"}, args...)}
	t.Cleanup(s.Kill)
	for range 10 { // somebody else may have the port
		s.port = strconv.Itoa(firstPort + rand.IntN(ports))
		if s.start() == nil {
			return s
		}
	}
	t.Fatal("redis-server does not start")
	return nil
}

// start runs the server and returns when it accepts connections.
func (s *Server) start() error {
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

// Restart starts the server again that Kill has ended.
func (s *Server) Restart() {
	s.t.Helper()
	if err := s.start(); err != nil {
		s.t.Fatal(err)
	}
}

// Kill ends the server as a crash would.
func (s *Server) Kill() {
	if s.process != nil && s.process.ProcessState == nil {
		s.process.Process.Kill()
		s.process.Wait()
	}
}

// Freeze stops the server without ending it: connections stay, and nothing is answered
// until Thaw.
func (s *Server) Freeze() { s.process.Process.Signal(syscall.SIGSTOP) }

// Thaw lets the server go on.
func (s *Server) Thaw() { s.process.Process.Signal(syscall.SIGCONT) }

// Address returns the server's host and port.
func (s *Server) Address() string { return "127.0.0.1:" + s.port }

// URL returns what a layer is given to connect.
func (s *Server) URL() string { return "redis://" + s.Address() }

// CLI runs a command on the server and returns what redis-cli prints.
func (s *Server) CLI(args ...string) string {
	s.t.Helper()
	out, err := exec.Command("redis-cli", append([]string{"-p", s.port}, args...)...).CombinedOutput()
	if err != nil {
		s.t.Fatalf("redis-cli %q: %v: %s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// HasBeaten reports whether a heartbeat has been published, as the only script in full.
func (s *Server) HasBeaten() bool {
	return strings.Contains(s.CLI("INFO", "commandstats"), "cmdstat_eval:")
}

// Follow makes the server a replica of another, and returns when it has what that has.
func (s *Server) Follow(master *Server) {
	s.t.Helper()
	s.CLI("REPLICAOF", "127.0.0.1", master.port)
	for patience := time.Now().Add(30 * time.Second); !strings.Contains(s.CLI("INFO", "replication"), "master_link_status:up"); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(patience) {
			s.t.Fatal("waited in vain for the replication")
		}
	}
}

// Client returns a client of the server that ends with the test.
func (s *Server) Client() rueidis.Client {
	s.t.Helper()
	client, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{s.Address()}, DisableCache: true,
		ForceSingleClient: true, PipelineMultiplex: -1})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(client.Close)
	return client
}

// Publish publishes a message of any bytes.
func (s *Server) Publish(channel, message string) {
	s.t.Helper()
	client := s.Client()
	if err := client.Do(s.t.Context(), client.B().Publish().Channel(channel).Message(message).Build()).Error(); err != nil {
		s.t.Fatal(err)
	}
}

// Tap returns what is published to a channel, as it is on the wire.
func (s *Server) Tap(channel string) <-chan string {
	s.t.Helper()
	client := s.Client()
	tapped := make(chan string, 10)
	tap, cancel := client.Dedicate()
	s.t.Cleanup(cancel)
	tap.SetPubSubHooks(rueidis.PubSubHooks{OnMessage: func(m rueidis.PubSubMessage) { tapped <- m.Message }})
	if err := tap.Do(s.t.Context(), tap.B().Subscribe().Channel(channel).Build()).Error(); err != nil {
		s.t.Fatal(err)
	}
	return tapped
}

// RollBack makes the server look as if it had lost the last n publications of a topic that
// a layer without a prefix of its own keeps.
func (s *Server) RollBack(topic string, n int) {
	s.t.Helper()
	key := "{" + topic + "}"
	epoch, number, _ := strings.Cut(s.CLI("GET", "grouphub:count:"+key), " ")
	var last int
	fmt.Sscan(number, &last)
	for i := range n {
		s.CLI("XDEL", "grouphub:stream:"+key, fmt.Sprint(last-i, "-0"))
	}
	// The stream remembers its highest id, which a failover would have lost, too.
	s.CLI("XSETID", "grouphub:stream:"+key, fmt.Sprint(last-n, "-0"))
	s.CLI("SET", "grouphub:count:"+key, fmt.Sprint(epoch, " ", last-n), "EX", "1000")
}

// OnBoth runs a test on miniredis and on a real server, beside each other and beside other
// parallel tests.
func OnBoth(t *testing.T, run func(t *testing.T, url string)) {
	t.Run("Miniredis", func(t *testing.T) {
		t.Parallel()
		run(t, "redis://"+miniredis.RunT(t).Addr())
	})
	t.Run("Redis", func(t *testing.T) {
		t.Parallel()
		run(t, Start(t).URL())
	})
}
