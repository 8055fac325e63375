package grouphub_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/seed-29c60982/grouphub"
)

// FuzzRawBytesOnAnUpgradedConnection throws bytes at a connection. Whatever they are, the
// connection ends when they do, Disconnect is called once, what came back is whole frames, and
// another connection goes on.
func FuzzRawBytesOnAnUpgradedConnection(f *testing.F) {
	const text, binary, final, compressed = 0x1, 0x2, 0x80, 0x40
	deflated := "\xf2\x48\xcd\xc9\xc9\x07\x00" // "Hello", as in RFC 7692
	for _, b := range [][]byte{
		nil,
		masked(final|text, "hello"),
		masked(final|text, "not \xff UTF-8"),
		masked(final|binary, "\xff"),
		masked(final|binary, strings.Repeat("x", 2000)), // more than it may send
		append(masked(text, "in two "), masked(final, "parts")...),
		append(masked(text, "in two "), masked(final|text, "messages")...),
		append(masked(text, "a ping "), append(masked(final|9, "within"), masked(final, "it")...)...),
		masked(final, "a continuation of nothing"),
		masked(final|9, "a ping"),
		masked(final|10, "a pong that nobody asked for"),
		masked(9, "a control frame in parts"),
		masked(final|9, strings.Repeat("x", 126)),
		append(masked(final|8, "\x03\xe8bye"), masked(final|text, "after the close")...),
		masked(final|8, ""),
		masked(final|8, "\x03"),
		masked(final|8, "\x03\xed"),     // 1005
		masked(final|8, "\x03\xe8\xff"), // no UTF-8
		masked(final|compressed|text, deflated),
		masked(final|compressed|text, "\x00garbage"),
		append(masked(compressed|text, deflated[:3]), masked(final, deflated[3:])...),
		masked(final|compressed|9, "a compressed ping"),
		masked(final|0x20|text, "another reserved bit"),
		masked(final|3, "an unknown opcode"),
		masked(final|text, "truncated")[:8],
		{final | text, 5, 'h', 'e', 'l', 'l', 'o'}, // not masked
		{final | text, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4},
		{final | text, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4},
		[]byte("GET / HTTP/1.1\r\n\r\n"),
	} {
		f.Add(b, false)
		f.Add(b, true)
	}
	hubs := map[bool]*rawHub{false: newRawHub(f, false), true: newRawHub(f, true)}
	f.Fuzz(func(t *testing.T, b []byte, compressed bool) {
		h := hubs[compressed]
		v, path := h.newVictim()
		conn := h.dialRaw(t, path)
		defer conn.Close()
		// A write may fail, since the hub does not read on after an error. It reads all
		// before, so that nothing here waits for ever.
		conn.Write(b)
		conn.(*net.UnixConn).CloseWrite()
		conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		answer, err := io.ReadAll(conn)
		if err != nil {
			t.Fatalf("the connection does not end: %v", err)
		}
		if err := wholeFrames(answer); err != nil {
			t.Errorf("answer of %d bytes: %v", len(answer), err)
		}
		select {
		case <-v.disconnected:
		case <-time.After(20 * time.Second):
			t.Fatal("Disconnect is not called")
		}
		h.wantWitness(t)
		if n := v.disconnects.Load(); n != 1 {
			t.Errorf("Disconnect was called %d times", n)
		}
		if text := h.panics.Swap(nil); text != nil {
			t.Errorf("a panic was logged: %s", *text)
		}
	})
}

// A victim is a connection that raw bytes are thrown at.
type victim struct {
	disconnects  atomic.Int32
	disconnected chan struct{}
}

// wholeFrames returns an error unless b consists of a server's whole frames, and nothing
// follows the first close frame.
func wholeFrames(b []byte) error {
	for closed := false; len(b) > 0; {
		if closed {
			return fmt.Errorf("%d bytes follow a close frame", len(b))
		}
		if len(b) < 2 || b[0]&0x80 == 0 || b[0]&0x30 != 0 || b[1]&0x80 != 0 {
			return fmt.Errorf("%.10x… is no frame of a server", b)
		}
		n := 2 + int(b[1])
		switch b[1] {
		case 126:
			n = 4 + int(binary.BigEndian.Uint16(b[2:]))
		case 127:
			n = 10 + int(binary.BigEndian.Uint64(b[2:]))
		}
		if n > len(b) {
			return fmt.Errorf("frame of %d bytes ends after %d", n, len(b))
		}
		closed = b[0]&0x0f == 8
		b = b[n:]
	}
	return nil
}

// A panicLog is a log that keeps only the panics from which the hub has recovered.
type panicLog struct{ atomic.Pointer[string] }

func (l *panicLog) Write(b []byte) (int, error) {
	if text := string(b); strings.Contains(text, "panicked") {
		l.Store(&text)
	}
	return len(b), nil
}

// A rawHub echoes, and has a witness that all is well.
type rawHub struct {
	*grouphub.Hub
	address    string // of a unix socket: a fuzzer would use up the TCP ports
	compressed bool
	witness    *websocket.Conn
	panics     panicLog

	victims sync.Map // by their query
	last    atomic.Int64
}

func (h *rawHub) newVictim() (v *victim, path string) {
	query := fmt.Sprint(h.last.Add(1))
	v = &victim{disconnected: make(chan struct{})}
	h.victims.Clear() // the previous one has been checked
	h.victims.Store(query, v)
	return v, "/?" + query
}

func (h *rawHub) dialRaw(t *testing.T, path string) net.Conn {
	t.Helper()
	conn, err := net.Dial("unix", h.address)
	if err != nil {
		t.Fatal(err)
	}
	var header []string
	if h.compressed {
		header = append(header, "Sec-WebSocket-Extensions: permessage-deflate")
	}
	if err := upgradeRaw(conn, path, header...); err != nil {
		conn.Close()
		t.Fatal(err)
	}
	return conn
}

// wantWitness fails the test unless an event still reaches the witness.
func (h *rawHub) wantWitness(t *testing.T) {
	t.Helper()
	n := h.last.Load()
	if err := h.GroupSend(background, "all", "note", n); err != nil {
		t.Fatal(err)
	}
	h.witness.SetReadDeadline(time.Now().Add(20 * time.Second))
	_, data, err := h.witness.ReadMessage()
	if want := fmt.Sprintf(`{"type":"note","group":"all","data":%d}`, n); err != nil || string(data) != want {
		t.Fatalf("the witness got %s, %v, want %s", data, err, want)
	}
}

func newRawHub(f *testing.F, compressed bool) *rawHub {
	h := &rawHub{compressed: compressed}
	h.Hub = newHub(f, &grouphub.Options{
		Compression: compressed, MaxMessageSize: 1000, Logger: slog.New(slog.NewTextHandler(&h.panics, nil)),
		Consumer: grouphub.Consumer{
			Connect: joinAll,
			Receive: func(c *grouphub.Conn, m grouphub.Message) error {
				// A client that has gone cannot get it.
				_ = c.SendBinary(m.Data)
				return nil
			},
			Disconnect: func(_ context.Context, c *grouphub.Conn, _ int) {
				if v, ok := h.victims.Load(c.Request().URL.RawQuery); ok && v.(*victim).disconnects.Add(1) == 1 {
					close(v.(*victim).disconnected)
				}
			},
			Events: grouphub.Events{"note": grouphub.Forward()},
		},
	})
	dir, err := os.MkdirTemp("", "hub") // f.TempDir's names can be too long for a socket's
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { os.RemoveAll(dir) })
	h.address = filepath.Join(dir, "s")
	l, err := net.Listen("unix", h.address)
	if err != nil {
		f.Fatal(err)
	}
	connected := make(chan struct{}, 1)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.Hub.ServeHTTP(w, r)
		if r.URL.RawQuery == "witness" {
			connected <- struct{}{}
		}
	})}
	served := make(chan struct{})
	go func() {
		defer close(served)
		server.Serve(l)
	}()
	f.Cleanup(func() { server.Close(); <-served })
	dialer := websocket.Dialer{NetDial: func(string, string) (net.Conn, error) { return net.Dial("unix", h.address) }}
	h.witness, _, err = dialer.Dial("ws://example.com/?witness", nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { h.witness.Close() })
	<-connected
	return h
}
