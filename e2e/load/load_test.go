//go:build unix

// Package load tests a hub with as many connections as one application may have.
package load

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/internal/leak"
)

// raceEnabled says that the race detector slows everything down.
var raceEnabled bool

const (
	members   = 1000
	eventSize = 4 << 10 // bytes of JSON
	window    = 32      // events that are under way: a member further behind than MaxPending is rightly cut
	readers   = 4

	opClose = 8
)

func TestMain(m *testing.M) {
	if address := os.Getenv(crowdAddress); address != "" {
		runCrowd(address)
		return
	}
	if told := os.Getenv(jitterVariable); told != "" {
		if err := runJitterClients(told); err != nil {
			fmt.Fprintln(os.Stderr, "jitter clients:", err)
			os.Exit(1)
		}
		return
	}
	leak.Check(m)
}

// TestSlowMemberAmongAThousand lets one of a thousand members never read. All others
// get every event, and no GroupSend waits for it. The race detector makes do with fewer
// events.
func TestSlowMemberAmongAThousand(t *testing.T) {
	events := 5000
	if raceEnabled {
		events = 800
	}
	raiseOpenFiles(t, 3*members)
	// Whoever waited for the slow member would wait for as long as these.
	const patience = 30 * time.Second
	joined := make(chan struct{}, 1)
	hub := grouphub.New(&grouphub.Options{
		MaxPending: 256 << 10, WriteTimeout: patience, CloseTimeout: patience,
		Logger: slog.New(slog.DiscardHandler),
		Consumer: grouphub.Consumer{
			Connect: func(c *grouphub.Conn) error {
				defer func() { joined <- struct{}{} }()
				return c.Join("all")
			},
			Events: grouphub.Events{"note": grouphub.Forward()},
		},
	})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := hub.Shutdown(ctx); err != nil {
			t.Error(err)
		}
	})
	server := httptest.NewUnstartedServer(hub)
	server.Config.ConnState = func(conn net.Conn, state http.ConnState) {
		if state == http.StateNew { // a kernel may hide megabytes for a slow member
			conn.(*net.TCPConn).SetWriteBuffer(256 << 10)
		}
	}
	server.Start()
	t.Cleanup(server.Close)
	address := server.Listener.Addr().String()
	var quick []net.Conn
	var slow net.Conn
	for n := range members {
		conn := dial(t, address)
		<-joined
		if n == members/2 {
			slow = conn
			if err := slow.(*net.TCPConn).SetReadBuffer(64 << 10); err != nil {
				t.Fatal(err)
			}
		} else {
			quick = append(quick, conn)
		}
	}
	watched := watch(t, quick)

	sent := 0
	var longestSend, longestWindow time.Duration
	sendWindow := func() {
		begin := time.Now()
		watched.expect(sent)
		for range window {
			before := time.Now()
			if err := hub.GroupSend(t.Context(), "all", "note", data(sent)); err != nil {
				t.Fatal(err)
			}
			longestSend = max(longestSend, time.Since(before))
			sent++
		}
		if err := watched.result(); err != nil {
			t.Fatal(err)
		}
		longestWindow = max(longestWindow, time.Since(begin))
	}

	start := time.Now()
	for sent < events {
		sendWindow()
	}
	t.Logf("%d events to %d members in %v; the longest GroupSend took %v, the longest window of %d %v",
		sent, len(quick), time.Since(start).Round(time.Millisecond), longestSend, window, longestWindow)
	if n := hub.Stats().SlowClosed; n != 1 {
		t.Fatalf("%d connections were slow, want 1", n)
	}

	// What the slow member finds is whole events in order, then 1013, or the end if
	// its time was up.
	received, code := readSlow(t, slow)
	t.Logf("the slow member got %d events, then %d", received, code)
	slow.Close()
	limit := time.Now().Add(2 * patience)
	for range time.Tick(time.Millisecond) {
		if hub.Stats().Conns == len(quick) {
			break
		}
		if time.Now().After(limit) {
			t.Fatal("the slow member is still there")
		}
	}
	dropped := int(hub.Stats().Dropped)
	if received+dropped > sent || code == 1013 && received+dropped != sent {
		t.Errorf("%d events sent, the slow member got %d, and %d are counted as dropped", sent, received, dropped)
	}

	// The others' own pace is the measure for what a send may take.
	during := longestSend
	longestWindow = 0
	for range 10 {
		sendWindow()
	}
	t.Logf("without it the longest window took %v", longestWindow)
	if bound := 4*longestWindow + time.Second; during > bound {
		t.Errorf("a GroupSend took %v, more than %v", during, bound)
	}
	if n := hub.Stats().Conns; n != len(quick) {
		t.Errorf("%d connections are left, want %d", n, len(quick))
	}
}

// raiseOpenFiles makes sure that this process may have as many files open.
func raiseOpenFiles(t *testing.T, want int) {
	t.Helper()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if int64(limit.Cur) >= int64(want) {
		return
	}
	limit.Cur = limit.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil || int64(limit.Cur) < int64(want) {
		t.Fatalf("%d open files are allowed (%v), %d are needed: ulimit -n %[3]d", limit.Cur, err, want)
	}
}

// dial returns an upgraded connection of which the test reads the bytes itself.
func dial(t *testing.T, address string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_, err = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: "+address+"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	if err != nil {
		t.Fatal(err)
	}
	// No event is sent before all are connected, so nothing is behind the answer.
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || answer.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("dial: %v, %v", answer, err)
	}
	return conn
}

const (
	head = `{"type":"note","group":"all","data":`
	tail = `}`
)

// data is an event's data, which differs from every other's in all of its length.
func data(n int) json.RawMessage {
	number := fmt.Sprintf("%08d ", n)
	size := eventSize - len(head+tail) - 2
	return json.RawMessage(`"` + strings.Repeat(number, size/len(number)+1)[:size] + `"`)
}

// frame is an event as a member gets it.
func frame(n int) []byte {
	b := binary.BigEndian.AppendUint16([]byte{0x81, 126}, eventSize)
	return append(b, head+string(data(n))+tail...)
}

// A watcher reads what many connections get, with a few goroutines that each read one
// connection of their share after the other.
type watcher struct {
	shares  []chan []byte
	results chan error
}

func watch(t *testing.T, conns []net.Conn) *watcher {
	w := &watcher{results: make(chan error, readers)}
	var wg sync.WaitGroup
	for r := range readers {
		share := make(chan []byte, 1)
		w.shares = append(w.shares, share)
		wg.Go(func() {
			buf := make([]byte, window*len(frame(0)))
			for want := range share {
				var result error
				for i := r; i < len(conns) && result == nil; i += readers {
					conns[i].SetReadDeadline(time.Now().Add(time.Minute))
					if _, err := io.ReadFull(conns[i], buf); err != nil {
						result = fmt.Errorf("member %d: %w", i, err)
					} else if !bytes.Equal(buf, want) {
						result = fmt.Errorf("member %d: events are missing, damaged or out of order", i)
					}
				}
				w.results <- result
			}
		})
	}
	t.Cleanup(func() {
		for _, share := range w.shares {
			close(share)
		}
		for _, conn := range conns { // one may be waited for
			conn.Close()
		}
		wg.Wait()
	})
	return w
}

// expect tells the readers which window comes next: the frames from first on.
func (w *watcher) expect(first int) {
	var want []byte
	for n := range window {
		want = append(want, frame(first+n)...)
	}
	for _, share := range w.shares {
		share <- want
	}
}

// result returns when each connection has got the window.
func (w *watcher) result() error {
	var all error
	for range readers {
		all = errors.Join(all, <-w.results)
	}
	return all
}

// readSlow reads what a connection has got, to its end. It returns the number of whole
// events and the code of the close frame, 0 if there was none.
func readSlow(t *testing.T, conn net.Conn) (events, code int) {
	t.Helper()
	conn.SetReadDeadline(time.Now().Add(time.Minute))
	r := bufio.NewReader(conn)
	for ; ; events++ {
		first, err := r.Peek(2)
		if err != nil {
			return events, 0
		}
		if first[0]&0x0f == opClose {
			b, err := io.ReadAll(io.LimitReader(r, 2+int64(first[1])))
			if err != nil || len(b) < 4 {
				t.Fatalf("close frame is %x, %v", b, err)
			}
			return events, int(binary.BigEndian.Uint16(b[2:]))
		}
		want := frame(events)
		got := make([]byte, len(want))
		if n, err := io.ReadFull(r, got); err != nil {
			if !bytes.Equal(got[:n], want[:n]) {
				t.Fatalf("the slow member's event %d is damaged", events)
			}
			return events, 0
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("the slow member got %.60q, want %.60q", got, want)
		}
	}
}
