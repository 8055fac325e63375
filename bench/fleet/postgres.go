//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/bench/internal/measure"
	"github.com/seed-29c60982/grouphub/postgres"
)

// postgresTimeout is how long PostgreSQL may take to start.
const postgresTimeout = 30 * time.Second

// A postgresServer is a PostgreSQL of this run, on a port of loopback. But for the room for the
// connections of all hubs its settings are the defaults: each commit waits for the disk.
type postgresServer struct {
	ctx     context.Context
	bin     string // where its programs are
	dir     string
	port    string
	runAs   *syscall.Credential // nil: as the driver does. It refuses to be root
	process *exec.Cmd
	ended   chan struct{} // closed when all processes have
}

func startPostgres(ctx context.Context) (p *postgresServer, err error) {
	p = &postgresServer{ctx: ctx}
	if p.bin, err = postgresPrograms(); err != nil {
		return nil, err
	}
	if os.Getuid() == 0 {
		if p.runAs, err = postgresUser(); err != nil {
			return nil, err
		}
	}
	if p.dir, err = os.MkdirTemp("", "fleet"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	if p.runAs != nil {
		if err := os.Chown(p.dir, int(p.runAs.Uid), int(p.runAs.Gid)); err != nil {
			return nil, err
		}
	}
	if p.port, err = freePort(); err != nil {
		return nil, err
	}
	initdb := p.command("initdb", "-D", p.data(), "-U", "postgres", "-A", "trust", "--no-sync", "--locale=C", "-E", "UTF8")
	if out, err := initdb.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("initdb: %w\n%s", err, out)
	}
	return p, p.start()
}

// postgresPrograms returns the directory of PostgreSQL's programs, which Debian keeps out of the path.
func postgresPrograms() (string, error) {
	if path, err := exec.LookPath("initdb"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			return filepath.Dir(path), nil
		}
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if len(found) == 0 {
		return "", errors.New("postgresql is not installed")
	}
	return filepath.Dir(slices.Max(found)), nil
}

// postgresUser returns the user that Debian's package has made.
func postgresUser() (*syscall.Credential, error) {
	u, err := user.Lookup("postgres")
	if err != nil {
		return nil, err
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, err
}

func (p *postgresServer) data() string { return filepath.Join(p.dir, "data") }

func (p *postgresServer) command(name string, args ...string) *exec.Cmd {
	c := exec.CommandContext(p.ctx, filepath.Join(p.bin, name), args...)
	c.Dir = p.dir
	c.SysProcAttr = measure.EndWithParent()
	c.SysProcAttr.Credential = p.runAs
	return c
}

// start starts the server, which may have been killed, and returns when it accepts connections.
func (p *postgresServer) start() error {
	for deadline := time.Now().Add(postgresTimeout); ; {
		c := p.command("postgres", "-D", p.data(), "-c", "listen_addresses=127.0.0.1", "-c", "port="+p.port,
			"-c", "unix_socket_directories="+p.dir, "-c", "max_connections=200")
		var said bytes.Buffer
		c.Stdout, c.Stderr = &said, &said
		if err := c.Start(); err != nil {
			return err
		}
		ended := make(chan struct{})
		p.process, p.ended = c, ended
		go func() { c.Wait(); close(ended) }() // they share its output, the end of which it waits for
		for running := true; running; {
			conn, err := pgx.Connect(p.ctx, p.url())
			if err == nil {
				return conn.Close(p.ctx)
			}
			select {
			case <-ended: // what is left of one that was killed may still have its memory
				running = false
			case <-time.After(10 * time.Millisecond):
			}
			if time.Now().After(deadline) {
				p.kill()
				return fmt.Errorf("postgres does not start: %w\n%s", err, said.Bytes())
			}
		}
	}
}

// kill ends all of the server's processes as a crash would.
func (p *postgresServer) kill() {
	if p.process == nil {
		return
	}
	for _, pid := range p.processes() {
		syscall.Kill(pid, syscall.SIGKILL)
	}
	<-p.ended
	p.process = nil
}

func (p *postgresServer) close() {
	p.kill()
	os.RemoveAll(p.dir)
}

func (p *postgresServer) kind() storeKind { return postgreSQL }

func (p *postgresServer) url() string {
	return "postgres://postgres@127.0.0.1:" + p.port + "/postgres?sslmode=disable&connect_timeout=5"
}

// processes has the server's own first, and then those that it has started.
func (p *postgresServer) processes() []int {
	server := p.process.Process.Pid
	all := []int{server}
	paths, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range paths {
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		fields, err := processFields(pid)
		if err == nil && fields[1] == strconv.Itoa(server) {
			all = append(all, pid)
		}
	}
	return all
}

// usage is CPU alone: the server counts neither bytes, nor what it is asked by the layer. Processes that
// have ended are in what their parent has waited for.
func (p *postgresServer) usage() (u storeUsage, err error) {
	fields, err := processFields(p.process.Process.Pid)
	if err != nil {
		return u, err
	}
	for _, text := range fields[13:15] { // of the children, user and system
		ticks, parseErr := strconv.Atoi(text)
		err = errors.Join(err, parseErr)
		u.CPU += time.Duration(ticks) * clockTick
	}
	for _, pid := range p.processes() {
		if used, err := runTime(pid); err == nil { // else it has ended just now
			u.CPU += used
		}
	}
	return u, err
}

// runTime returns the time that a process of one thread has run, in nanoseconds, where the kernel's ticks
// are too coarse: an event takes each of many processes some microseconds.
func runTime(pid int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/schedstat", pid))
	if errors.Is(err, os.ErrNotExist) { // the kernel may have been built without it
		return processTime(pid)
	}
	run, _, _ := strings.Cut(string(text), " ")
	ns, parseErr := strconv.ParseInt(run, 10, 64)
	return time.Duration(ns), errors.Join(err, parseErr)
}

// postgresLayer connects a hub, and counts its bytes, which the server does not.
func postgresLayer(url string, logger *slog.Logger, t *traffic) (grouphub.Layer, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	config.ConnConfig.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		return &countedConn{conn, t}, err
	}
	pool, err := pgxpool.NewWithConfig(context.Background(), config) // for as long as the process lives
	if err != nil {
		return nil, err
	}
	return postgres.NewLayer(context.Background(), pool, &postgres.LayerOptions{Logger: logger})
}

// A countedConn counts what passes through a connection.
type countedConn struct {
	net.Conn
	*traffic
}

func (c *countedConn) Read(b []byte) (n int, err error) {
	n, err = c.Conn.Read(b)
	c.received.Add(int64(n))
	return n, err
}

func (c *countedConn) Write(b []byte) (n int, err error) {
	n, err = c.Conn.Write(b)
	c.sent.Add(int64(n))
	return n, err
}
