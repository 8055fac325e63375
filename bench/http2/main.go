//go:build linux

// Http2 measures what an event stream costs over HTTP/2, beside HTTP/1.1 with and without TLS:
// CPU per delivery, and memory of a stream that is idle. See ../README.md.
package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/seed-29c60982/grouphub"
)

// A way is how streams reach their clients.
type way struct {
	name    string
	tls     bool
	http2   bool
	perConn int // streams a connection
}

var ways = []way{
	{name: "HTTP/1.1", perConn: 1},
	{name: "HTTP/1.1, TLS", tls: true, perConn: 1},
	{name: "HTTP/2, 1 stream a connection", tls: true, http2: true, perConn: 1},
	{name: "HTTP/2, 100 streams a connection", tls: true, http2: true, perConn: 100},
}

func main() {
	streams := flag.Int("streams", 1000, "streams")
	length := flag.Duration("time", 1500*time.Millisecond, "how long one measurement lasts")
	rounds := flag.Int("rounds", 3, "rounds, of which the medians are shown")
	serveWay := flag.Int("serve", -1, "be the server for this way")
	flag.Parse()
	var err error
	if *serveWay >= 0 {
		err = serve(ways[*serveWay])
	} else {
		err = measureAll(*streams, *rounds, *length)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench http2:", err)
		os.Exit(1)
	}
}

// An answer is the server's to a command: what it has used until then, and what it holds.
type answer struct {
	URL      string
	CPU      time.Duration
	Resident int64 // bytes
	Streams  int
}

// serve is the server process. It reads commands, a line each: how many events to send, or
// "memory", before whose answer it collects its garbage. It ends with its standard input.
func serve(w way) error {
	hub := grouphub.New(&grouphub.Options{Consumer: grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error { return c.Join("all") },
		Events:  grouphub.Events{"event": grouphub.Forward()},
	}})
	s := httptest.NewUnstartedServer(hub)
	if s.EnableHTTP2 = w.http2; w.tls {
		s.StartTLS()
	} else {
		s.Start()
	}
	answers := json.NewEncoder(os.Stdout)
	if err := answers.Encode(answer{URL: s.URL}); err != nil {
		return err
	}
	data := json.RawMessage(`"` + strings.Repeat("x", 126) + `"`)
	for commands := bufio.NewScanner(os.Stdin); commands.Scan(); {
		var a answer
		var events int
		if commands.Text() == "memory" {
			for range 3 { // each collection halves a stack at most
				runtime.GC()
			}
			debug.FreeOSMemory()
			resident, err := residentMemory()
			if err != nil {
				return err
			}
			a.Resident = resident
		} else if _, err := fmt.Sscan(commands.Text(), &events); err != nil {
			return err
		}
		for range events {
			if err := hub.GroupSend(context.Background(), "all", "event", data); err != nil {
				return err
			}
		}
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			return err
		}
		a.CPU, a.Streams = time.Duration(u.Utime.Nano()+u.Stime.Nano()), hub.Stats().Streams
		if err := answers.Encode(a); err != nil {
			return err
		}
	}
	return nil
}

// residentMemory returns this process's resident bytes.
func residentMemory() (int64, error) {
	text, err := os.ReadFile("/proc/self/smaps_rollup")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		var kib int64
		if n, _ := fmt.Sscanf(line, "Rss: %d kB", &kib); n == 1 {
			return kib << 10, nil
		}
	}
	return 0, errors.New("no Rss in smaps_rollup")
}

// A result is of one way and one round: CPU per delivery in microseconds, and KiB a stream.
type result struct{ single, burst, idle float64 }

func measureAll(streams, rounds int, length time.Duration) error {
	results := make([][]result, len(ways))
	for round := range rounds {
		for i, w := range ways {
			r, err := measure(i, w, streams, length)
			if err != nil {
				return fmt.Errorf("%s: %w", w.name, err)
			}
			results[i] = append(results[i], r)
			fmt.Fprintf(os.Stderr, "%d/%d %s: %.2f and %.3f µs, %.1f KiB\n", round+1, rounds, w.name, r.single, r.burst, r.idle)
		}
	}
	fmt.Printf("Medians of %d rounds, %d streams, %d cores, %s.\n\n", rounds, streams, runtime.NumCPU(), runtime.Version())
	fmt.Println("| | CPU per delivery, µs: single | bursts of 64 | idle, resident, KiB per stream |\n|---|---|---|---|")
	for i, w := range ways {
		median := func(of func(result) float64) float64 {
			var all []float64
			for _, r := range results[i] {
				all = append(all, of(r))
			}
			slices.Sort(all)
			return all[len(all)/2]
		}
		fmt.Printf("| %s | %.1f | %.3f | %.1f |\n", w.name, median(func(r result) float64 { return r.single }),
			median(func(r result) float64 { return r.burst }), median(func(r result) float64 { return r.idle }))
	}
	return nil
}

// A server is the other process.
type server struct {
	commands io.Writer
	answers  *json.Decoder
}

func (s *server) command(command any) (a answer, err error) {
	if _, err = fmt.Fprintln(s.commands, command); err == nil {
		err = s.answers.Decode(&a)
	}
	return a, err
}

func measure(index int, w way, streams int, length time.Duration) (r result, err error) {
	program, err := os.Executable()
	if err != nil {
		return r, err
	}
	child := exec.Command(program, "-serve", fmt.Sprint(index))
	child.Stderr = os.Stderr
	child.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	commands, err := child.StdinPipe()
	if err != nil {
		return r, err
	}
	out, err := child.StdoutPipe()
	if err != nil {
		return r, err
	}
	if err := child.Start(); err != nil {
		return r, err
	}
	defer child.Wait()
	defer child.Process.Kill()
	s := &server{commands, json.NewDecoder(out)}
	var hello answer
	if err := s.answers.Decode(&hello); err != nil {
		return r, err
	}
	before, err := s.command("memory")
	if err != nil {
		return r, err
	}
	c, err := connect(w, hello.URL, streams)
	defer c.close()
	if err != nil {
		return r, err
	}
	time.Sleep(length) // what an idle stream gives back after a while is not to be counted
	after, err := s.command("memory")
	if err != nil {
		return r, err
	}
	if after.Streams != streams {
		return r, fmt.Errorf("%d of %d streams", after.Streams, streams)
	}
	r.idle = float64(after.Resident-before.Resident) / 1024 / float64(streams)
	if r.single, err = c.fanOut(s, 1, length); err == nil {
		r.burst, err = c.fanOut(s, 64, length)
	}
	return r, err
}

// clients read streams, and count the events.
type clients struct {
	bodies     []io.Closer
	transports []*http.Transport
	got, want  atomic.Int64
	all        chan struct{} // told when got is want
}

// connect opens streams, so many on each connection.
func connect(w way, url string, streams int) (*clients, error) {
	c := &clients{all: make(chan struct{}, 1)}
	c.want.Store(-1)
	for i := range streams {
		if i%w.perConn == 0 {
			c.transports = append(c.transports, &http.Transport{
				TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: w.http2,
			})
		}
		r, err := http.NewRequest("GET", url, nil)
		if err != nil {
			return c, err
		}
		r.Header.Set("Accept", "text/event-stream")
		answer, err := c.transports[len(c.transports)-1].RoundTrip(r)
		if err != nil {
			return c, err
		}
		c.bodies = append(c.bodies, answer.Body)
		if answer.StatusCode != http.StatusOK || (answer.ProtoMajor == 2) != w.http2 {
			return c, fmt.Errorf("answered with %s by %s", answer.Status, answer.Proto)
		}
		lines := bufio.NewReaderSize(answer.Body, 1<<10)
		for range 4 { // of the first block
			if _, err := lines.ReadSlice('\n'); err != nil {
				return c, err
			}
		}
		go c.read(lines)
	}
	return c, nil
}

func (c *clients) read(lines *bufio.Reader) {
	for {
		line, err := lines.ReadSlice('\n')
		if err != nil {
			return
		}
		if line[0] == 'd' && c.got.Add(1) == c.want.Load() {
			c.all <- struct{}{}
		}
	}
}

// fanOut sends bursts of events, the next when all clients have the last, and returns the
// server's CPU time per delivery.
func (c *clients) fanOut(s *server, events int, length time.Duration) (microseconds float64, err error) {
	var first answer
	begin := c.got.Load()
	for start := time.Now(); time.Since(start) < length; {
		c.want.Store(c.got.Load() + int64(events*len(c.bodies)))
		if _, err = s.command(events); err != nil {
			return 0, err
		}
		select {
		case <-c.all:
		case <-time.After(10 * time.Second):
			return 0, fmt.Errorf("%d of %d events", c.got.Load(), c.want.Load())
		}
		if first.CPU == 0 { // the first one warms up
			if first, err = s.command(0); err != nil {
				return 0, err
			}
			begin = c.got.Load()
		}
	}
	last, err := s.command(0)
	if err != nil {
		return 0, err
	}
	return float64((last.CPU - first.CPU).Nanoseconds()) / 1e3 / float64(c.got.Load()-begin), nil
}

func (c *clients) close() {
	for _, body := range c.bodies {
		body.Close()
	}
	for _, t := range c.transports {
		t.CloseIdleConnections()
	}
}
