package outbox_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-29c60982/grouphub/internal/frame"
	"github.com/seed-29c60982/grouphub/internal/leak"
	"github.com/seed-29c60982/grouphub/internal/outbox"
)

// TestMain fails the suite if a goroutine outlives it.
func TestMain(m *testing.M) { leak.Check(m) }

const (
	opText  = 1
	opClose = 8
	opPing  = 9
	opPong  = 10

	response = "HTTP/1.1 101 Switching Protocols\r\n\r\n"
)

// generous limits, so that nothing but what a test is about comes into play.
var generous = outbox.Limits{Pending: 1 << 30, PongTimeout: time.Hour, WriteTimeout: time.Hour, CloseTimeout: time.Hour}

// A socket is an upgraded connection: its outbox, and the peer's end.
type socket struct {
	*outbox.Outbox
	peer net.Conn
	r    *bufio.Reader // reads from peer

	lost    atomic.Int64
	endings chan outbox.Ending
}

// upgraded returns an outbox on one end of a connection, after its handshake.
func upgraded(t testing.TB, conn, peer net.Conn, limits outbox.Limits) *socket {
	t.Helper()
	s := &socket{peer: peer, r: bufio.NewReaderSize(peer, 512), endings: make(chan outbox.Ending, 10)}
	s.Outbox = outbox.New(conn, limits,
		func(how outbox.Ending) { s.endings <- how },
		func(frames int) { s.lost.Add(int64(frames)) })
	written := make(chan error)
	go func() {
		_, err := s.Write([]byte(response))
		s.Release()
		written <- err
	}()
	got := make([]byte, len(response))
	_, readErr := io.ReadFull(s.r, got)
	if err := errors.Join(readErr, <-written); err != nil || string(got) != response {
		t.Fatalf("handshake: %q, %v", got, err)
	}
	return s
}

// hangUp closes both ends.
func (s *socket) hangUp() {
	s.peer.Close()
	s.Close()
	s.Linger(true)
}

// end closes both ends and fails the test if a goroutine of any outbox is left, so it is not for
// tests that run beside others. It is the last thing that is done with a socket.
func (s *socket) end(t testing.TB) {
	t.Helper()
	s.hangUp()
	noGoroutineIsLeft(t)
}

// noGoroutineIsLeft may be called when Linger has returned for all outboxes: the goroutines that
// it waited for may need a moment to be off the stack dump.
func noGoroutineIsLeft(t testing.TB) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		buf := make([]byte, 1<<20)
		dump := string(buf[:runtime.Stack(buf, true)])
		if !strings.Contains(dump, "outbox.(*Outbox)") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("a goroutine is left after Linger:\n%s", dump)
		}
		runtime.Gosched()
	}
}

func (s *socket) wantEnding(t testing.TB, want outbox.Ending) {
	t.Helper()
	select {
	case got := <-s.endings:
		if got != want {
			t.Errorf("ending is %d, want %d", got, want)
		}
	case <-time.After(30 * time.Second):
		t.Errorf("no ending, want %d", want)
	}
	select {
	case got := <-s.endings:
		t.Errorf("another ending: %d", got)
	default:
	}
}

func (s *socket) wantLost(t testing.TB, want int) {
	t.Helper()
	if got := s.lost.Load(); got != int64(want) {
		t.Errorf("%d frames are counted as lost, want %d", got, want)
	}
}

func (s *socket) push(t testing.TB, frames ...[]byte) {
	t.Helper()
	if err := s.Push(bytes.Join(frames, nil)); err != nil {
		t.Errorf("Push: %v", err)
	}
}

// control writes a control frame as gorilla does, which then uses its buffer again.
func (s *socket) control(t testing.TB, opcode byte, payload string) {
	t.Helper()
	b := append([]byte{0x80 | opcode, byte(len(payload))}, payload...)
	if n, err := s.Write(b); n != len(b) || err != nil {
		t.Errorf("Write: %d, %v", n, err)
	}
	clear(b)
}

// code is the payload of a close frame.
func code(n uint16) string { return string(binary.BigEndian.AppendUint16(nil, n)) }

// numbered returns a frame that says which one it is, and whose every byte depends on
// that.
func numbered(number, size int) []byte {
	return frame.New(opText, numberedPayload(number, size), false)
}

func numberedPayload(number, size int) []byte {
	b := make([]byte, max(4, size))
	for i := range b {
		b[i] = byte(number + i)
	}
	binary.BigEndian.PutUint32(b, uint32(number))
	return b
}

// A received frame, as the peer reads it.
type received struct {
	opcode  byte
	payload []byte
}

// number returns a numbered frame's number, or -1 and fails the test if it is no such
// frame.
func (f received) number(t testing.TB) int {
	t.Helper()
	if f.opcode != opText || len(f.payload) < 4 {
		t.Errorf("got a frame of opcode %d with %d bytes, want a numbered one", f.opcode, len(f.payload))
		return -1
	}
	n := int(binary.BigEndian.Uint32(f.payload))
	if !bytes.Equal(f.payload, numberedPayload(n, len(f.payload))) {
		t.Errorf("frame %d of %d bytes is damaged", n, len(f.payload))
		return -1
	}
	return n
}

// read reads a frame. io.EOF is the end at a frame's boundary, any other error is none.
func (s *socket) read() (received, error) {
	first, err := s.r.ReadByte()
	if err != nil {
		return received{}, err
	}
	if first&0xf0 != 0x80 {
		return received{}, fmt.Errorf("%#x begins no frame", first)
	}
	header := make([]byte, 9)
	if _, err := io.ReadFull(s.r, header[:1]); err != nil {
		return received{}, io.ErrUnexpectedEOF
	}
	n := int(header[0])
	if extended := map[int]int{126: 2, 127: 8}[n]; extended > 0 {
		if _, err := io.ReadFull(s.r, header[9-extended:]); err != nil {
			return received{}, io.ErrUnexpectedEOF
		}
		n = int(binary.BigEndian.Uint64(append(make([]byte, 8-extended), header[9-extended:]...)))
	}
	f := received{first & 0x0f, make([]byte, n)}
	if _, err := io.ReadFull(s.r, f.payload); err != nil {
		return received{}, io.ErrUnexpectedEOF
	}
	return f, nil
}

func (s *socket) next(t testing.TB) received {
	t.Helper()
	f, err := s.read()
	if err != nil {
		t.Fatalf("read: %v", err)
	}
	return f
}

func (s *socket) wantNumber(t testing.TB, want int) {
	t.Helper()
	if got := s.next(t).number(t); got != want {
		t.Fatalf("got frame %d, want %d", got, want)
	}
}

func (s *socket) wantControl(t testing.TB, opcode byte, payload string) {
	t.Helper()
	if f := s.next(t); f.opcode != opcode || !strings.HasPrefix(string(f.payload), payload) {
		t.Fatalf("got opcode %d with %.20q, want %d with %q", f.opcode, f.payload, opcode, payload)
	}
}

func (s *socket) wantEOF(t testing.TB) {
	t.Helper()
	if f, err := s.read(); err != io.EOF {
		t.Fatalf("got opcode %d and %v, want the end", f.opcode, err)
	}
}

// accepted returns the two ends of a connection that goes through a listener.
func accepted(t testing.TB, network, address string) (conn, peer net.Conn) {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	peer, err = net.Dial(network, l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	conn, err = l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(); peer.Close() })
	return conn, peer
}

// tcp returns the two ends of a TCP connection with small buffers, so that the kernel
// takes most writes in part.
func tcp(t testing.TB) (conn, peer net.Conn) {
	t.Helper()
	conn, peer = accepted(t, "tcp", "127.0.0.1:0")
	if err := errors.Join(conn.(*net.TCPConn).SetWriteBuffer(16<<10), peer.(*net.TCPConn).SetReadBuffer(128<<10)); err != nil {
		t.Fatal(err)
	}
	return conn, peer
}

func unix(t testing.TB) (conn, peer net.Conn) {
	t.Helper()
	dir, err := os.MkdirTemp("", "outbox") // t.TempDir's names can be too long for a socket's
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	conn, peer = accepted(t, "unix", filepath.Join(dir, "s"))
	if err := conn.(*net.UnixConn).SetWriteBuffer(16 << 10); err != nil {
		t.Fatal(err)
	}
	return conn, peer
}

func pipe(testing.TB) (conn, peer net.Conn) { return net.Pipe() }

// secured returns the two ends of a TLS connection over another one.
func secured(t testing.TB, conn, peer net.Conn) (secureConn, securePeer net.Conn) {
	t.Helper()
	server := httptest.NewTLSServer(nil) // it has a certificate
	config := server.TLS.Clone()
	server.Close()
	a, b := tls.Server(conn, config), tls.Client(peer, &tls.Config{InsecureSkipVerify: true})
	shaken := make(chan error)
	go func() { shaken <- a.Handshake() }()
	if err := errors.Join(b.Handshake(), <-shaken); err != nil {
		t.Fatal(err)
	}
	return a, b
}

// transports are the kinds of connections that a server may be given.
var transports = []struct {
	name string
	dial func(testing.TB) (conn, peer net.Conn)
}{
	{"TCP", tcp},
	{"unix", unix},
	{"pipe", pipe},
	{"TLS", func(t testing.TB) (net.Conn, net.Conn) {
		conn, peer := tcp(t)
		return secured(t, conn, peer)
	}},
	{"wrapped TCP", func(t testing.TB) (net.Conn, net.Conn) {
		conn, peer := tcp(t)
		return inverter{conn.(*net.TCPConn)}, inverter{peer.(*net.TCPConn)}
	}},
}

// An inverter is a socket whose bytes go through its methods, as TLS's do. What is
// written past them makes no sense to the peer.
type inverter struct{ *net.TCPConn }

func (c inverter) Write(p []byte) (int, error) {
	inverted := make([]byte, len(p))
	for i := range p {
		inverted[i] = ^p[i]
	}
	return c.TCPConn.Write(inverted)
}

func (c inverter) Read(p []byte) (int, error) {
	n, err := c.TCPConn.Read(p)
	for i := range p[:n] {
		p[i] = ^p[i]
	}
	return n, err
}

// WriteTo keeps io.Copy from reading past Read.
func (c inverter) WriteTo(w io.Writer) (int64, error) {
	return io.Copy(w, struct{ io.Reader }{c})
}

func overEachTransport(t *testing.T, test func(t *testing.T, conn, peer net.Conn)) {
	for _, transport := range transports {
		t.Run(transport.name, func(t *testing.T) {
			conn, peer := transport.dial(t)
			test(t, conn, peer)
		})
	}
}

// sizes of payloads: mostly small, some larger than a chunk of the flusher's.
func randomSize(r *rand.Rand) int {
	switch r.IntN(20) {
	case 0:
		return r.IntN(100_000)
	case 1, 2:
		return 16<<10 - 20 + r.IntN(40)
	default:
		return r.IntN(1000)
	}
}

// synctestOnPipe runs a test in a bubble, in which time passes when all wait and which
// fails if a goroutine is left.
func synctestOnPipe(t *testing.T, limits outbox.Limits, test func(t *testing.T, s *socket)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		conn, peer := net.Pipe()
		s := upgraded(t, conn, peer, limits)
		defer func() {
			s.peer.Close()
			s.Close()
			s.Linger(true)
		}()
		test(t, s)
	})
}
