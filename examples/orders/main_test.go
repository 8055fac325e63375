package main

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/seed-29c60982/grouphub/hubtest"
)

// A shop is one process's part of the application.
type shop struct {
	http.Handler
	store store
	stop  func()
}

// openShop opens a shop whose relay runs if relays says so. It ends with stop, or the test.
func openShop(t *testing.T, postgres, file string, relays bool) *shop {
	t.Helper()
	orders, events, err := open(t.Context(), postgres, file)
	if err != nil {
		t.Fatal(err)
	}
	hub := newHub(events)
	ctx, cancel := context.WithCancel(context.Background())
	relayed := make(chan error, 1)
	if relays {
		go func() { relayed <- orders.Relay(ctx, events) }()
	} else {
		relayed <- nil
	}
	stopped := false
	stop := func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-relayed; err != nil {
			t.Error(err)
		}
		if err := hub.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		events.Close()
		orders.Close()
	}
	t.Cleanup(stop)
	return &shop{routes(hub, orders), orders, stop}
}

// place places an order and returns the answer's status.
func (s *shop) place(customer, item, fail string) int {
	form := url.Values{"customer": {customer}, "item": {item}, "fail": {fail}}
	r := httptest.NewRequest("POST", "/orders", strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w.Code
}

func (s *shop) page(t *testing.T) string {
	t.Helper()
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	if w.Code != http.StatusOK {
		t.Fatalf("the page: %d %s", w.Code, w.Body)
	}
	return w.Body.String()
}

func expectOrder(t *testing.T, c *hubtest.Client, customer, item string) {
	t.Helper()
	var o order
	if err := json.Unmarshal(c.ExpectEvent(eventOfNew).Data, &o); err != nil || o.Customer != customer || o.Item != item {
		t.Fatalf("got %+v, %v, want %s for %s", o, err, item, customer)
	}
}

func TestAPageShowsAnOrderIfItsTransactionCommits(t *testing.T) {
	for name, postgres := range stores(t) {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "orders.db")
			s := openShop(t, postgres(t), file, true)
			c := hubtest.Dial(t, s, "/live")
			if status := s.place("Ann", "Tea", ""); status != http.StatusSeeOther {
				t.Fatalf("an order: %d", status)
			}
			expectOrder(t, c, "Ann", "Tea")
			if status := s.place("Ben", "Cake", "yes"); status != http.StatusPaymentRequired {
				t.Fatalf("an order that fails: %d", status)
			}
			if status := s.place("Cleo", "", ""); status != http.StatusBadRequest {
				t.Fatalf("an order of nothing: %d", status)
			}
			s.place("<b>Dora", "Pie", "")
			expectOrder(t, c, "<b>Dora", "Pie")
			if page := s.page(t); !strings.Contains(page, "Ann") || strings.Contains(page, "Ben") || strings.Contains(page, "<b>Dora") {
				t.Errorf("the page is %s", page)
			}
		})
	}
}

func TestAnEventGoesOutThoughTheProcessEndsRightAfterTheCommit(t *testing.T) {
	for name, postgres := range stores(t) {
		t.Run(name, func(t *testing.T) {
			url, file := postgres(t), filepath.Join(t.TempDir(), "orders.db")
			first := openShop(t, url, file, false)
			first.place("Ann", "Tea", "")
			first.stop()
			second := openShop(t, url, file, true)
			expectOrder(t, hubtest.Dial(t, second, "/live"), "Ann", "Tea")
		})
	}
}

func TestTheProgramServesItsPageAndEnds(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	r, w := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, "127.0.0.1:0", "", filepath.Join(t.TempDir(), "orders.db"), w)
		w.Close()
	}()
	said := make([]byte, 100)
	n, err := r.Read(said)
	if err != nil {
		t.Fatal(err, <-ended)
	}
	_, address, _ := strings.Cut(string(said[:n]), "http://")
	address, _, _ = strings.Cut(address, "/")
	answer, err := http.Get("http://" + address)
	if err != nil || answer.StatusCode != http.StatusOK {
		t.Fatal(answer, err)
	}
	answer.Body.Close()
	http.DefaultClient.CloseIdleConnections()
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// stores returns what makes the URL of an empty PostgreSQL, and an empty one for SQLite.
func stores(t *testing.T) map[string]func(t *testing.T) string {
	return map[string]func(t *testing.T) string{
		"SQLite":     func(*testing.T) string { return "" },
		"PostgreSQL": startPostgres,
	}
}

// startPostgres starts a server that ends with the test. Without PostgreSQL the test is
// skipped, except where CI is true.
func startPostgres(t *testing.T) string {
	t.Helper()
	programs, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	if len(programs) == 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("postgresql is not installed")
		}
		t.Skip("postgresql is not installed")
	}
	dir, err := os.MkdirTemp("", "orders-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	attributes := &syscall.SysProcAttr{}
	if os.Getuid() == 0 { // which PostgreSQL refuses
		u, err := user.Lookup("postgres")
		if err != nil {
			t.Fatal(err)
		}
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		attributes.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		if err := os.Chown(dir, uid, gid); err != nil {
			t.Fatal(err)
		}
	}
	command := func(name string, args ...string) *exec.Cmd {
		c := exec.Command(filepath.Join(programs[len(programs)-1], name), args...)
		c.Dir, c.SysProcAttr = dir, attributes
		return c
	}
	data := filepath.Join(dir, "data")
	if out, err := command("initdb", "-D", data, "-U", "postgres", "-A", "trust", "--no-sync").CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	listener.Close()
	server := command("postgres", "-D", data, "-c", "listen_addresses=127.0.0.1", "-c", "port="+port, "-c", "unix_socket_directories="+dir, "-c", "fsync=off")
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		server.Process.Signal(syscall.SIGQUIT)
		server.Wait()
	})
	url := "postgres://postgres@127.0.0.1:" + port + "/postgres?sslmode=disable"
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if conn, err := pgx.Connect(t.Context(), url); err == nil {
			conn.Close(t.Context())
			return url
		} else if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}
