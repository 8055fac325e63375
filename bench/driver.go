//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"

	"github.com/seed-29c60982/grouphub/bench/internal/measure"
)

// sessionTimeout is how long one measurement may take at the most.
const sessionTimeout = 2 * time.Minute

type driver struct {
	scenarios []scenario
	entries   []entry
	rounds    int
	length    time.Duration
	conns     int
	redis     string
}

// measure runs all scenarios. Within one the rounds are interleaved: a disturbance of
// the machine hits all contenders alike, and ratios are of figures from one round.
func (d *driver) measure(ctx context.Context, log io.Writer) (*results, error) {
	runtime.LockOSThread() // children end with the thread that started them
	defer runtime.UnlockOSThread()
	res := &results{Machine: measure.ThisMachine(), Rounds: d.rounds, Length: d.length.String()}
	for _, s := range d.scenarios {
		s = s.capped(d.conns)
		r := scenarioResult{Scenario: s}
		var able []entry
		for _, e := range d.entries {
			if e.takesPart(s) {
				able = append(able, e)
				r.Contenders = append(r.Contenders, contenderResult{Name: e.name})
			}
		}
		if len(able) == 0 {
			fmt.Fprintf(log, "%s: left out: no contender can\n", s.Name)
			continue
		}
		redis := ""
		if s.Redis {
			url, stop, err := d.startRedis(ctx)
			if err != nil {
				fmt.Fprintf(log, "%s: left out: %v\n", s.Name, err)
				continue
			}
			defer stop()
			redis = url
		}
		for round := range d.rounds {
			for _, i := range rand.Perm(len(able)) {
				got, err := d.session(ctx, s, able[i], redis)
				if ctx.Err() != nil {
					return nil, ctx.Err()
				}
				if err != nil {
					got.Error = err.Error()
				}
				fmt.Fprintf(log, "%s %d/%d %s %s\n", s.Name, round+1, d.rounds, able[i].name, got)
				r.Contenders[i].Samples = append(r.Contenders[i].Samples, got)
			}
		}
		res.Scenarios = append(res.Scenarios, r)
	}
	return res, nil
}

// session measures one contender once, with processes of its own.
func (d *driver) session(ctx context.Context, s scenario, e entry, redis string) (sample, error) {
	ctx, cancel := context.WithTimeout(ctx, sessionTimeout)
	defer cancel()
	servers := 1
	if s.Redis {
		servers = 2
	}
	j := job{Scenario: s, Hello: e.hello, Query: e.query, Stream: e.stream, Length: d.length}
	for range servers {
		at, stop, err := startServer(ctx, e.name, setup{redis, s.History, s.Latest, s.Kind == snapshots, s.Groups})
		if err != nil {
			return sample{}, err
		}
		defer stop()
		j.Servers = append(j.Servers, at)
	}
	input, err := json.Marshal(j)
	if err != nil {
		return sample{}, err
	}
	load, err := measure.Command(ctx, "load")
	if err != nil {
		return sample{}, err
	}
	var complaints bytes.Buffer
	load.Stdin, load.Stderr = bytes.NewReader(input), &complaints
	output, err := load.Output()
	if err != nil {
		return sample{}, fmt.Errorf("load generator: %w: %s", err, bytes.TrimSpace(complaints.Bytes()))
	}
	var got sample
	return got, json.Unmarshal(output, &got)
}

// startServer returns once the server listens.
func startServer(ctx context.Context, name string, s setup) (at address, stop func(), err error) {
	told, err := json.Marshal(s)
	if err != nil {
		return at, nil, err
	}
	server, err := measure.StartServer(ctx, &at, "serve", name, string(told))
	if err != nil {
		return at, nil, err
	}
	return at, server.Kill, nil
}

// startRedis returns the URL of the server to use. A server that it starts
// listens on a Unix socket alone.
func (d *driver) startRedis(ctx context.Context) (url string, stop func(), err error) {
	if d.redis != "" {
		return d.redis, func() {}, nil
	}
	program, err := exec.LookPath("redis-server")
	if err != nil {
		return "", nil, errors.New("no redis-server in PATH, and no -redis")
	}
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return "", nil, err
	}
	socket := filepath.Join(dir, "redis.sock")
	c := exec.CommandContext(ctx, program, "--port", "0", "--unixsocket", socket, "--save", "", "--appendonly", "no", "--dir", dir)
	c.SysProcAttr = measure.EndWithParent()
	if err := c.Start(); err != nil {
		return "", nil, errors.Join(err, os.RemoveAll(dir))
	}
	stop = func() {
		c.Process.Kill()
		c.Wait()
		os.RemoveAll(dir)
	}
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			conn.Close()
			return "unix://" + socket, stop, nil
		}
		if time.Now().After(deadline) {
			stop()
			return "", nil, fmt.Errorf("redis-server does not listen: %w", err)
		}
	}
}
