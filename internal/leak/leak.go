// Package leak lets a package's tests fail when a goroutine outlives them. Only tests
// import it.
package leak

import (
	"flag"
	"fmt"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// patience is how long goroutines may take to end after the tests. In a Cluster, rueidis
// keeps one for some seconds.
const patience = 20 * time.Second

// parallel is how many parallel tests run at a time. Most of them wait for a server, so
// there may be more than there are cores.
const parallel = "8"

// Check runs a package's tests and exits, with an error if a goroutine outlives them.
func Check(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", parallel); err != nil {
		panic(err)
	}
	code := m.Run()
	http.DefaultClient.CloseIdleConnections()
	for deadline := time.Now().Add(patience); code == 0; runtime.Gosched() {
		// Where the test runner fuzzes, its signal handler is left.
		left := slices.DeleteFunc(Others(), func(stack string) bool {
			return strings.Contains(stack, "os/signal.loop()")
		})
		if len(left) == 0 {
			break
		}
		if time.Now().After(deadline) {
			fmt.Fprintf(os.Stderr, "%d goroutines outlive the tests:\n\n%s\n", len(left), strings.Join(left, "\n\n"))
			code = 1
		}
	}
	os.Exit(code)
}

// Others returns the stacks of all goroutines but the caller's.
func Others() []string {
	buf := make([]byte, 4<<20)
	return strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n")[1:]
}
