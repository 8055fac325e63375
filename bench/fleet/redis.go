//go:build linux

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/seed-29c60982/grouphub/bench/internal/measure"
)

// A redisServer is a redis-server of this run, on a port of loopback.
type redisServer struct {
	ctx     context.Context
	dir     string
	port    string
	process *exec.Cmd
}

func startRedis(ctx context.Context) (*redisServer, error) {
	dir, err := os.MkdirTemp("", "fleet")
	if err != nil {
		return nil, err
	}
	r := &redisServer{ctx: ctx, dir: dir}
	for range 10 { // somebody else may get the port first
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		_, r.port, _ = net.SplitHostPort(listener.Addr().String())
		listener.Close()
		if err = r.start(); err == nil {
			return r, nil
		}
	}
	return nil, errors.Join(errors.New("redis-server does not start"), os.RemoveAll(dir))
}

// start starts the server, which keeps nothing on disk, and returns when it answers.
func (r *redisServer) start() error {
	program, err := exec.LookPath("redis-server")
	if err != nil {
		return err
	}
	c := exec.CommandContext(r.ctx, program, "--port", r.port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", r.dir,
		"--client-output-buffer-limit", "pubsub 256mb 64mb 60")
	c.SysProcAttr = measure.EndWithParent()
	if err := c.Start(); err != nil {
		return err
	}
	r.process = c
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		_, err := r.info()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			r.kill()
			return err
		}
	}
}

// kill ends the server as a crash would.
func (r *redisServer) kill() {
	r.process.Process.Kill()
	r.process.Wait()
}

func (r *redisServer) close() {
	r.kill()
	os.RemoveAll(r.dir)
}

func (r *redisServer) address() string { return "127.0.0.1:" + r.port }

// A redisUsage is what the server has used and done since it started.
type redisUsage struct {
	CPU      time.Duration
	In, Out  int64 // bytes
	Commands int64 // of clients, and of their scripts
	Reads    int64 // of histories
	Memory   int64 // bytes
}

func (u redisUsage) minus(v redisUsage) redisUsage {
	return redisUsage{u.CPU - v.CPU, u.In - v.In, u.Out - v.Out, u.Commands - v.Commands, u.Reads - v.Reads, u.Memory - v.Memory}
}

func (r *redisServer) usage() (u redisUsage, err error) {
	info, err := r.info()
	if err != nil {
		return u, err
	}
	integer := func(key string) int64 {
		n, parseErr := strconv.ParseInt(info[key], 10, 64)
		err = errors.Join(err, parseErr)
		return n
	}
	for _, key := range []string{"used_cpu_user", "used_cpu_sys"} {
		seconds, parseErr := strconv.ParseFloat(info[key], 64)
		err = errors.Join(err, parseErr)
		u.CPU += time.Duration(seconds * float64(time.Second))
	}
	u.In, u.Out = integer("total_net_input_bytes"), integer("total_net_output_bytes")
	u.Commands, u.Memory = integer("total_commands_processed"), integer("used_memory")
	// Whoever reads a history runs a script with one XRANGE, and nobody else has any.
	calls, _, _ := strings.Cut(strings.TrimPrefix(info["cmdstat_xrange"], "calls="), ",")
	u.Reads, _ = strconv.ParseInt(calls, 10, 64)
	return u, err
}

// info returns what INFO says.
func (r *redisServer) info() (map[string]string, error) {
	conn, err := net.Dial("tcp", r.address())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(conn, "INFO all\r\n"); err != nil {
		return nil, err
	}
	answer := bufio.NewReader(conn)
	head, err := answer.ReadString('\n')
	if err != nil {
		return nil, err
	}
	size, err := strconv.Atoi(strings.TrimSpace(strings.TrimPrefix(head, "$")))
	if err != nil {
		return nil, fmt.Errorf("INFO answered with %q", head)
	}
	text := make([]byte, size)
	if _, err := io.ReadFull(answer, text); err != nil {
		return nil, err
	}
	info := make(map[string]string)
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			info[key] = value
		}
	}
	return info, nil
}
