//go:build linux

// Redis measures what the Redis layer costs: how many GroupSend a process can do beside
// what redis-benchmark does on the same server, with history and without, what a Join
// costs, and how much longer an event takes to a browser than through the memory layer. It
// starts a redis-server of its own on loopback.
//
// Rounds are interleaved, in random order within each, since a machine is never the same
// for two minutes. Given are the median of the rounds, the minimum and the maximum.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/gorilla/websocket"

	"github.com/seed-29c60982/grouphub"
)

const (
	eventSize = 256 // bytes of an event's JSON, and of redis-benchmark's message
	room      = "room:lobby"
)

func main() {
	rounds := flag.Int("rounds", 5, "rounds")
	length := flag.Duration("time", 1500*time.Millisecond, "how long one measurement of GroupSend lasts")
	events := flag.Int("events", 3000, "events of one measurement of latency")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := measure(ctx, *rounds, *length, *events, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "redis:", err)
		os.Exit(1)
	}
}

// A figure is one line of the result, and how it is measured. A measurement gives a
// value for each of the columns.
type figure struct {
	name    string
	columns []string
	measure func(context.Context) ([]float64, error)
	values  [][]float64 // by column, then round
}

func measure(ctx context.Context, rounds int, length time.Duration, events int, out io.Writer) error {
	port, stop, err := startRedis(ctx)
	if err != nil {
		return err
	}
	defer stop()
	url := "redis://127.0.0.1:" + port
	newHub := func(layer grouphub.Layer) *grouphub.Hub {
		return grouphub.New(&grouphub.Options{Layer: layer, Policy: policy, Consumer: grouphub.Consumer{
			Connect: func(c *grouphub.Conn) error { return c.Join(room) },
			Events:  grouphub.Events{"*": grouphub.Forward()},
		}})
	}
	one, err := grouphub.NewRedisLayer(url, nil)
	if err != nil {
		return err
	}
	defer one.Close()
	two, err := grouphub.NewRedisLayer(url, nil)
	if err != nil {
		return err
	}
	defer two.Close()
	memory := grouphub.NewMemoryLayer()
	defer memory.Close()
	sender, receiver := newHub(one), newHub(two)
	defer sender.Shutdown(ctx)
	defer receiver.Shutdown(ctx)
	senderInMemory, receiverInMemory := newHub(memory), newHub(memory)
	defer senderInMemory.Shutdown(ctx)
	defer receiverInMemory.Shutdown(ctx)

	perSecond, microseconds := []string{"calls/s", "CPU µs per call"}, []string{"p50 µs", "p99 µs"}
	figures := []*figure{{name: "redis-benchmark -P 16 PUBLISH", columns: perSecond, measure: func(ctx context.Context) ([]float64, error) {
		return redisBenchmark(ctx, port)
	}}}
	for _, senders := range []int{1, 64, 512} {
		figures = append(figures, &figure{name: fmt.Sprintf("GroupSend, %d goroutines", senders), columns: perSecond,
			measure: func(ctx context.Context) ([]float64, error) {
				return throughput(ctx, sender, "room:nobody's", senders, length)
			}}, &figure{name: fmt.Sprintf("GroupSend with history, %d goroutines", senders), columns: perSecond,
			measure: func(ctx context.Context) ([]float64, error) {
				return throughput(ctx, sender, keptGroup, senders, length)
			}})
	}
	figures = append(figures, &figure{name: "redis-benchmark -P 16 EVALSHA, the script of a GroupSend with history", columns: perSecond,
		measure: func(ctx context.Context) ([]float64, error) { return scriptBenchmark(ctx, port, sender) }})
	for _, members := range []bool{true, false} {
		where := map[bool]string{true: "a group that has members here", false: "a group that has none here"}[members]
		for _, join := range []struct {
			name, group string
			opts        []grouphub.JoinOption
		}{
			{"", "plain:", nil},
			{" and history", "kept:", nil},
			{" and history, replaying 100 events", "kept:", []grouphub.JoinOption{grouphub.Last(missed)}},
		} {
			figures = append(figures, &figure{name: "Join of " + where + join.name, columns: microseconds,
				measure: func(ctx context.Context) ([]float64, error) {
					return joins(ctx, one, join.group, members, join.opts...)
				}})
		}
	}
	figures = append(figures,
		&figure{name: "delivery, memory layer", columns: microseconds, measure: func(ctx context.Context) ([]float64, error) {
			return latency(ctx, senderInMemory, receiverInMemory, events)
		}},
		&figure{name: "delivery, Redis layer", columns: microseconds, measure: func(ctx context.Context) ([]float64, error) {
			return latency(ctx, sender, receiver, events)
		}})

	for range rounds {
		for _, i := range rand.Perm(len(figures)) {
			f := figures[i]
			got, err := f.measure(ctx)
			if err != nil {
				return fmt.Errorf("%s: %w", f.name, err)
			}
			if f.values == nil {
				f.values = make([][]float64, len(f.columns))
			}
			for column, value := range got {
				f.values[column] = append(f.values[column], value)
			}
		}
	}

	fmt.Fprintf(out, "%s, %d CPUs, %d rounds of %v and %d events, %d bytes: median [min–max]\n\n",
		runtime.Version(), runtime.NumCPU(), rounds, length, events, eventSize)
	fmt.Fprint(out, "| | | | × redis-benchmark |\n|---|---|---|---|\n")
	for _, f := range figures {
		for i, column := range f.columns {
			share, decimals := "", 0
			if column == perSecond[1] {
				decimals = 2
			}
			if column == perSecond[0] { // within a round
				ratios := slices.Clone(f.values[i])
				for round := range ratios {
					ratios[round] /= figures[0].values[0][round]
				}
				share = spread(ratios, 2)
			}
			fmt.Fprintf(out, "| %s | %s | %s | %s |\n", f.name, column, spread(f.values[i], decimals), share)
		}
	}
	return nil
}

// spread formats the median, the minimum and the maximum.
func spread(values []float64, decimals int) string {
	v := slices.Sorted(slices.Values(values))
	return fmt.Sprintf("%.*f [%.*f–%.*f]", decimals, (v[(len(v)-1)/2]+v[len(v)/2])/2, decimals, v[0], decimals, v[len(v)-1])
}

// startRedis returns the port of a redis-server of this program's own.
func startRedis(ctx context.Context) (port string, stop func(), err error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	_, port, _ = net.SplitHostPort(listener.Addr().String())
	listener.Close() // somebody else may get it now: redis-server says so
	server := exec.CommandContext(ctx, "redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no")
	server.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	output, err := server.StdoutPipe()
	if err != nil {
		return "", nil, err
	}
	if err := server.Start(); err != nil {
		return "", nil, err
	}
	for lines := bufio.NewScanner(output); lines.Scan(); {
		if strings.Contains(lines.Text(), "Ready to accept connections") {
			go io.Copy(io.Discard, output)
			return port, func() { server.Process.Kill(); server.Wait() }, nil
		}
	}
	return "", nil, fmt.Errorf("redis-server: %w", server.Wait())
}

// redisBenchmark publishes to a channel without subscribers, with the defaults of
// redis-benchmark but for the pipelining: 50 connections.
func redisBenchmark(ctx context.Context, port string) ([]float64, error) {
	const calls = 1_500_000
	program := exec.CommandContext(ctx, "redis-benchmark", "-p", port, "-n", strconv.Itoa(calls), "-P", "16", "--csv",
		"PUBLISH", "grouphub:topic:{g:room:nobody's}", strings.Repeat("x", eventSize))
	out, err := program.Output()
	if err != nil {
		return nil, err
	}
	// "test","rps",… and a line of figures, which are quoted.
	found := regexp.MustCompile(`(?m)^"PUBLISH [^"]*","([0-9.]+)"`).FindSubmatch(out)
	if found == nil {
		return nil, fmt.Errorf("cannot read %q", out)
	}
	rate, err := strconv.ParseFloat(string(found[1]), 64)
	used := program.ProcessState.UserTime() + program.ProcessState.SystemTime()
	return []float64{rate, used.Seconds() * 1e6 / calls}, err
}

// event returns data with which an event's JSON has eventSize bytes.
func event(group string) any {
	type data struct {
		Text string `json:"text"`
	}
	empty, err := json.Marshal(grouphub.Event{Type: "chat.message", Group: group, Data: json.RawMessage(`{"text":""}`)})
	if err != nil {
		panic(err)
	}
	return data{strings.Repeat("x", eventSize-len(empty))}
}

// throughput sends from many goroutines, each the next when the last has been accepted,
// to a group without members.
func throughput(ctx context.Context, hub *grouphub.Hub, group string, senders int, length time.Duration) ([]float64, error) {
	var calls atomic.Int64
	var sending sync.WaitGroup
	failed := make(chan error, senders)
	var over atomic.Bool
	data := event(group)
	start, used := time.Now(), cpuTime()
	for range senders {
		sending.Go(func() {
			n := int64(0)
			defer func() { calls.Add(n) }()
			for ; !over.Load(); n++ {
				if err := hub.GroupSend(ctx, group, "chat.message", data); err != nil {
					failed <- err
					return
				}
			}
		})
	}
	select {
	case <-time.After(length):
	case <-ctx.Done():
	}
	over.Store(true)
	sending.Wait()
	took, used := time.Since(start), cpuTime()-used
	select {
	case err := <-failed:
		return nil, err
	default:
		n := float64(calls.Load())
		return []float64{n / took.Seconds(), used.Seconds() * 1e6 / n}, nil
	}
}

// cpuTime returns what this process has used so far.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// latency measures from just before GroupSend on one hub until a client of another has
// read the event from its socket, one event after the other.
func latency(ctx context.Context, from, to *grouphub.Hub, events int) ([]float64, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	connected := make(chan struct{})
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		to.ServeHTTP(w, r)
		close(connected)
	})}
	go server.Serve(listener) // until Close
	defer server.Close()
	client, _, err := websocket.DefaultDialer.DialContext(ctx, "ws://"+listener.Addr().String(), nil)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	<-connected
	data := event(room)
	var took []float64
	for i := range events + events/10 {
		start := time.Now()
		if err := from.GroupSend(ctx, room, "chat.message", data); err != nil {
			return nil, err
		}
		_, message, err := client.ReadMessage()
		if err != nil {
			return nil, err
		}
		if len(message) != eventSize {
			return nil, errors.New("got " + string(message))
		}
		if i >= events/10 { // the first are for warming up
			took = append(took, float64(time.Since(start).Microseconds()))
		}
	}
	slices.Sort(took)
	return []float64{took[len(took)/2], took[len(took)*99/100]}, nil
}
