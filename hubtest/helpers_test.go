package hubtest_test

import (
	"context"
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/gorilla/websocket"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/internal/leak"
)

// TestMain fails the suite if a goroutine outlives it.
func TestMain(m *testing.M) { leak.Check(m) }

// newHub returns a hub that is shut down when the test ends.
func newHub(t *testing.T, opts *grouphub.Options) *grouphub.Hub {
	hub := grouphub.New(opts)
	t.Cleanup(func() {
		if err := hub.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return hub
}

// upgraded is a handler that upgrades, hands the connection to fn on a goroutine of
// its own, and returns, as a hub's does.
func upgraded(fn func(*websocket.Conn)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		upgrader := websocket.Upgrader{Subprotocols: []string{"chat"}}
		conn, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			fn(conn)
		}()
	})
}

// echo sends back what it reads until the connection ends.
func echo(conn *websocket.Conn) {
	for {
		opcode, data, err := conn.ReadMessage()
		if err != nil || conn.WriteMessage(opcode, data) != nil {
			return
		}
	}
}

// greeting sends texts and keeps the connection open.
func greeting(texts ...string) http.Handler {
	return upgraded(func(conn *websocket.Conn) {
		for _, text := range texts {
			conn.WriteMessage(websocket.TextMessage, []byte(text))
		}
		echo(conn)
	})
}

// A failing is a testing.TB that writes down the first failure.
type failing struct {
	testing.TB
	message string
}

func (f *failing) Errorf(format string, args ...any) {
	if f.message == "" {
		f.message = fmt.Sprintf(format, args...)
	}
}

func (f *failing) Fatalf(format string, args ...any) {
	f.Errorf(format, args...)
	runtime.Goexit()
}

// failure runs fn as a test would be run, and returns what it failed with.
func failure(t *testing.T, fn func(t testing.TB)) string {
	f := &failing{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		fn(f)
	}()
	<-done
	return f.message
}

// A failureCase is a misuse, or a server that does something else, and the failure that the
// test should end with.
type failureCase struct {
	name string
	fn   func(t testing.TB)
	want string
}

// expectFailures runs each case in a bubble and compares its failure.
func expectFailures(t *testing.T, cases []failureCase) {
	t.Helper()
	for _, test := range cases {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if got := failure(t, test.fn); got != test.want {
					t.Errorf("failed with\n%s\nwant\n%s", got, test.want)
				}
			})
		})
	}
}

// A cleaning runs its cleanups when it is told to.
type cleaning struct {
	testing.TB
	cleanups []func()
}

func (c *cleaning) Cleanup(fn func()) { c.cleanups = append(c.cleanups, fn) }

func (c *cleaning) clean() {
	for _, fn := range slices.Backward(c.cleanups) {
		fn()
	}
}
