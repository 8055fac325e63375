// Package leak fails a package's tests if a goroutine outlives them.
package leak

import (
	"fmt"
	"net/http"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// patience is how long goroutines may take to end. In a Cluster, rueidis keeps one for
// some seconds.
const patience = 20 * time.Second

// Run runs the tests, and returns the code to exit with.
func Run(m *testing.M) int {
	code := m.Run()
	http.DefaultClient.CloseIdleConnections()
	for deadline := time.Now().Add(patience); code == 0; time.Sleep(time.Millisecond) {
		left := others()
		if len(left) == 0 {
			break
		}
		if time.Now().After(deadline) {
			fmt.Fprintf(os.Stderr, "%d goroutines outlive the tests:\n\n%s\n", len(left), strings.Join(left, "\n\n"))
			code = 1
		}
	}
	return code
}

// others returns the stacks of all goroutines but this one.
func others() []string {
	buf := make([]byte, 4<<20)
	return strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n")[1:]
}
