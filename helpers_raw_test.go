package grouphub_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/gorilla/websocket"

	"github.com/seed-29c60982/grouphub"
)

// A pipeListener has one connection.
type pipeListener struct {
	net.Conn
	accept chan net.Conn
}

func (l pipeListener) Close() error { return nil }

func (l pipeListener) Addr() net.Addr { return l.LocalAddr() }

func (l pipeListener) Accept() (net.Conn, error) {
	if c := <-l.accept; c != nil {
		return c, nil
	}
	return nil, net.ErrClosed
}

// dialPipe connects a client through a pipe, for use in a bubble. The client takes nothing
// but what the test reads.
func dialPipe(t *testing.T, h http.Handler, path string) *websocket.Conn {
	t.Helper()
	near, far := net.Pipe()
	l := pipeListener{far, make(chan net.Conn, 1)}
	l.accept <- far
	close(l.accept)
	go http.Serve(l, h)
	dialer := websocket.Dialer{NetDialContext: func(context.Context, string, string) (net.Conn, error) { return near, nil }}
	c, _, err := dialer.Dial("ws://example.com"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// upgradeRaw asks for an upgrade on a connection of which the caller then owns the bytes.
func upgradeRaw(conn net.Conn, path string, header ...string) error {
	request := "GET " + path + " HTTP/1.1\r\nHost: example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
	for _, h := range header {
		request += h + "\r\n"
	}
	if _, err := io.WriteString(conn, request+"\r\n"); err != nil {
		return err
	}
	// It is read byte by byte, so that nothing behind the answer is taken.
	answer, b := "", make([]byte, 1)
	for !strings.HasSuffix(answer, "\r\n\r\n") {
		if _, err := conn.Read(b); err != nil {
			return fmt.Errorf("after %q: %w", answer, err)
		}
		answer += string(b)
	}
	if !strings.HasPrefix(answer, "HTTP/1.1 101 ") {
		return fmt.Errorf("answer is %q", answer)
	}
	return nil
}

// dialRaw connects to a hub over TCP, and has joined whatever Connect joins.
func dialRaw(t testing.TB, hub *grouphub.Hub) net.Conn {
	t.Helper()
	server := httptest.NewServer(hub)
	t.Cleanup(server.Close)
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := upgradeRaw(conn, "/"); err != nil {
		t.Fatal(err)
	}
	return conn
}

// masked returns a frame as a client sends it. Its first byte is given.
func masked(first byte, payload string) []byte {
	b := []byte{first}
	switch n := len(payload); {
	case n <= 125:
		b = append(b, 0x80|byte(n))
	default:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	}
	key := [4]byte{1, 2, 3, 4}
	b = append(b, key[:]...)
	for i := range len(payload) {
		b = append(b, payload[i]^key[i%4])
	}
	return b
}
