//go:build unix

package load

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/seed-29c60982/grouphub"
)

// crowdAddress, in the environment, makes this program the clients of a hub at that address, so
// that what they cost is not counted as the hub's.
const crowdAddress = "GROUPHUB_CROWD_ADDRESS"

const (
	crowd          = 15_000 // members
	crowdVisitors  = 200    // of more connections, which come and go
	crowdChanges   = 100    // comings and goings in a second
	crowdMeasuring = 20 * time.Second
)

// runCrowd connects and reads until its input ends, and prints how many bytes it has read.
func runCrowd(address string) {
	var bytes atomic.Int64
	var reading sync.WaitGroup
	var conns []net.Conn
	for range crowd + crowdVisitors {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			panic(err)
		}
		io.WriteString(conn, "GET / HTTP/1.1\r\nHost: "+address+"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
			"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
		if answer, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || answer.StatusCode != http.StatusSwitchingProtocols {
			panic(fmt.Sprint(answer, err))
		}
		conns = append(conns, conn)
		reading.Go(func() {
			buffer := make([]byte, 16<<10)
			for {
				n, err := conn.Read(buffer)
				bytes.Add(int64(n))
				if err != nil {
					return
				}
			}
		})
	}
	fmt.Println("connected")
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		fmt.Println(bytes.Load())
	}
	for _, conn := range conns {
		conn.Close()
	}
	reading.Wait()
}

// cpuTime returns the processor time that this process has taken.
func cpuTime(t *testing.T) time.Duration {
	t.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		t.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// TestFifteenThousandAreToldOfAHundredChangesASecond measures what that costs a hub.
func TestFifteenThousandAreToldOfAHundredChangesASecond(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector knows no more than 8,128 goroutines, and this is a measurement")
	}
	raiseOpenFiles(t, crowd+crowdVisitors+100)
	conns := make(chan *grouphub.Conn, crowd+crowdVisitors)
	hub := grouphub.New(&grouphub.Options{
		Logger: slog.New(slog.DiscardHandler),
		Policy: func(string) grouphub.GroupPolicy { return grouphub.GroupPolicy{Announce: true} },
		Consumer: grouphub.Consumer{
			Connect: func(c *grouphub.Conn) error { conns <- c; return nil },
			Events:  grouphub.Events{"presence": grouphub.Forward()},
		},
	})
	server := httptest.NewServer(hub)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := hub.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		server.Close()
	})
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	clients := exec.Command(program)
	clients.Env = append(os.Environ(), crowdAddress+"="+strings.TrimPrefix(server.URL, "http://"))
	clients.Stderr = os.Stderr
	in, err := clients.StdinPipe()
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
	defer func() {
		in.Close()
		clients.Wait()
	}()
	lines := bufio.NewScanner(out)
	if !lines.Scan() {
		t.Fatal("the clients could not connect")
	}
	received := func() (bytes int) {
		t.Helper()
		fmt.Fprintln(in)
		if !lines.Scan() {
			t.Fatal("the clients have ended")
		}
		fmt.Sscan(lines.Text(), &bytes)
		return bytes
	}
	join := func(c *grouphub.Conn) {
		if err := c.Join("all"); err != nil {
			t.Error(err)
		}
	}
	// All at once, so that they need not be told of each other.
	for range crowd {
		join(<-conns)
	}
	for hub.Stats().Delivered < crowd {
		time.Sleep(10 * time.Millisecond)
	}
	var visitors []*grouphub.Conn
	for range crowdVisitors {
		visitors = append(visitors, <-conns)
	}
	bytes, cpu, frames, begun := received(), cpuTime(t), hub.Stats().Delivered, time.Now()
	for i := 0; time.Since(begun) < crowdMeasuring; i++ {
		if c := visitors[i%crowdVisitors]; i/crowdVisitors%2 == 0 {
			join(c)
		} else if err := c.Leave("all"); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Until(begun.Add(time.Duration(i+1) * time.Second / crowdChanges)))
	}
	took := time.Since(begun)
	bytes, cpu, frames = received()-bytes, cpuTime(t)-cpu, hub.Stats().Delivered-frames
	t.Logf("%d members, %d changes a second: %.0f%% of a processor, %.0f MB and %.0f frames a second, %.1f µs a frame",
		crowd, crowdChanges, 100*cpu.Seconds()/took.Seconds(), float64(bytes)/1e6/took.Seconds(),
		float64(frames)/took.Seconds(), float64(cpu.Microseconds())/float64(frames))
	if n := hub.Stats(); n.SlowClosed > 0 || n.Dropped > 0 {
		t.Errorf("%d were closed, and %d dropped", n.SlowClosed, n.Dropped)
	}
}
