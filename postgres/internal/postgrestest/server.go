// Package postgrestest starts PostgreSQL servers of the tests' own, and breaks them.
package postgrestest

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// patience is how long a server may take to start.
const patience = 30 * time.Second

// A Server is a PostgreSQL server with a directory and a port of its own.
type Server struct {
	t       testing.TB
	bin     string              // where the programs are
	run     *syscall.Credential // whom the server runs as, since it refuses root; nil: as the test does
	dir     string              // holds data, socket and log
	data    string
	port    string
	args    []string
	process *exec.Cmd
	names   atomic.Int64 // of databases
}

// Start starts a server that ends with the test. The settings are like those of a
// postgresql.conf, "name=value". Without the programs the test is skipped, except where CI is
// true.
func Start(t testing.TB, settings ...string) *Server {
	t.Helper()
	s := prepare(t, settings)
	s.command("initdb", "-D", s.data, "-U", "postgres", "-A", "trust", "--no-sync", "--locale=C", "-E", "UTF8")
	s.Start()
	return s
}

// prepare makes a server's directory.
func prepare(t testing.TB, settings []string) *Server {
	t.Helper()
	bin := programs()
	if bin == "" {
		if os.Getenv("CI") == "true" {
			t.Fatal("postgresql is not installed")
		}
		t.Skip("postgresql is not installed")
	}
	dir, err := os.MkdirTemp("", "grouphub-postgres-") // short, as the path of a socket has to be
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{t: t, bin: bin, dir: dir, data: filepath.Join(dir, "data"), port: freePort(t)}
	t.Cleanup(func() {
		s.Kill()
		os.RemoveAll(dir)
	})
	if os.Getuid() == 0 {
		s.run = s.credential()
		if err := os.Chown(dir, int(s.run.Uid), int(s.run.Gid)); err != nil {
			t.Fatal(err)
		}
	}
	settings = append([]string{"listen_addresses=127.0.0.1", "port=" + s.port, "unix_socket_directories=" + dir,
		"max_connections=200", "shared_buffers=64MB"}, settings...)
	for _, setting := range settings {
		s.args = append(s.args, "-c", setting)
	}
	return s
}

// programs returns the directory of PostgreSQL's programs, which Debian keeps out of the path.
func programs() string {
	if path, err := exec.LookPath("initdb"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			return filepath.Dir(path)
		}
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if len(found) == 0 {
		return ""
	}
	slices.Sort(found)
	return filepath.Dir(found[len(found)-1])
}

// credential returns the user that Debian's package has made.
func (s *Server) credential() *syscall.Credential {
	s.t.Helper()
	u, err := user.Lookup("postgres")
	if err != nil {
		s.t.Fatal(err)
	}
	uid, _ := strconv.ParseUint(u.Uid, 10, 32)
	gid, _ := strconv.ParseUint(u.Gid, 10, 32)
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
}

func freePort(t testing.TB) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	return port
}

// command runs one of PostgreSQL's programs as the server's user.
func (s *Server) command(name string, args ...string) {
	s.t.Helper()
	command := s.as(filepath.Join(s.bin, name), args...)
	if out, err := command.CombinedOutput(); err != nil {
		s.t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
}

func (s *Server) as(path string, args ...string) *exec.Cmd {
	command := exec.Command(path, args...)
	command.Dir = s.dir
	command.SysProcAttr = &syscall.SysProcAttr{Credential: s.run}
	return command
}

// Start starts the server again that Kill or Stop has ended, and returns when it accepts
// connections.
func (s *Server) Start() {
	s.t.Helper()
	log, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		s.t.Fatal(err)
	}
	defer log.Close()
	deadline := time.Now().Add(patience)
	for {
		s.process = s.as(filepath.Join(s.bin, "postgres"), append([]string{"-D", s.data}, s.args...)...)
		s.process.Stdout, s.process.Stderr = log, log
		if err := s.process.Start(); err != nil {
			s.t.Fatal(err)
		}
		ended := make(chan struct{})
		process := s.process
		go func() {
			process.Wait()
			close(ended)
		}()
		for running := true; running; {
			if conn, err := pgx.Connect(context.Background(), s.URL("postgres")); err == nil {
				conn.Close(context.Background())
				return
			}
			select {
			case <-ended: // the processes of one that was killed may still hold its memory
				running = false
			case <-time.After(20 * time.Millisecond):
			}
			if time.Now().After(deadline) {
				written, _ := os.ReadFile(filepath.Join(s.dir, "log"))
				s.t.Fatalf("postgres does not start:\n%s", written[max(0, len(written)-4000):])
			}
		}
	}
}

// Kill ends the server and all of its processes as SIGKILL does.
func (s *Server) Kill() {
	if s.process == nil {
		return
	}
	children := s.children()
	s.process.Process.Kill()
	for _, child := range children {
		syscall.Kill(child, syscall.SIGKILL)
	}
	for deadline := time.Now().Add(patience); s.alive() && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	s.process = nil
}

func (s *Server) alive() bool { return s.process.Process.Signal(syscall.Signal(0)) == nil }

// Freeze stops every process of the server without ending it, until Thaw.
func (s *Server) Freeze() { s.signal(syscall.SIGSTOP) }

// Thaw lets the server go on.
func (s *Server) Thaw() { s.signal(syscall.SIGCONT) }

// signal sends a signal to the server, and then to the processes that it has.
func (s *Server) signal(sig syscall.Signal) {
	s.process.Process.Signal(sig)
	for _, child := range s.children() {
		syscall.Kill(child, sig)
	}
}

// children returns the processes that the server has started.
func (s *Server) children() (pids []int) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		stat, _ := os.ReadFile(path)
		_, rest, _ := bytes.Cut(stat, []byte(") ")) // behind the name, which may have anything in it
		fields := strings.Fields(string(rest))
		if len(fields) > 1 && fields[1] == strconv.Itoa(s.process.Process.Pid) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			pids = append(pids, pid)
		}
	}
	return pids
}

// LoseLast calls run and then has the server lose all that was written since: it comes back
// as a copy of itself that was made before.
func (s *Server) LoseLast(run func()) {
	s.t.Helper()
	copied := s.data + "-copy"
	s.command("pg_basebackup", "-D", copied, "-h", s.dir, "-p", s.port, "-U", "postgres", "-c", "fast", "--no-sync")
	run()
	s.Kill()
	os.RemoveAll(s.data)
	if err := os.Rename(copied, s.data); err != nil {
		s.t.Fatal(err)
	}
	s.Start()
}

// Standby starts a copy of the server that follows it.
func (s *Server) Standby() *Server {
	s.t.Helper()
	standby := prepare(s.t, nil)
	standby.command("pg_basebackup", "-D", standby.data, "-h", s.dir, "-p", s.port, "-U", "postgres", "-c", "fast", "-R", "--no-sync")
	standby.Start()
	return standby
}

// Promote makes a standby a server of its own.
func (s *Server) Promote() { s.command("pg_ctl", "promote", "-w", "-D", s.data) }

// Address returns the server's host and port.
func (s *Server) Address() string { return "127.0.0.1:" + s.port }

// Directory returns where the server's socket is.
func (s *Server) Directory() string { return s.dir }

// URL returns what connects to a database.
func (s *Server) URL(database string) string {
	return fmt.Sprintf("postgres://postgres@%s/%s?sslmode=disable&connect_timeout=5", s.Address(), database)
}

// NewDatabase makes an empty database and returns its URL.
func (s *Server) NewDatabase() string {
	s.t.Helper()
	name := fmt.Sprint("test", s.names.Add(1))
	conn, err := pgx.Connect(context.Background(), s.URL("postgres"))
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(context.Background(), "CREATE DATABASE "+name+" STRATEGY file_copy"); err != nil {
		s.t.Fatal(err)
	}
	return s.URL(name)
}

// NewPool returns a pool for a URL that is closed when the test ends.
func NewPool(t testing.TB, url string, options ...func(*pgxpool.Config)) *pgxpool.Pool {
	t.Helper()
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	config.MaxConns = 16
	for _, option := range options {
		option(config)
	}
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}
