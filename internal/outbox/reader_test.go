package outbox_test

import (
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-29c60982/grouphub/internal/frame"
)

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
				if pings = append(pings, time.Since(start)); len(pings) < 6 {
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
		s.Await(done) // as long as it takes, and no pong is missed
		for i, at := range pings {
			if want := time.Duration(i+1) * limits.PingInterval; at != want {
				t.Errorf("ping %d after %v, want %v", i+1, at, want)
			}
		}
		for range 3 { // the pongs that were read ahead
			if _, err := s.Read(b); err != nil {
				t.Fatal(err)
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

// onConn runs a test with an outbox on a wrapped end of a pipe, and a peer that reads all
// frames and answers pings if it is to.
func onConn(t *testing.T, wrap func(net.Conn) net.Conn, answers bool, test func(t *testing.T, s *socket, pings *atomic.Int64)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		limits := generous
		limits.PingInterval, limits.PongTimeout = 54*time.Second, 60*time.Second
		conn, peer := net.Pipe()
		s := upgraded(t, wrap(conn), peer, limits)
		var pings atomic.Int64
		go func() {
			for {
				f, err := s.read()
				if err != nil {
					return
				}
				if f.opcode != opPing {
					continue
				}
				pings.Add(1)
				if answers {
					peer.Write([]byte{1})
				}
			}
		}()
		test(t, s, &pings)
		s.peer.Close()
		s.Close()
		s.Linger(true)
	})
}

// ownTimeouts are what the read deadlines of yamux and gVisor end with.
type ownTimeouts struct{ net.Conn }

type ownTimeout struct{}

func (ownTimeout) Error() string   { return "i/o timeout" }
func (ownTimeout) Timeout() bool   { return true }
func (ownTimeout) Temporary() bool { return true }

func (c ownTimeouts) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = &net.OpError{Op: "read", Net: "tcp", Err: ownTimeout{}}
	}
	return n, err
}

func TestReadGoesOnAfterAPingWhateverADeadlinesErrorIs(t *testing.T) {
	onConn(t, func(c net.Conn) net.Conn { return ownTimeouts{c} }, true, func(t *testing.T, s *socket, _ *atomic.Int64) {
		for range 5 {
			if _, err := s.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// noDeadlines is like a channel of SSH.
type noDeadlines struct{ net.Conn }

func (noDeadlines) SetReadDeadline(time.Time) error { return errors.New("not supported") }

func TestPingsAreSentWithoutDeadlines(t *testing.T) {
	onConn(t, func(c net.Conn) net.Conn { return noDeadlines{c} }, false, func(t *testing.T, s *socket, pings *atomic.Int64) {
		time.AfterFunc(10*time.Minute, func() { s.peer.Close() })
		if _, err := s.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("Read: %v", err)
		}
		if n := pings.Load(); n != 11 {
			t.Errorf("%d pings in ten minutes", n)
		}
	})
}

// An expired connection has a deadline of its own, which has passed.
type expired struct {
	net.Conn
	reads atomic.Int64
}

func (c *expired) Read([]byte) (int, error) {
	c.reads.Add(1)
	return 0, os.ErrDeadlineExceeded
}

func TestReadEndsWithADeadlineThatIsNotItsOwn(t *testing.T) {
	var e *expired
	onConn(t, func(c net.Conn) net.Conn { e = &expired{Conn: c}; return e }, true, func(t *testing.T, s *socket, _ *atomic.Int64) {
		if _, err := s.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) || e.reads.Load() != 1 {
			t.Errorf("Read: %v, after %d reads", err, e.reads.Load())
		}
	})
}

// slowWrites is a transport that takes everything, whether the peer is there or not.
type slowWrites struct{ net.Conn }

func (c slowWrites) Write(p []byte) (int, error) {
	time.Sleep(5 * time.Millisecond)
	return c.Conn.Write(p)
}

func TestSilenceIsNoticedBehindSlowWrites(t *testing.T) {
	onConn(t, func(c net.Conn) net.Conn { return slowWrites{c} }, false, func(t *testing.T, s *socket, _ *atomic.Int64) {
		start := time.Now()
		time.AfterFunc(time.Hour, func() { s.peer.Close() })
		if _, err := s.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != time.Minute {
			t.Errorf("Read: %v after %v, want the end after a minute", err, time.Since(start))
		}
	})
}

// A peer that takes what waits for it is alive, though its pong comes late.
func TestTakingABacklogIsASignOfLife(t *testing.T) {
	onConn(t, func(c net.Conn) net.Conn { return c }, false, func(t *testing.T, s *socket, _ *atomic.Int64) {
		start := time.Now()
		go func() {
			for range 10 {
				s.push(t, frame.New(opText, make([]byte, 100), false))
				time.Sleep(time.Second)
			}
		}()
		s.Read(make([]byte, 1))
		if got := time.Since(start); got != time.Minute {
			t.Errorf("frames that are taken at once: the end after %v, want a minute", got)
		}
	})
	onConn(t, func(c net.Conn) net.Conn { return everyWrite{c, 10 * time.Second} }, false, func(t *testing.T, s *socket, _ *atomic.Int64) {
		start := time.Now()
		s.push(t, frame.New(opText, make([]byte, 20<<14), false)) // 20 writes that take 10 s
		s.Read(make([]byte, 1))
		if got, want := time.Since(start), 20*10*time.Second+time.Minute; got != want {
			t.Errorf("a backlog that takes 200 s: the end after %v, want %v", got, want)
		}
	})
}

// everyWrite takes so long.
type everyWrite struct {
	net.Conn
	long time.Duration
}

func (c everyWrite) Write(p []byte) (int, error) {
	if len(p) >= 1<<14 {
		time.Sleep(c.long)
	}
	return c.Conn.Write(p)
}
