//go:build unix

package load

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/seed-29c60982/grouphub"
)

// A value is one of a dashboard's.
type value struct {
	Key, N int
	At     int64  // when it was sent, in nanoseconds since 1970
	Pad    string // as much as a small panel of numbers has
}

// narrow is a connection whose other end reads 64 kbit/s.
type narrow struct {
	net.Conn
	began time.Time
	read  int
}

func (c *narrow) Read(p []byte) (int, error) {
	if c.began.IsZero() {
		c.began = time.Now()
	}
	n, err := c.Conn.Read(p[:min(len(p), 512)])
	c.read += n
	time.Sleep(time.Until(c.began.Add(time.Duration(c.read) * time.Second / 8000)))
	return n, err
}

// TestNarrowReaderOfADashboardStaysConnected has a reader at 64 kbit/s of ten keys at 1,000
// events per second, 200 of them so that the buffers of both kernels are full soon. It stays
// connected and gets the last value of each key, and a quick reader gets all of them in time.
func TestNarrowReaderOfADashboardStaysConnected(t *testing.T) {
	for _, history := range []int{0, 1000} {
		for _, stream := range []bool{false, true} {
			for _, handles := range []bool{false, true} {
				t.Run(fmt.Sprintf("history %d, stream %v, Handle %v", history, stream, handles), func(t *testing.T) {
					t.Parallel()
					testNarrowReader(t, history, stream, handles)
				})
			}
		}
	}
}

func testNarrowReader(t *testing.T, history int, stream, handles bool) {
	const keys, seconds = 10, 8
	handler := grouphub.Forward()
	if handles {
		handler = grouphub.Handle(func(c *grouphub.Conn, e grouphub.Event) error {
			return c.SendWait(c.Context(), fmt.Appendf(nil, `{"type":"value","data":%s}`, e.Data))
		})
	}
	hub := grouphub.New(&grouphub.Options{
		MaxPending: 64 << 10, Logger: slog.New(slog.DiscardHandler), PongTimeout: time.Hour, PingInterval: 30 * time.Minute,
		Policy: func(string) grouphub.GroupPolicy { return grouphub.GroupPolicy{History: history} },
		Consumer: grouphub.Consumer{
			Connect: func(c *grouphub.Conn) error { return c.Join("all") },
			Events:  grouphub.Events{"value": handler},
		},
	})
	server := httptest.NewUnstartedServer(hub)
	server.Config.ConnState = func(conn net.Conn, state http.ConnState) {
		if state == http.StateNew { // a kernel may hide megabytes for a slow member
			conn.(*net.TCPConn).SetWriteBuffer(16 << 10)
		}
	}
	server.Start()
	t.Cleanup(server.Close)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := hub.Shutdown(ctx); err != nil {
			t.Error(err)
		}
	})
	address := server.Listener.Addr().String()
	slow := values(t, address, stream, true)
	quick := values(t, address, stream, false)

	var last [keys]int
	var longest time.Duration
	total := seconds * 1000
	began := time.Now()
	for n := 1; n <= total; n++ {
		time.Sleep(time.Until(began.Add(time.Duration(n) * time.Millisecond)))
		before := time.Now()
		v := value{n % keys, n, before.UnixNano(), strings.Repeat("x", 150)}
		if err := hub.GroupSend(t.Context(), "all", "value", v, grouphub.Latest(fmt.Sprint("key ", v.Key))); err != nil {
			t.Fatal(err)
		}
		longest = max(longest, time.Since(before))
		last[v.Key] = n
	}
	for name, got := range map[string]<-chan value{"slow": slow, "quick": quick} {
		var seen [keys]int
		count := 0
		for seen != last {
			select {
			case v, ok := <-got:
				if !ok {
					t.Fatalf("the %s reader has lost its connection after %d: %+v", name, count, hub.Stats())
				}
				if v.N <= seen[v.Key] {
					t.Fatalf("the %s reader got %d of the key %d after %d", name, v.N, v.Key, seen[v.Key])
				}
				seen[v.Key] = v.N
				count++
			case <-time.After(time.Minute):
				t.Fatalf("the %s reader got %v, want %v in the end", name, seen, last)
			}
		}
		t.Logf("the %s reader got %d of %d", name, count, total)
		if name == "quick" && !raceEnabled && count < total/2 { // it may get them all
			t.Errorf("the quick reader got %d of %d", count, total)
		}
	}
	s := hub.Stats()
	t.Logf("the longest GroupSend took %v, %d are superseded", longest, s.Superseded)
	if s.SlowClosed != 0 || s.Dropped != 0 || s.Resyncs != 0 || s.Superseded == 0 {
		t.Errorf("%+v", s)
	}
	if longest > 2*time.Second {
		t.Errorf("a GroupSend took %v", longest)
	}
}

// values connects a reader of the dashboard.
func values(t *testing.T, address string, stream, slowly bool) <-chan value {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.(*net.TCPConn).SetReadBuffer(8 << 10)
	if slowly {
		conn = &narrow{Conn: conn}
	} else {
		conn.(*net.TCPConn).SetReadBuffer(1 << 20)
	}
	var next func() ([]byte, error)
	if stream {
		io.WriteString(conn, "GET / HTTP/1.1\r\nHost: example.com\r\nAccept: text/event-stream\r\n\r\n")
		r := bufio.NewReaderSize(conn, 512)
		next = func() ([]byte, error) {
			line, err := r.ReadString('\n')
			data, _ := strings.CutPrefix(line, "data: ")
			return []byte(data), err
		}
		for line := ""; line != "\n"; { // to the end of grouphub.open
			if line, err = r.ReadString('\n'); err != nil {
				t.Fatal(err)
			}
		}
	} else {
		dialer := websocket.Dialer{NetDial: func(string, string) (net.Conn, error) { return conn, nil }, ReadBufferSize: 512}
		c, _, err := dialer.Dial("ws://"+address+"/", nil)
		if err != nil {
			t.Fatal(err)
		}
		next = func() ([]byte, error) {
			_, data, err := c.ReadMessage()
			return data, err
		}
	}
	got := make(chan value, 100_000)
	go func() {
		defer close(got)
		for {
			text, err := next()
			if err != nil {
				return
			}
			var e struct {
				Type string
				Data value
			}
			if json.Unmarshal(text, &e) == nil && e.Type == "value" {
				got <- e.Data
			}
		}
	}()
	return got
}

// TestBacklogOfAnySizeReachesASlowReader sends 6,000 messages of 3 KB by SendWait to a reader
// that takes less than they are sent.
func TestBacklogOfAnySizeReachesASlowReader(t *testing.T) {
	const messages = 6000
	sent := make(chan error, 1)
	hub := grouphub.New(&grouphub.Options{
		Logger: slog.New(slog.DiscardHandler),
		Consumer: grouphub.Consumer{Receive: func(c *grouphub.Conn, _ grouphub.Message) (err error) {
			for n := 0; n < messages && err == nil; n++ {
				err = c.SendWait(c.Context(), fmt.Appendf(nil, "%d %s", n, strings.Repeat("x", 3000)))
			}
			sent <- err
			return err
		}},
	})
	server := httptest.NewServer(hub)
	t.Cleanup(server.Close)
	t.Cleanup(func() { hub.Shutdown(context.Background()) })
	c, _, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(server.URL, "http"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.NetConn().(*net.TCPConn).SetReadBuffer(256 << 10) // less than a segment of the loopback would stall it
	if err := c.WriteMessage(websocket.TextMessage, []byte("go")); err != nil {
		t.Fatal(err)
	}
	for n := range messages {
		_, text, err := c.ReadMessage()
		if err != nil {
			t.Fatalf("message %d: %v", n, err)
		}
		if number, _, _ := strings.Cut(string(text), " "); number != fmt.Sprint(n) || len(text) < 3000 {
			t.Fatalf("message %d is %.20q", n, text)
		}
		if n%20 == 0 {
			time.Sleep(10 * time.Millisecond)
		}
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
	if s := hub.Stats(); s.SlowClosed != 0 || s.Dropped != 0 {
		t.Errorf("%+v", s)
	}
}
