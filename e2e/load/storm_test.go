//go:build unix

package load

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
)

// TestAStormOnAGroupWhoseHistoryHasGoneCostsAFewLoads has 9,000 clients resume a group at once,
// of which the history has gone: with both ends in one process these are as many as 20,000 open
// files allow. They share the loads, and a group beside them goes on.
func TestAStormOnAGroupWhoseHistoryHasGoneCostsAFewLoads(t *testing.T) {
	storm := 9000
	if raceEnabled || testing.Short() {
		storm = 2000
	}
	raiseOpenFiles(t, 2*storm+200)
	const query = 20 * time.Millisecond
	var loads, arrived atomic.Int64
	gate := make(chan struct{})
	waited := make(chan time.Duration, storm)
	hub := grouphub.New(&grouphub.Options{
		Logger: slog.New(slog.DiscardHandler),
		Policy: func(group string) grouphub.GroupPolicy {
			if group != "board" {
				return grouphub.GroupPolicy{}
			}
			return grouphub.GroupPolicy{History: 10, Snapshot: func(context.Context, string) (any, error) {
				loads.Add(1)
				time.Sleep(query)
				return strings.Repeat("x", 1000), nil
			}}
		},
		Consumer: grouphub.Consumer{
			Connect: func(c *grouphub.Conn) error {
				if c.Request().URL.Path == "/beside" {
					return c.Join("beside")
				}
				arrived.Add(1)
				<-gate
				begin := time.Now()
				err := c.Join("board")
				waited <- time.Since(begin)
				return err
			},
			Events: grouphub.Events{"*": grouphub.Forward()},
		},
	})
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := hub.Shutdown(ctx); err != nil {
			t.Error(err)
		}
	}()
	server := httptest.NewServer(hub)
	defer server.Close()
	position, err := hub.Position(t.Context(), "board")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 20 { // more than are kept
		if err := hub.GroupSend(t.Context(), "board", "n", i); err != nil {
			t.Fatal(err)
		}
	}
	address := server.Listener.Addr().String()
	conns := make([]net.Conn, storm)
	for i := range conns {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conns[i] = conn
		fmt.Fprintf(conn, "GET /?resume=%s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
			"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", url.QueryEscape("board@"+position), address)
	}
	for limit := time.Now().Add(time.Minute); arrived.Load() < int64(storm); time.Sleep(time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("%d of %d have come", arrived.Load(), storm)
		}
	}
	beside := hubtest.Dial(t, hub, "/beside")
	var longest time.Duration
	stop := make(chan struct{})
	var going sync.WaitGroup
	going.Go(func() {
		for {
			begin := time.Now()
			if err := hub.GroupSend(t.Context(), "beside", "n", nil); err != nil {
				t.Error(err)
			}
			beside.ExpectEvent("n")
			longest = max(longest, time.Since(begin))
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
			}
		}
	})
	begin := time.Now()
	close(gate)
	var times []time.Duration
	for range storm {
		times = append(times, <-waited)
	}
	took := time.Since(begin)
	close(stop)
	going.Wait()
	slices.Sort(times)
	t.Logf("%d clients, %d loads of %v: all joined after %v, half of them within %v; an event of another group took %v at the most",
		storm, loads.Load(), query, took.Round(time.Millisecond), times[storm/2].Round(time.Millisecond), longest.Round(time.Millisecond))
	// One is for the first, and one for all who came while it ran. How long it takes until all
	// have come is a matter of the machine.
	if most := 2 + int64(took/(100*time.Millisecond)); loads.Load() > most {
		t.Errorf("%d loads, want %d at the most", loads.Load(), most)
	}
	for _, conn := range conns {
		conn.SetReadDeadline(time.Now().Add(time.Minute))
		if err := expectSnapshot(bufio.NewReader(conn)); err != nil {
			t.Fatal(err)
		}
	}
}

// expectSnapshot reads the answer to a handshake, and the snapshot behind it.
func expectSnapshot(r *bufio.Reader) error {
	for line := "HTTP"; line != "\r\n"; {
		var err error
		if line, err = r.ReadString('\n'); err != nil {
			return err
		}
	}
	text := make([]byte, 60)
	if _, err := io.ReadFull(r, text); err != nil || !strings.Contains(string(text), `{"type":"snapshot","group":"board","id":"`) {
		return fmt.Errorf("got %q, %v", text, err)
	}
	return nil
}
