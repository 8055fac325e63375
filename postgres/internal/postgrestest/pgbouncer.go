package postgrestest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// StartPgbouncer starts a pgbouncer in transaction mode in front of the server that ends with
// the test, and returns its address. The server's connections for each database are so many
// at the most. Without the program the test is skipped, except where CI is true.
func (s *Server) StartPgbouncer(t testing.TB, connections int) (address string) {
	t.Helper()
	path, err := exec.LookPath("pgbouncer")
	if err != nil {
		if path = "/usr/sbin/pgbouncer"; !exists(path) {
			if os.Getenv("CI") == "true" {
				t.Fatal("pgbouncer is not installed")
			}
			t.Skip("pgbouncer is not installed")
		}
	}
	port := freePort(t)
	ini := filepath.Join(s.dir, "pgbouncer.ini")
	users := filepath.Join(s.dir, "users.txt")
	config := fmt.Sprintf(`[databases]
* = host=127.0.0.1 port=%s user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %s
unix_socket_dir =
auth_type = any
auth_file = %s
pool_mode = transaction
default_pool_size = %d
ignore_startup_parameters = extra_float_digits
logfile = %s
`, s.port, port, users, connections, filepath.Join(s.dir, "pgbouncer.log"))
	for name, text := range map[string]string{ini: config, users: "\"postgres\" \"\"\n"} {
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	process := s.as(path, ini)
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		process.Process.Kill()
		process.Wait()
	})
	address = "127.0.0.1:" + port
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		conn, err := pgx.Connect(t.Context(), "postgres://postgres@"+address+"/postgres?sslmode=disable&default_query_exec_mode=exec")
		if err == nil {
			conn.Close(t.Context())
			return address
		}
		if time.Now().After(deadline) {
			log, _ := os.ReadFile(filepath.Join(s.dir, "pgbouncer.log"))
			t.Fatalf("pgbouncer does not start: %v\n%s", err, log)
		}
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
