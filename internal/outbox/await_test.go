package outbox_test

import (
	"io"
	"runtime"
	"testing"
	"time"
)

// wantLeft waits, while the reader waits for somebody who is busy, until the owner is told that
// the peer has left.
func wantLeft(t *testing.T, s *socket, properly bool, within time.Duration) {
	t.Helper()
	done, returned := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(returned)
		s.Await(done)
	}()
	select {
	case got := <-s.Left():
		if got != properly {
			t.Errorf("it is told that the peer has left properly: %v", got)
		}
	case <-time.After(within):
		t.Errorf("nothing is noticed within %v", within)
	}
	close(done)
	<-returned
}

func TestEndIsNoticedBehindMoreThanIsReadAhead(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the state of a socket is not known on this platform")
	}
	for _, transport := range transports {
		if transport.name != "TCP" && transport.name != "wrapped TCP" {
			continue
		}
		t.Run(transport.name, func(t *testing.T) {
			t.Parallel()
			conn, peer := transport.dial(t)
			s := upgraded(t, conn, peer, generous)
			if _, err := s.peer.Write(make([]byte, 100<<10)); err != nil {
				t.Fatal(err)
			}
			s.peer.Close()
			// There may have been a close frame, behind what is read ahead.
			wantLeft(t, s, true, 30*time.Second)
			if n, err := io.Copy(io.Discard, s.Outbox); n != 100<<10 || err != nil {
				t.Errorf("%d bytes are read after that, %v", n, err)
			}
			s.Close()
			s.Linger(true)
		})
	}
}

func TestWhatIsReadAheadIsReadInOrder(t *testing.T) {
	limits := generous
	limits.PingInterval, limits.PongTimeout = 54*time.Second, time.Minute
	synctestOnPipe(t, limits, func(t *testing.T, s *socket) {
		const frames = 100
		go func() {
			for n := range frames {
				s.peer.Write([]byte{0x81, 1, byte(n)})
			}
			s.peer.Write([]byte{0x88, 0})
			io.Copy(io.Discard, s.peer)
		}()
		wantLeft(t, s, true, 2*time.Second)
		for n := range frames {
			b := make([]byte, 100)
			if k, err := s.Read(b); k != 3 || err != nil || b[2] != byte(n) {
				t.Fatalf("frame %d is %x, %v", n, b[:k], err)
			}
		}
		if k, err := s.Read(make([]byte, 100)); k != 2 || err != nil {
			t.Errorf("the close frame: %d bytes, %v", k, err)
		}
	})
}

func TestSilenceIsNoticedWhileTheReaderWaits(t *testing.T) {
	limits := generous
	limits.PingInterval, limits.PongTimeout = 54*time.Second, time.Minute
	synctestOnPipe(t, limits, func(t *testing.T, s *socket) {
		go io.Copy(io.Discard, s.peer)
		start := time.Now()
		wantLeft(t, s, false, time.Hour)
		if took := time.Since(start); took > limits.PongTimeout {
			t.Errorf("it is noticed after %v", took)
		}
	})
}

// The wait for a token is no longer than the connection.
func TestWaitForATokenEndsWithTheConnection(t *testing.T) {
	limits := generous
	limits.ReceiveRate, limits.ReceiveBurst, limits.CloseTimeout = 0.001, 1, 5*time.Second
	limits.PingInterval, limits.PongTimeout = 54*time.Second, time.Minute
	for name, end := range map[string]func(s *socket){
		"Kill":      func(s *socket) { s.Kill() },
		"CloseWith": func(s *socket) { s.CloseWith(1000, "") },
		"the peer":  func(s *socket) { s.peer.Close() },
	} {
		for _, frames := range []int{3, 20_000} { // some, and more than is read ahead
			synctestOnPipe(t, limits, func(t *testing.T, s *socket) {
				go io.Copy(io.Discard, s.peer)
				go func() {
					for range frames {
						s.peer.Write([]byte{0x89, 0x80, 0, 0, 0, 0})
					}
				}()
				start := time.Now()
				time.AfterFunc(50*time.Second, func() { end(s) })
				io.Copy(io.Discard, struct{ io.Reader }{s.Outbox})
				if took := time.Since(start); took > time.Minute+limits.PongTimeout {
					t.Errorf("%s, %d frames: reading ended after %v", name, frames, took)
				}
			})
		}
	}
}
