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
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-29c60982/grouphub/internal/outbox"
)

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
		written <- err
	}()
	got := make([]byte, len(response))
	_, readErr := io.ReadFull(s.r, got)
	if err := errors.Join(readErr, <-written); err != nil || string(got) != response {
		t.Fatalf("handshake: %q, %v", got, err)
	}
	return s
}

// end closes both ends and fails the test if a goroutine of the outbox is left. It is
// the last thing that is done with a socket.
func (s *socket) end(t testing.TB) {
	t.Helper()
	s.peer.Close()
	s.Close()
	s.Linger(true)
	noGoroutineIsLeft(t)
}

// noGoroutineIsLeft may be called when Linger has returned for all outboxes: the goroutines that
// it waited for may need a moment to be off the stack dump.
func noGoroutineIsLeft(t testing.TB) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
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
	case <-time.After(5 * time.Second):
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
	return outbox.NewFrame(opText, numberedPayload(number, size), false)
}

func numberedPayload(number, size int) []byte {
	b := make([]byte, max(4, size))
	for i := range b {
		b[i] = byte(number + i)
	}
	binary.BigEndian.PutUint32(b, uint32(number))
	return b
}

// A frame as the peer reads it.
type frame struct {
	opcode  byte
	payload []byte
}

// number returns a numbered frame's number, or -1 and fails the test if it is no such
// frame.
func (f frame) number(t testing.TB) int {
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
func (s *socket) read() (frame, error) {
	first, err := s.r.ReadByte()
	if err != nil {
		return frame{}, err
	}
	if first&0xf0 != 0x80 {
		return frame{}, fmt.Errorf("%#x begins no frame", first)
	}
	header := make([]byte, 9)
	if _, err := io.ReadFull(s.r, header[:1]); err != nil {
		return frame{}, io.ErrUnexpectedEOF
	}
	n := int(header[0])
	if extended := map[int]int{126: 2, 127: 8}[n]; extended > 0 {
		if _, err := io.ReadFull(s.r, header[9-extended:]); err != nil {
			return frame{}, io.ErrUnexpectedEOF
		}
		n = int(binary.BigEndian.Uint64(append(make([]byte, 8-extended), header[9-extended:]...)))
	}
	f := frame{first & 0x0f, make([]byte, n)}
	if _, err := io.ReadFull(s.r, f.payload); err != nil {
		return frame{}, io.ErrUnexpectedEOF
	}
	return f, nil
}

func (s *socket) next(t testing.TB) frame {
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

func TestFramesArriveWholeAndInOrderWhateverTheKernelTakes(t *testing.T) {
	overEachTransport(t, func(t *testing.T, conn, peer net.Conn) {
		s := upgraded(t, conn, peer, generous)
		defer s.end(t)
		const frames = 2000
		// The reader pauses at times, so that direct writes, writes in part and
		// backlogs of all lengths take turns.
		pause := make(chan struct{}, frames)
		done := make(chan struct{})
		go func() {
			defer close(done)
			for want := 0; want < frames; {
				f, err := s.read()
				if err != nil {
					t.Errorf("frame %d: %v", want, err)
					return
				}
				if f.opcode == opPing {
					continue
				}
				if got := f.number(t); got != want {
					t.Errorf("got frame %d, want %d", got, want)
					return
				}
				if want++; want%50 == 0 {
					<-pause
				}
			}
		}()
		r := rand.New(rand.NewPCG(1, 2))
		for n := 0; n < frames; {
			var joined []byte
			for range min(frames-n, 1+r.IntN(8)) {
				joined = append(joined, numbered(n, randomSize(r))...)
				n++
			}
			s.push(t, joined)
			if r.IntN(10) == 0 {
				s.control(t, opPing, "are you there?")
			}
			if r.IntN(30) == 0 {
				pause <- struct{}{}
			}
		}
		close(pause)
		<-done
		s.wantLost(t, 0)
	})
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

func TestPushNeverWaits(t *testing.T) {
	synctestOnPipe(t, generous, func(t *testing.T, s *socket) {
		start := time.Now()
		for n := range 100 {
			s.push(t, numbered(n, 10_000)) // nobody reads
			s.control(t, opPing, "")
		}
		if waited := time.Since(start); waited != 0 {
			t.Errorf("waited %v", waited)
		}
	})
	conn, peer := tcp(t)
	s := upgraded(t, conn, peer, generous)
	defer s.end(t)
	for n := range 1000 {
		s.push(t, numbered(n, 10_000))
	}
}

func TestControlFramesOvertakeTheBacklogAtAFramesBoundary(t *testing.T) {
	synctestOnPipe(t, generous, func(t *testing.T, s *socket) {
		s.push(t, numbered(0, 100_000))
		if _, err := s.r.Peek(1); err != nil { // frame 0 has been begun
			t.Fatal(err)
		}
		s.push(t, numbered(1, 10), numbered(2, 100_000))
		s.control(t, opPing, "one")
		s.push(t, numbered(3, 10))
		s.control(t, opPong, "two")
		s.wantNumber(t, 0)
		s.wantControl(t, opPing, "one")
		s.wantControl(t, opPong, "two")
		for n := 1; n <= 3; n++ {
			s.wantNumber(t, n)
		}
	})
	// The kernel has a part of the first buffer, which is nowhere near its end.
	conn, peer := tcp(t)
	s := upgraded(t, conn, peer, generous)
	defer s.end(t)
	const frames = 1000
	var joined []byte
	for n := range frames {
		joined = append(joined, numbered(n, 5000)...)
	}
	s.push(t, joined)
	s.control(t, opPing, "")
	overtaken := 0
	for n := 0; n < frames; {
		f := s.next(t)
		if f.opcode == opPing {
			overtaken = frames - n
			continue
		}
		if got := f.number(t); got != n {
			t.Fatalf("got frame %d, want %d", got, n)
		}
		n++
	}
	if overtaken < frames/4 {
		t.Errorf("the ping overtook %d of %d frames", overtaken, frames)
	}
}

func TestSlowPeerIsCutAtAFramesBoundary(t *testing.T) {
	limits := generous
	limits.Pending = 50_000
	overEachTransport(t, func(t *testing.T, conn, peer net.Conn) {
		s := upgraded(t, conn, peer, limits)
		defer s.end(t)
		pushed := 0
		joined := func() []byte {
			var b []byte
			for range 10 {
				b = append(b, numbered(pushed, 3001)...)
				pushed++
			}
			return b
		}
		s.push(t, joined())
		if _, err := s.r.Peek(1); err != nil { // something has been begun
			t.Fatal(err)
		}
		for s.Push(joined()) == nil {
			if pushed > 1_000_000 {
				t.Fatal("never slow")
			}
		}
		s.wantEnding(t, outbox.Slow)
		if s.Code() != 1013 {
			t.Errorf("code is %d", s.Code())
		}
		// It would have had these too.
		if err := s.Push(joined()); !errors.Is(err, outbox.ErrClosed) {
			t.Errorf("Push after the cut: %v", err)
		}
		s.control(t, opPing, "swallowed")
		arrived := 0
		for {
			f := s.next(t)
			if f.opcode == opClose {
				if got := binary.BigEndian.Uint16(f.payload); got != 1013 {
					t.Errorf("close code is %d", got)
				}
				break
			}
			if got := f.number(t); got != arrived {
				t.Fatalf("got frame %d, want %d", got, arrived)
			}
			arrived++
		}
		s.wantLost(t, pushed-arrived)
		s.Close()
		go s.peer.Close()
		s.Linger(false)
		if arrived == 0 || arrived == pushed {
			t.Errorf("%d of %d frames arrived", arrived, pushed)
		}
	})
}

func TestSlowPeerThatGoesOnNotReadingIsCutOff(t *testing.T) {
	limits := generous
	limits.Pending, limits.CloseTimeout = 1000, 5*time.Second
	synctestOnPipe(t, limits, func(t *testing.T, s *socket) {
		s.push(t, numbered(0, 100_000))
		if _, err := s.r.Peek(1); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if err := s.Push(numbered(1, 10)); !errors.Is(err, outbox.ErrClosed) {
			t.Errorf("Push past the limit: %v", err)
		}
		if _, err := s.Read(make([]byte, 1)); err == nil || time.Since(start) != 5*time.Second {
			t.Errorf("Read ended with %v after %v", err, time.Since(start))
		}
		s.Close()
		s.Linger(false)
		if took := time.Since(start); took != 5*time.Second {
			t.Errorf("cut off after %v", took)
		}
		for {
			if _, err := s.read(); err == io.ErrUnexpectedEOF {
				break
			} else if err != nil {
				t.Fatalf("read: %v, want an end within frame 0", err)
			}
		}
		s.wantLost(t, 2)
	})
}

func TestPeerThatReadsNoPongsIsSlow(t *testing.T) {
	limits := generous
	limits.Pending = 10_000
	synctestOnPipe(t, limits, func(t *testing.T, s *socket) {
		for n := 0; s.Code() == 0; n++ {
			if n > 1000 {
				t.Fatal("never slow")
			}
			s.control(t, opPong, strings.Repeat("x", 125))
			synctest.Wait() // the flusher has begun the first
		}
		s.wantEnding(t, outbox.Slow)
		s.wantControl(t, opPong, "") // it had been begun
		s.wantControl(t, opClose, code(1013))
		s.wantLost(t, 0)
	})
}

func TestLargeEventAloneIsDeliverable(t *testing.T) {
	limits := generous
	limits.Pending = 1000
	overEachTransport(t, func(t *testing.T, conn, peer net.Conn) {
		s := upgraded(t, conn, peer, limits)
		defer s.end(t)
		for n := range 3 {
			s.push(t, numbered(n, 3<<20))
			s.wantNumber(t, n)
		}
	})
	synctestOnPipe(t, limits, func(t *testing.T, s *socket) {
		s.push(t, numbered(0, 3<<20))
		synctest.Wait() // the flusher has begun it
		// Something waits now, and one more byte is too much.
		if err := s.Push(numbered(1, 10)); !errors.Is(err, outbox.ErrClosed) {
			t.Errorf("Push: %v", err)
		}
		s.wantNumber(t, 0)
		s.wantControl(t, opClose, code(1013))
	})
}

func TestNothingFollowsACloseFrame(t *testing.T) {
	ends := map[string]func(t *testing.T, s *socket){
		"CloseWith": func(t *testing.T, s *socket) {
			if err := s.CloseWith(4001, "bye"); err != nil {
				t.Error(err)
			}
			s.wantEnding(t, outbox.Closed)
		},
		// The peer has closed: it is not interested in what waits.
		"echo": func(t *testing.T, s *socket) { s.control(t, opClose, code(4001)) },
	}
	for name, end := range ends {
		for _, waiting := range []bool{false, true} {
			t.Run(fmt.Sprint(name, ", waiting ", waiting), func(t *testing.T) {
				synctestOnPipe(t, generous, func(t *testing.T, s *socket) {
					if waiting {
						s.push(t, numbered(0, 40_000))
						synctest.Wait() // the flusher has begun it
						s.push(t, numbered(1, 40_000))
						s.control(t, opPing, "")
					}
					end(t, s)
					if err := s.Push(numbered(2, 10)); !errors.Is(err, outbox.ErrClosed) {
						t.Errorf("Push: %v", err)
					}
					if err := s.CloseWith(4002, "again"); !errors.Is(err, outbox.ErrClosed) {
						t.Errorf("CloseWith: %v", err)
					}
					s.control(t, opPing, "")
					s.control(t, opClose, code(1000)) // gorilla's echo of the peer's
					if s.Code() != 4001 {
						t.Errorf("code is %d", s.Code())
					}
					if waiting {
						s.wantNumber(t, 0)
						if name == "CloseWith" {
							s.wantControl(t, opPing, "")
							s.wantNumber(t, 1)
						} else {
							s.wantLost(t, 1)
						}
					}
					s.wantControl(t, opClose, code(4001))
					s.Close()
					go s.Linger(true)
					s.wantEOF(t)
				})
			})
		}
	}
}

func TestPeerThatTakesNothingForWriteTimeoutIsGivenUp(t *testing.T) {
	limits := generous
	limits.WriteTimeout = 10 * time.Second
	synctestOnPipe(t, limits, func(t *testing.T, s *socket) {
		start := time.Now()
		s.push(t, numbered(0, 100_000), numbered(1, 10))
		// The flusher closes the socket, which is what ends the read loop.
		if _, err := s.Read(make([]byte, 1)); err == nil {
			t.Error("Read returned")
		}
		if took := time.Since(start); took != 10*time.Second {
			t.Errorf("given up after %v", took)
		}
		s.wantEnding(t, outbox.Dead)
		s.wantLost(t, 2)
		if err := s.Push(numbered(2, 10)); !errors.Is(err, outbox.ErrClosed) {
			t.Errorf("Push: %v", err)
		}
		if _, err := s.Write([]byte{0x89, 0}); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Write: %v", err)
		}
	})
	// One that takes something first has twice as long at the most.
	synctestOnPipe(t, limits, func(t *testing.T, s *socket) {
		s.push(t, numbered(0, 100_000))
		time.Sleep(time.Second)
		start := time.Now()
		if _, err := s.r.Peek(1); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Read(make([]byte, 1)); err == nil {
			t.Error("Read returned")
		}
		if took := time.Since(start); took < 10*time.Second || took > 20*time.Second {
			t.Errorf("given up after %v", took)
		}
		s.wantEnding(t, outbox.Dead)
		s.wantLost(t, 1)
	})
}

func TestSlowProgressIsNotGivenUp(t *testing.T) {
	limits := generous
	limits.WriteTimeout, limits.PongTimeout = 10*time.Second, 15*time.Second
	synctestOnPipe(t, limits, func(t *testing.T, s *socket) {
		const size = 40_000
		for n := range 3 {
			s.push(t, numbered(n, size))
		}
		// The peer's pongs, if it sends any, queue behind what it reads: progress counts
		// for the reads too.
		ended := make(chan error, 1)
		go func() {
			_, err := s.Read(make([]byte, 1))
			ended <- err
		}()
		// It takes at most a few hundred bytes in eight seconds, so that each of the
		// flusher's writes takes minutes.
		var got bytes.Buffer
		for got.Len() < 3*size {
			time.Sleep(8 * time.Second)
			b := make([]byte, 1+got.Len()%997)
			n, err := s.peer.Read(b)
			if err != nil {
				t.Fatalf("after %d bytes: %v", got.Len(), err)
			}
			got.Write(b[:n])
		}
		s.r = bufio.NewReader(io.MultiReader(&got, s.peer))
		for n := range 3 {
			s.wantNumber(t, n)
		}
		s.wantLost(t, 0)
		select {
		case err := <-ended:
			t.Errorf("Read: %v", err)
		default:
		}
	})
}

func TestAnyByteCountsAsLifeAndSilenceDoesNot(t *testing.T) {
	limits := generous
	limits.PongTimeout = 60 * time.Second
	synctestOnPipe(t, limits, func(t *testing.T, s *socket) {
		go func() {
			for range 10 {
				time.Sleep(59 * time.Second)
				s.peer.Write([]byte{1})
			}
		}()
		start := time.Now()
		b := make([]byte, 1)
		for range 10 {
			if _, err := s.Read(b); err != nil {
				t.Fatal(err)
			}
		}
		// A callback that holds the reader up costs the peer nothing.
		time.Sleep(time.Hour)
		if _, err := s.Read(b); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("Read: %v", err)
		}
		if got, want := time.Since(start), 10*59*time.Second+time.Hour+60*time.Second; got != want {
			t.Errorf("given up after %v, want %v", got, want)
		}
	})
}

func TestPingsAreSentWhileTheReaderReadsAndWhileItCannot(t *testing.T) {
	limits := generous
	limits.PingInterval, limits.PongTimeout = 50*time.Second, 60*time.Second
	synctestOnPipe(t, limits, func(t *testing.T, s *socket) {
		start := time.Now()
		var pings []time.Duration
		done := make(chan struct{})
		go func() {
			for range 6 {
				f, err := s.read()
				if err != nil || f.opcode != opPing {
					t.Errorf("frame of opcode %d: %v", f.opcode, err)
					return
				}
				if pings = append(pings, time.Since(start)); len(pings) < 3 {
					s.peer.Write([]byte{1}) // a pong
				}
			}
			close(done)
		}()
		b := make([]byte, 1)
		for range 2 {
			if _, err := s.Read(b); err != nil {
				t.Fatal(err)
			}
		}
		s.PingUntil(done) // as long as it takes, and no pong is missed
		for i, at := range pings {
			if want := time.Duration(i+1) * limits.PingInterval; at != want {
				t.Errorf("ping %d after %v, want %v", i+1, at, want)
			}
		}
		// Only now is there somebody who could have heard a pong. That the kernel takes more
		// pings is no sign of life.
		last := time.Now()
		go io.Copy(io.Discard, s.r)
		if _, err := s.Read(b); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(last) != limits.PongTimeout {
			t.Errorf("Read: %v after %v, want the end after %v", err, time.Since(last), limits.PongTimeout)
		}
	})
}

func TestDeadlinesAreGoneWhenTheBacklogIs(t *testing.T) {
	overEachTransport(t, func(t *testing.T, conn, peer net.Conn) {
		limits := generous
		limits.WriteTimeout = 20 * time.Millisecond
		s := upgraded(t, conn, peer, limits)
		defer s.end(t)
		read := make(chan struct{})
		go func() { // a reader that is never slow, whatever else this machine does
			defer close(read)
			for n := range 6 {
				if f, err := s.read(); err != nil || f.number(t) != n {
					t.Errorf("frame %d: %v", n, err)
					return
				}
			}
		}()
		for n := range 3 {
			s.push(t, numbered(2*n, 100_000)) // more than the kernel takes at once
			<-time.After(2 * limits.WriteTimeout)
			// The deadlines of others end in the outbox.
			past := time.Now().Add(-time.Hour)
			if err := errors.Join(s.SetDeadline(past), s.SetReadDeadline(past), s.SetWriteDeadline(past)); err != nil {
				t.Error(err)
			}
			s.push(t, numbered(2*n+1, 10))
		}
		<-read
		s.wantLost(t, 0)
	})
}

func TestCloseWithUnreadInputStillDeliversTheCloseFrame(t *testing.T) {
	overEachTransport(t, func(t *testing.T, conn, peer net.Conn) {
		s := upgraded(t, conn, peer, generous)
		defer s.end(t)
		written := make(chan struct{})
		go func() { // more than the outbox's side ever reads
			defer close(written)
			for range 10 {
				s.peer.Write(make([]byte, 1000))
			}
		}()
		s.push(t, numbered(0, 100_000))
		if err := s.CloseWith(1000, ""); err != nil {
			t.Error(err)
		}
		s.Close() // melody does not wait
		lingered := make(chan struct{})
		go func() {
			defer close(lingered)
			s.Linger(false)
		}()
		s.wantNumber(t, 0)
		s.wantControl(t, opClose, code(1000))
		if _, half := conn.(interface{ CloseWrite() error }); half {
			s.wantEOF(t)
		}
		<-written
		s.peer.Close()
		<-lingered
	})
}

func TestCloseWithSendsWhatWaitsAndThenGivesCloseTimeout(t *testing.T) {
	limits := generous
	limits.CloseTimeout = 5 * time.Second
	synctestOnPipe(t, limits, func(t *testing.T, s *socket) {
		start := time.Now()
		s.push(t, numbered(0, 50_000), numbered(1, 50_000))
		if err := s.CloseWith(1001, "going away"); err != nil {
			t.Error(err)
		}
		if time.Since(start) != 0 {
			t.Error("CloseWith waited")
		}
		s.wantEnding(t, outbox.Closed)
		// The peer's time begins when it has all.
		time.Sleep(time.Minute)
		s.wantNumber(t, 0)
		time.Sleep(time.Minute)
		s.wantNumber(t, 1)
		s.wantControl(t, opClose, code(1001)+"going away")
		synctest.Wait()
		start = time.Now()
		if _, err := s.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("Read: %v", err)
		}
		s.Close()
		s.Linger(false)
		if took := time.Since(start); took != 5*time.Second {
			t.Errorf("waited %v for an answer", took)
		}
		s.wantEOF(t)
	})
}

func TestLingerEndsWithThePeerAndWithCloseTimeout(t *testing.T) {
	limits := generous
	limits.CloseTimeout = 5 * time.Second
	for _, test := range []struct {
		name       string
		peerClosed bool          // Linger is told so
		after      time.Duration // the peer closes the connection, unless that is zero
		want       time.Duration
	}{
		{"told that the peer has closed", true, 0, 0},
		{"peer closes", false, 3 * time.Second, 3 * time.Second},
		{"peer stays", false, 0, 5 * time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctestOnPipe(t, limits, func(t *testing.T, s *socket) {
				if err := s.CloseWith(1000, ""); err != nil {
					t.Error(err)
				}
				s.wantControl(t, opClose, code(1000))
				if test.after > 0 {
					time.AfterFunc(test.after, func() { s.peer.Close() })
				}
				start := time.Now()
				s.Close()
				s.Linger(test.peerClosed)
				if took := time.Since(start); took != test.want {
					t.Errorf("lingered for %v, want %v", took, test.want)
				}
			})
		})
	}
}

func TestLingerEndsWithCloseTimeoutOverTLS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limits := generous
		limits.CloseTimeout = time.Second
		a, b := net.Pipe()
		conn, peer := secured(t, a, b)
		s := upgraded(t, conn, peer, limits)
		if err := s.CloseWith(1000, ""); err != nil {
			t.Error(err)
		}
		s.wantControl(t, opClose, code(1000))
		// The peer reads nothing more, not even TLS's own farewell.
		start := time.Now()
		s.Close()
		s.Linger(false)
		if took := time.Since(start); took != limits.CloseTimeout {
			t.Errorf("lingered for %v, want %v", took, limits.CloseTimeout)
		}
		b.Close()
	})
}

func TestDeadPeerIsNoticedByAWrite(t *testing.T) {
	overEachTransport(t, func(t *testing.T, conn, peer net.Conn) {
		s := upgraded(t, conn, peer, generous)
		defer s.end(t)
		s.peer.Close()
		for s.Push(numbered(0, 1000)) == nil {
			runtime.Gosched()
		}
		s.wantEnding(t, outbox.Dead)
		if _, err := s.Read(make([]byte, 1)); err == nil {
			t.Error("the socket is not closed")
		}
		if err := s.CloseWith(1000, ""); !errors.Is(err, outbox.ErrClosed) {
			t.Errorf("CloseWith: %v", err)
		}
		if s.Code() != 0 {
			t.Errorf("code is %d, of a close frame that was never sent", s.Code())
		}
	})
}

func TestKillClosesTheSocketAtOnce(t *testing.T) {
	overEachTransport(t, func(t *testing.T, conn, peer net.Conn) {
		s := upgraded(t, conn, peer, generous)
		defer s.end(t)
		s.push(t, numbered(0, 1<<20), numbered(1, 10)) // the flusher is blocked
		s.Kill()
		s.wantEnding(t, outbox.Dead)
		if _, err := s.Read(make([]byte, 1)); err == nil {
			t.Error("the socket is not closed")
		}
		s.Kill() // does nothing
		if len(s.endings) > 0 {
			t.Error("the second Kill is another ending")
		}
	})
}

// A killer kills its outbox within the first large write, which then succeeds.
type killer struct {
	net.Conn
	outbox *outbox.Outbox
}

func (k *killer) Write(p []byte) (int, error) {
	if len(p) > 1000 {
		k.outbox.Kill()
		return len(p), nil
	}
	return k.Conn.Write(p)
}

func TestFrameThatIsBegunWhenTheSocketIsKilledIsCounted(t *testing.T) {
	conn, peer := net.Pipe()
	k := &killer{Conn: conn}
	s := upgraded(t, k, peer, generous)
	k.outbox = s.Outbox
	s.push(t, numbered(0, 100_000), numbered(1, 10))
	s.wantEnding(t, outbox.Dead)
	s.end(t)
	s.wantLost(t, 2)
}

func TestEveryFrameArrivesOrIsCountedAsLost(t *testing.T) {
	for _, transport := range transports {
		t.Run(transport.name, func(t *testing.T) {
			for seed := range uint64(40) {
				conn, peer := transport.dial(t)
				accounting(t, conn, peer, rand.New(rand.NewPCG(seed, 0)))
				if t.Failed() {
					t.Fatalf("seed %d", seed)
				}
			}
		})
	}
}

// accounting pushes at random, ends the connection in a random way, and compares what
// arrived with what is counted.
func accounting(t *testing.T, conn, peer net.Conn, r *rand.Rand) {
	limits := generous
	limits.Pending = 1 + r.IntN(300_000)
	s := upgraded(t, conn, peer, limits)
	end := []string{"close", "kill", "echo", "slow"}[r.IntN(4)]
	permits := make(chan struct{}, 1000) // to read a frame, so that the peer is slow at times
	arrived := make(chan int)
	go func() {
		n := 0
		for {
			<-permits
			f, err := s.read()
			if err != nil {
				break
			}
			if f.opcode == opText {
				if got := f.number(t); got != n {
					t.Errorf("got frame %d, want %d", got, n)
				}
				n++
			}
		}
		arrived <- n
	}()
	pushed, slow := 0, false
	most := r.IntN(300)
	for pushed < most || end == "slow" && !slow {
		var joined []byte
		for range 1 + r.IntN(5) {
			joined = append(joined, numbered(pushed, randomSize(r))...)
			pushed++
		}
		if s.Push(joined) != nil {
			slow = true
		}
		if r.IntN(5) == 0 {
			s.control(t, opPing, "")
		}
		if end != "slow" {
			for range r.IntN(8) {
				select {
				case permits <- struct{}{}:
				default:
				}
			}
		}
	}
	switch end {
	case "close":
		s.CloseWith(1000, "")
	case "kill":
		s.Kill()
	case "echo":
		s.control(t, opClose, code(1000))
	}
	close(permits)
	s.Close()
	s.Linger(true)
	if n := <-arrived; n+int(s.lost.Load()) != pushed {
		t.Errorf("%s, limit %d: %d pushed, %d arrived, %d lost", end, limits.Pending, pushed, n, s.lost.Load())
	}
	if (s.Code() == 1013) != slow {
		t.Errorf("%s: code is %d, slow %v", end, s.Code(), slow)
	}
	s.end(t)
}

func TestManyPushAtOnce(t *testing.T) {
	overEachTransport(t, func(t *testing.T, conn, peer net.Conn) {
		const pushers, each = 8, 300
		s := upgraded(t, conn, peer, generous)
		defer s.end(t)
		var wg sync.WaitGroup
		for p := range pushers {
			wg.Go(func() {
				r := rand.New(rand.NewPCG(uint64(p), 0))
				for n := range each {
					s.push(t, numbered(p*each+n, r.IntN(3000)))
					if n%20 == 0 {
						s.control(t, opPing, "")
					}
				}
			})
		}
		next := make([]int, pushers)
		for range pushers * each {
			f := s.next(t)
			for f.opcode == opPing {
				f = s.next(t)
			}
			n := f.number(t)
			if n < 0 {
				t.FailNow()
			}
			if p := n / each; n%each != next[p] {
				t.Fatalf("pusher %d: got %d, want %d", p, n%each, next[p])
			}
			next[n/each]++
		}
		wg.Wait()
		s.wantLost(t, 0)
	})
}

func TestManyPushToASlowPeerAndEachFrameIsCounted(t *testing.T) {
	overEachTransport(t, func(t *testing.T, conn, peer net.Conn) {
		const pushers, each = 8, 300
		limits := generous
		limits.Pending = 100_000
		s := upgraded(t, conn, peer, limits)
		defer s.end(t)
		var wg sync.WaitGroup
		for p := range pushers {
			wg.Go(func() {
				for n := range each {
					s.Push(numbered(p*each+n, 3000))
				}
			})
		}
		wg.Wait()
		s.wantEnding(t, outbox.Slow)
		arrived := 0
		for {
			f := s.next(t)
			if f.opcode == opClose {
				break
			}
			f.number(t)
			arrived++
		}
		s.wantLost(t, pushers*each-arrived)
	})
}

func TestDeflatedIsWhatTheHandshakeNegotiated(t *testing.T) {
	for _, deflated := range []bool{false, true} {
		conn, peer := net.Pipe()
		o := outbox.New(conn, generous, nil, nil)
		answer := response
		if deflated {
			answer = strings.Replace(response, "\r\n\r\n", "\r\nSec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover\r\n\r\n", 1)
		}
		go io.Copy(io.Discard, peer)
		if n, err := o.Write([]byte(answer)); n != len(answer) || err != nil {
			t.Errorf("Write: %d, %v", n, err)
		}
		if got := o.Deflated(); got != deflated {
			t.Errorf("Deflated is %v after %q", got, answer)
		}
		conn.Close()
	}
}
