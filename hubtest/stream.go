package hubtest

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/seed-29c60982/grouphub/internal/eventstream"
)

// A conn is what a Client needs of its connection: a *websocket.Conn, or a streamConn, which
// speaks of messages and of the end as that does.
type conn interface {
	ReadMessage() (opcode int, data []byte, err error)
	WriteMessage(opcode int, data []byte) error
	Close() error
}

// AsStream makes [Dial] ask for an event stream. The Client is the same: what it sends goes
// by POST to the same handler and path, with the same headers, and a close of the stream looks
// like that of a WebSocket.
func AsStream() DialOption { return DialOption{stream: true} }

// dialStream connects to h with an event stream.
func dialStream(t testing.TB, h http.Handler, path string, header http.Header) (*streamConn, *http.Response, *server) {
	t.Helper()
	s := serve(t, h)
	r, err := http.NewRequest("GET", "http://"+target(t, path), nil)
	if err != nil {
		t.Fatalf("hubtest: Dial %s: %v", path, err)
	}
	r.Header = header.Clone()
	r.Header.Set("Accept", "text/event-stream")
	if host := r.Header.Get("Host"); host != "" {
		r.Host = host
	}
	s.near.SetDeadline(time.Now().Add(timeout))
	if err := r.Write(s.near); err != nil {
		t.Fatalf("hubtest: Dial %s: %v", path, err)
	}
	answer, err := http.ReadResponse(bufio.NewReader(s.near), r)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		t.Fatalf("hubtest: Dial %s: no answer for %v: does Connect block?", path, timeout)
	case err != nil:
		t.Fatalf("hubtest: Dial %s: %v", path, err)
	}
	s.near.SetDeadline(time.Time{})
	return &streamConn{server: s, handler: h, request: r, body: bufio.NewReader(answer.Body), opened: make(chan struct{})}, answer, s
}

// A streamConn is an event stream, and the POSTs that belong to it.
type streamConn struct {
	// Static.
	server  *server
	handler http.Handler
	request *http.Request // of the stream
	body    *bufio.Reader
	opened  chan struct{} // closed when the token is known

	token string // static once opened is closed
	seq   uint64 // of the last POST; owned by WriteMessage

	mu     sync.Mutex
	closed bool // this side has closed
}

// ReadMessage returns the next message, or a *websocket.CloseError.
func (c *streamConn) ReadMessage() (opcode int, data []byte, err error) {
	for {
		b, err := eventstream.ReadBlock(c.body, "")
		if err != nil {
			return 0, nil, c.endError(err)
		}
		switch b.Name {
		case eventstream.Open:
			c.token = b.Data
			close(c.opened)
		case eventstream.Position:
		case eventstream.Binary:
			data, err := base64.StdEncoding.DecodeString(b.Data)
			return websocket.BinaryMessage, data, err
		case "grouphub.close":
			var reason struct {
				Code   int
				Reason string
			}
			if err := json.Unmarshal([]byte(b.Data), &reason); err != nil {
				return 0, nil, err
			}
			return 0, nil, &websocket.CloseError{Code: reason.Code, Text: reason.Reason}
		default:
			return websocket.TextMessage, []byte(b.Data), nil
		}
	}
}

// endError says how a stream ended without a close.
func (c *streamConn) endError(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return &websocket.CloseError{Code: websocket.CloseNormalClosure}
	}
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return &websocket.CloseError{Code: websocket.CloseAbnormalClosure, Text: err.Error()}
	}
	return err
}

// WriteMessage sends a message, or closes the stream.
func (c *streamConn) WriteMessage(opcode int, data []byte) error {
	if opcode == websocket.CloseMessage {
		return c.Close()
	}
	<-c.opened
	c.seq++
	r := httptest.NewRequest("POST", c.request.URL.RequestURI(), bytes.NewReader(data))
	r.Header = c.request.Header.Clone()
	r.Header.Del("Accept")
	r.Host = c.request.Host
	r.Header.Set("Grouphub-Stream", c.token)
	r.Header.Set("Grouphub-Seq", strconv.FormatUint(c.seq, 10))
	r.Header.Set("Content-Type", "text/plain; charset=utf-8")
	if opcode == websocket.BinaryMessage {
		r.Header.Set("Content-Type", "application/octet-stream")
	}
	answer := httptest.NewRecorder()
	c.handler.ServeHTTP(answer, r)
	if answer.Code != http.StatusNoContent {
		return fmt.Errorf("POST was answered by %d: %s", answer.Code, bytes.TrimSpace(answer.Body.Bytes()))
	}
	return nil
}

func (c *streamConn) Close() error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	return c.server.near.Close()
}
