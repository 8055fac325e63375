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

// A redisServer is a redis-server of this run, on a port of loopback. It is a store, or a node of one.
type redisServer struct {
	ctx     context.Context
	dir     string
	port    string
	cluster *clusterNode // nil: it is no node of a Cluster
	process *exec.Cmd
	told    int64 // bytes of what it has replied to command since it was started
}

// A clusterNode is what makes a server a node of a Cluster.
type clusterNode struct {
	port    string        // to which other nodes connect
	timeout time.Duration // cluster-node-timeout
}

func startRedis(ctx context.Context) (*redisServer, error) {
	return startRedisServer(ctx, nil)
}

func startRedisServer(ctx context.Context, cluster *clusterNode) (*redisServer, error) {
	dir, err := os.MkdirTemp("", "fleet")
	if err != nil {
		return nil, err
	}
	r := &redisServer{ctx: ctx, dir: dir, cluster: cluster}
	for range 10 { // somebody else may get a port first
		if r.port, err = freePort(); err == nil && cluster != nil {
			cluster.port, err = freePort()
		}
		if err == nil {
			err = r.start()
		}
		if err == nil {
			return r, nil
		}
	}
	return nil, errors.Join(fmt.Errorf("redis-server does not start: %w", err), os.RemoveAll(dir))
}

// start starts the server, which keeps nothing on disk, and returns when it answers.
func (r *redisServer) start() error {
	program, err := exec.LookPath("redis-server")
	if err != nil {
		return err
	}
	args := []string{"--port", r.port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", r.dir,
		"--client-output-buffer-limit", "pubsub 256mb 64mb 60"}
	if r.cluster != nil {
		args = append(args, "--cluster-enabled", "yes", "--cluster-port", r.cluster.port,
			"--cluster-node-timeout", strconv.FormatInt(r.cluster.timeout.Milliseconds(), 10))
	}
	c := exec.CommandContext(r.ctx, program, args...)
	c.SysProcAttr = measure.EndWithParent()
	if err := c.Start(); err != nil {
		return err
	}
	r.process, r.told = c, 0
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

func (r *redisServer) kind() storeKind  { return oneRedis }
func (r *redisServer) address() string  { return "127.0.0.1:" + r.port }
func (r *redisServer) url() string      { return "redis://" + r.address() }
func (r *redisServer) processes() []int { return []int{r.process.Process.Pid} }

func (r *redisServer) usage() (u storeUsage, err error) {
	told := r.told // what this reply has is not in its own figures
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
	u.In, u.Out = integer("total_net_input_bytes"), integer("total_net_output_bytes")-told
	u.Commands = integer("total_commands_processed")
	// Whoever reads a history runs a script with one XRANGE, and nobody else has any.
	calls, _, _ := strings.Cut(strings.TrimPrefix(info["cmdstat_xrange"], "calls="), ",")
	u.Reads, _ = strconv.ParseInt(calls, 10, 64)
	return u, err
}

// info returns what INFO says.
func (r *redisServer) info() (map[string]string, error) {
	text, err := r.command("INFO all")
	if err != nil {
		return nil, err
	}
	info := make(map[string]string)
	for line := range strings.Lines(text) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			info[key] = value
		}
	}
	return info, nil
}

// command runs a command whose reply is one string, or a number.
func (r *redisServer) command(words string) (string, error) {
	conn, err := net.Dial("tcp", r.address())
	if err != nil {
		return "", err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(conn, words+"\r\n"); err != nil {
		return "", err
	}
	reply := bufio.NewReader(conn)
	head, err := reply.ReadString('\n')
	if err != nil {
		return "", err
	}
	r.told += int64(len(head))
	switch head = strings.TrimSpace(head); head[:min(len(head), 1)] {
	case "+", ":":
		return head[1:], nil
	case "$":
		size, err := strconv.Atoi(head[1:])
		if err != nil || size < 0 {
			break
		}
		text := make([]byte, size+len("\r\n"))
		_, err = io.ReadFull(reply, text)
		r.told += int64(len(text))
		return string(text), err
	}
	return "", fmt.Errorf("%s answered with %q", words, head)
}
