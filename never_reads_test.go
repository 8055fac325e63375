package grouphub_test

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
)

// A silentClient asks for a connection, and then never reads.
type silentClient struct {
	protocol string // of its ALPN; "": it speaks no TLS
	request  string
}

const (
	silentUpgrade = "GET / HTTP/1.1\r\nHost: example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
	silentStream = "GET / HTTP/1.1\r\nHost: example.com\r\nAccept: text/event-stream\r\n\r\n"
)

// http2Frame returns a frame of HTTP/2.
func http2Frame(kind, flags byte, stream uint32, payload string) string {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(payload)))[1:]
	b = append(b, kind, flags)
	b = binary.BigEndian.AppendUint32(b, stream)
	return string(b) + payload
}

// http2Request returns what a client of HTTP/2 says to ask for so many event streams. Each may
// be sent as many bytes as the window has, all together as many as HTTP/2 knows.
func http2Request(streams int, window uint32) string {
	const settings, headers, windowUpdate = 4, 1, 8
	var all strings.Builder
	all.WriteString("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
	all.WriteString(http2Frame(settings, 0, 0, "\x00\x04"+string(binary.BigEndian.AppendUint32(nil, window))))
	all.WriteString(http2Frame(windowUpdate, 0, 0, string(binary.BigEndian.AppendUint32(nil, 1<<31-1-65_535))))
	for i := range streams {
		// GET, https, "/", and two headers whose names are in HPACK's table.
		block := "\x82\x87\x84\x41\x0bexample.com\x53\x11text/event-stream"
		all.WriteString(http2Frame(headers, 0x5, uint32(2*i+1), block))
	}
	return all.String()
}

// connect asks for the connection. Its kernel takes little of what comes.
func (s silentClient) connect(t *testing.T, server *httptest.Server) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.(*net.TCPConn).SetReadBuffer(4 << 10)
	if s.protocol != "" {
		conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{s.protocol}})
	}
	if _, err := io.WriteString(conn, s.request); err != nil {
		t.Fatal(err)
	}
	return conn
}

func TestAClientThatNeverReadsHarmsNobody(t *testing.T) {
	for name, client := range map[string]silentClient{
		"WebSocket":          {"", silentUpgrade},
		"WebSocket over TLS": {"http/1.1", silentUpgrade},
		"stream":             {"", silentStream},
		"stream over TLS":    {"http/1.1", silentStream},
		"stream over HTTP/2": {"h2", http2Request(1, 65_535)},
		// Not only is there no room in the streams' windows, but none in the socket either.
		"streams over one HTTP/2 connection": {"h2", http2Request(5, 1<<31-1)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testSilentClients(t, client)
		})
	}
}

func testSilentClients(t *testing.T, client silentClient) {
	const (
		clients      = 10
		pending      = 256 << 10
		closeTimeout = 5 * time.Second
	)
	asked := clients * max(1, strings.Count(client.request, "event-stream"))
	handled, ended := make(chan struct{}, asked), make(chan struct{}, 2*asked)
	hub := newHub(t, &grouphub.Options{MaxPending: pending, CloseTimeout: closeTimeout, MaxConns: asked + 2, Logger: quiet(),
		Consumer: grouphub.Consumer{
			Connect:    joinAll,
			Disconnect: func(context.Context, *grouphub.Conn, int) { ended <- struct{}{} },
			Events:     grouphub.Events{"large": grouphub.Forward()},
		}})
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() { handled <- struct{}{} }()
		hub.ServeHTTP(w, r)
	}))
	server.Config.HTTP2 = &http.HTTP2Config{WriteByteTimeout: closeTimeout} // as the deployment guide says
	if server.EnableHTTP2 = client.protocol == "h2"; client.protocol != "" {
		server.StartTLS()
	} else {
		server.Start()
	}
	defer server.Close()
	readers := []*hubtest.Client{hubtest.Dial(t, hub, "/"), hubtest.Dial(t, hub, "/", hubtest.AsStream())}
	conns := make([]net.Conn, clients)
	for i := range conns {
		conns[i] = client.connect(t, server)
	}
	eventually(t, func() bool { return groupSize(hub, "all") == asked+len(readers) }, "not all have joined")

	// The others get every event, long before anybody has given up on those that do not read.
	text := strings.Repeat("x", 30_000)
	// On a busy machine, HTTP/2's server may give up on one before it is found slow.
	for hub.Stats().SlowClosed < uint64(asked) && hub.Stats().Conns > len(readers) {
		began := time.Now()
		send(t, hub, "all", "large", text)
		for _, r := range readers {
			r.ExpectEvent("large")
		}
		if took := time.Since(began); took > closeTimeout {
			t.Errorf("an event took %v to those who read", took)
		}
	}
	slow := time.Now()
	for range asked {
		within(t, 30*time.Second, ended, "Disconnect")
		within(t, 30*time.Second, handled, "the handler's return")
	}
	if took := time.Since(slow); took > closeTimeout+10*time.Second { // the latter for a busy machine
		t.Errorf("those that do not read were gone %v after they had been found slow", took)
	}
	if client.protocol != "h2" { // of which the connection is the server's
		for _, conn := range conns {
			eventually(t, func() bool {
				_, err := conn.Write([]byte{0})
				return err != nil
			}, "a socket is still open")
		}
	}
	// Their seats are free, and nobody else has lost one.
	eventually(t, func() bool { return hub.Stats().Conns == len(readers) }, "%d connections are left", hub.Stats().Conns)
	next := client.connect(t, server)
	eventually(t, func() bool { return groupSize(hub, "all") > len(readers) }, "there is no seat for the next one")
	next.Close()
	if n := hub.Stats().SlowClosed; n != uint64(asked) && (client.protocol != "h2" || n > uint64(asked)) {
		t.Errorf("%d connections were closed for slowness, want %d", n, asked)
	}
}

// What waits is the connection's own here: what a group is sent, all of its members share.
func TestWhatWaitsForAClientThatNeverReadsIsBounded(t *testing.T) {
	const (
		clients = 5
		pending = 1 << 20
		own     = 256 << 10 // for what a connection has besides, and what is being written
	)
	for name, client := range map[string]silentClient{
		"WebSocket":          {"", silentUpgrade},
		"stream over TLS":    {"http/1.1", silentStream},
		"stream over HTTP/2": {"h2", http2Request(1, 1<<31-1)},
	} {
		t.Run(name, func(t *testing.T) {
			hub := newHub(t, &grouphub.Options{MaxPending: pending, Logger: quiet()})
			server := httptest.NewUnstartedServer(hub)
			server.Config.HTTP2 = &http.HTTP2Config{WriteByteTimeout: 10 * time.Second}
			if server.EnableHTTP2 = client.protocol == "h2"; client.protocol != "" {
				server.StartTLS()
			} else {
				server.Start()
			}
			t.Cleanup(server.Close) // when the clients and the hub are closed
			for range clients {
				conn := client.connect(t, server)
				defer conn.Close()
			}
			eventually(t, func() bool { return hub.Stats().Conns == clients }, "not all are connected")
			before, most := heapInUse(), uint64(0)
			for hub.Stats().SlowClosed < clients {
				for c := range hub.Conns() {
					if err := c.Send(make([]byte, 64<<10)); err != nil && !errors.Is(err, grouphub.ErrClosed) {
						t.Fatal(err)
					}
				}
				most = max(most, heapInUse())
			}
			if each := int64(most-before) / clients; each > pending+own {
				t.Errorf("%d KiB for each connection, want %d at most", each>>10, (pending+own)>>10)
			} else {
				t.Logf("%d KiB for each connection at most", each>>10)
			}
		})
	}
}

// heapInUse returns how many bytes are in use.
func heapInUse() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
