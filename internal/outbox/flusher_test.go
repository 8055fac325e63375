package outbox_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/seed-29c60982/grouphub/internal/frame"
	"github.com/seed-29c60982/grouphub/internal/outbox"
)

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

func TestDeadlinesAreGoneWhenTheBacklogIs(t *testing.T) {
	for _, transport := range transports {
		t.Run(transport.name, func(t *testing.T) {
			t.Parallel()
			conn, peer := transport.dial(t)
			limits := generous
			limits.WriteTimeout = 3 * time.Second // for which a reader stands still only on a machine that does
			s := upgraded(t, conn, peer, limits)
			defer s.hangUp()
			read := make(chan struct{})
			go func() {
				defer close(read)
				for n := range 4 {
					if f, err := s.read(); err != nil || f.number(t) != n {
						t.Errorf("frame %d: %v", n, err)
						return
					}
				}
			}()
			s.push(t, numbered(0, 100_000)) // more than the kernel takes at once
			if err := s.Drained(t.Context()); err != nil {
				t.Error(err)
			}
			<-time.After(limits.WriteTimeout)
			// The deadlines of others end in the outbox.
			past := time.Now().Add(-time.Hour)
			if err := errors.Join(s.SetDeadline(past), s.SetReadDeadline(past), s.SetWriteDeadline(past)); err != nil {
				t.Error(err)
			}
			s.push(t, numbered(1, 10))
			s.push(t, numbered(2, 100_000))
			s.push(t, numbered(3, 10))
			<-read
			s.wantLost(t, 0)
		})
	}
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
	for _, frames := range [][][]byte{
		{numbered(0, 64<<10)},
		{numbered(0, 100_000), numbered(1, 10)},
	} {
		conn, peer := net.Pipe()
		k := &killer{Conn: conn}
		s := upgraded(t, k, peer, generous)
		k.outbox = s.Outbox
		s.push(t, frames...)
		s.wantEnding(t, outbox.Dead)
		s.end(t)
		s.wantLost(t, len(frames))
	}
}

// A peer that takes bytes slowly, but all the time, is not given up, though the kernel says that
// there is room only when a third of its buffer is free.
func TestPeerThatTakesBytesSlowlyIsNotGivenUp(t *testing.T) {
	t.Parallel()
	plain := func(t *testing.T) (conn, peer net.Conn) {
		conn, peer = accepted(t, "tcp", "127.0.0.1:0")
		// The peer's kernel acknowledges rarely what it has much room for.
		if err := peer.(*net.TCPConn).SetReadBuffer(32 << 10); err != nil {
			t.Fatal(err)
		}
		return conn, peer
	}
	wrap := func(c net.Conn) net.Conn { return struct{ net.Conn }{c} }
	for name, dial := range map[string]func(t *testing.T) (conn, peer net.Conn){
		"plain":   plain,
		"wrapped": func(t *testing.T) (net.Conn, net.Conn) { c, p := plain(t); return wrap(c), p },
		"hidden":  func(t *testing.T) (net.Conn, net.Conn) { c, p := plain(t); return hiding{c}, p },
		"TLS":     func(t *testing.T) (net.Conn, net.Conn) { c, p := plain(t); return secured(t, c, p) },
		"TLS over wrapped": func(t *testing.T) (net.Conn, net.Conn) {
			c, p := plain(t)
			return secured(t, wrap(c), p)
		},
		"wrapped TLS": func(t *testing.T) (net.Conn, net.Conn) {
			c, p := plain(t)
			c, p = secured(t, c, p)
			return wrap(c), p
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for patience := time.Now().Add(time.Minute); !takesSlowly(t, dial); {
				if time.Now().After(patience) {
					t.Fatal("this machine is too slow for a peer that takes bytes all the time")
				}
			}
		})
	}
}

// takesSlowly has a peer take 400 KiB per second for two seconds, and then the rest. It returns false if
// the peer was given up for a good reason: on a busy machine, it has stood still itself.
func takesSlowly(t *testing.T, dial func(t *testing.T) (conn, peer net.Conn)) bool {
	t.Helper()
	conn, peer := dial(t)
	limits := generous
	limits.WriteTimeout = 500 * time.Millisecond
	s := upgraded(t, conn, peer, limits)
	defer s.hangUp()
	sent := frame.New(opText, make([]byte, 8<<20), false)
	r := &punctual{r: s.r, last: time.Now()}
	s.push(t, sent)
	b, got := make([]byte, 20<<10), 0
	for range 40 {
		n, err := io.ReadFull(r, b)
		if got += n; err != nil || len(s.endings) > 0 {
			if r.note(); r.longest > limits.WriteTimeout/2 {
				return false
			}
			t.Fatalf("given up after %d of %d: %v, though it has never stood still for more than %v", got, len(sent), err, r.longest)
		}
		time.Sleep(50 * time.Millisecond)
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		io.Copy(io.Discard, r)
	}()
	err := s.Drained(t.Context())
	if err == nil && len(s.endings) == 0 {
		return true
	}
	s.hangUp()
	<-read
	if r.longest <= limits.WriteTimeout/2 {
		t.Fatalf("Drained: %v, with %d endings, though the peer has never stood still for more than %v", err, len(s.endings), r.longest)
	}
	return false
}

// A punctual reader notes for how long it has read nothing at the most.
type punctual struct {
	r       io.Reader
	last    time.Time
	longest time.Duration
}

func (p *punctual) Read(b []byte) (int, error) {
	n, err := p.r.Read(b)
	p.note()
	return n, err
}

func (p *punctual) note() {
	now := time.Now()
	p.longest, p.last = max(p.longest, now.Sub(p.last)), now
}

// hiding is a wrapper that does not say what it wraps.
type hiding struct{ conn net.Conn }

func (h hiding) Read(p []byte) (int, error)         { return h.conn.Read(p) }
func (h hiding) Write(p []byte) (int, error)        { return h.conn.Write(p) }
func (h hiding) Close() error                       { return h.conn.Close() }
func (h hiding) LocalAddr() net.Addr                { return h.conn.LocalAddr() }
func (h hiding) RemoteAddr() net.Addr               { return h.conn.RemoteAddr() }
func (h hiding) SetDeadline(t time.Time) error      { return h.conn.SetDeadline(t) }
func (h hiding) SetReadDeadline(t time.Time) error  { return h.conn.SetReadDeadline(t) }
func (h hiding) SetWriteDeadline(t time.Time) error { return h.conn.SetWriteDeadline(t) }

func TestPeerThatTakesNothingIsGivenUpWhateverItsConnectionIs(t *testing.T) {
	for _, transport := range transports {
		t.Run(transport.name, func(t *testing.T) {
			t.Parallel()
			conn, peer := transport.dial(t)
			limits := generous
			limits.WriteTimeout = 200 * time.Millisecond
			s := upgraded(t, conn, peer, limits)
			start := time.Now()
			s.push(t, numbered(0, 20<<20))
			s.wantEnding(t, outbox.Dead)
			if took := time.Since(start); took < limits.WriteTimeout {
				t.Errorf("given up after %v", took)
			}
			s.wantLost(t, 1)
			s.hangUp()
		})
	}
}
