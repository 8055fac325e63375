//go:build unix

package load

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"testing"
	"time"
)

// The test that AnyCable publishes has 10,000 clients, each cut every 15 s and offline for 2 s:
//
//	go test ./load -run Jitter -v -args -clients 10000 -cut 15s -offline 2s -pause 500ms
//
// The clients are a process of their own, since the two ends of so many connections are more
// files than a process may have open on many machines.
var (
	jitterCount   = flag.Int("clients", 500, "clients of the jitter test")
	jitterCut     = flag.Duration("cut", 1500*time.Millisecond, "how long a connection of the jitter test lasts")
	jitterOffline = flag.Duration("offline", 200*time.Millisecond, "how long a client of the jitter test is away")
	jitterPause   = flag.Duration("pause", 50*time.Millisecond, "between two messages of the jitter test")
)

const jitterMessages = 120

func TestJitterLosesAndRepeatsNothing(t *testing.T) {
	for name, streams := range map[string]bool{"WebSockets": false, "streams": true} {
		t.Run(name, func(t *testing.T) {
			raiseOpenFiles(t, *jitterCount+200)
			hub, target := serveHub(t, nil, 2*jitterMessages, "all")
			numbers, answers := startJitterClients(t, jitterSetup{
				Target: target, Streams: streams, Clients: *jitterCount, Cut: *jitterCut, Offline: *jitterOffline,
			})
			if line, err := answers.ReadString('\n'); line != "ready\n" {
				t.Fatalf("the clients say %q, %v", line, err)
			}
			start := time.Now()
			for n := 1; n <= jitterMessages; n++ {
				if err := hub.GroupSend(t.Context(), "all", "number", n); err != nil {
					t.Error(err)
				}
				if _, err := fmt.Fprintln(numbers, n); err != nil {
					t.Fatal(err)
				}
				time.Sleep(*jitterPause) // the load's rhythm, and no wait for anything
			}
			numbers.Close()
			var r jitterResult
			if err := json.NewDecoder(answers).Decode(&r); err != nil {
				t.Fatal(err)
			}
			for _, err := range r.Errors {
				t.Error(err)
			}
			if want := *jitterCount * jitterMessages; r.Delivered != want {
				t.Errorf("%d of %d messages were delivered once; %d clients failed", r.Delivered, want, r.Failed)
			}
			if r.Replays == 0 {
				t.Error("nothing was replayed")
			}
			t.Logf("%d messages, once each, in %v over %d cuts; %d replays, p50 %v, p99 %v", r.Delivered,
				time.Since(start).Round(time.Millisecond), r.Cuts, r.Replays, r.P50.Round(10*time.Microsecond), r.P99.Round(10*time.Microsecond))
		})
	}
}

// startJitterClients starts the clients' process, which ends with the test.
func startJitterClients(t *testing.T, setup jitterSetup) (numbers io.WriteCloser, answers *bufio.Reader) {
	t.Helper()
	told, err := json.Marshal(setup)
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	clients := exec.Command(program)
	clients.Env = append(os.Environ(), jitterVariable+"="+string(told))
	clients.Stderr = os.Stderr
	numbers, err = clients.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := clients.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := clients.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		clients.Process.Kill()
		clients.Wait()
	})
	return numbers, bufio.NewReader(out)
}
