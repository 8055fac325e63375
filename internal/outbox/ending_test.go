package outbox_test

import (
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-29c60982/grouphub/internal/frame"
	"github.com/seed-29c60982/grouphub/internal/outbox"
)

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

func TestCloseWithAfterThePeersCloseStillSaysSo(t *testing.T) {
	synctestOnPipe(t, generous, func(t *testing.T, s *socket) {
		s.control(t, opClose, code(1000)) // gorilla's echo
		s.wantControl(t, opClose, code(1000))
		if err := s.CloseWith(4000, ""); !errors.Is(err, outbox.ErrClosed) {
			t.Errorf("CloseWith: %v", err)
		}
		s.wantEnding(t, outbox.Closed)
		if code := s.Code(); code != 1000 {
			t.Errorf("code %d", code)
		}
	})
}

// drip takes some bytes now and then until the connection ends.
func drip(peer net.Conn, bytes int, pause time.Duration) {
	for b := make([]byte, bytes); ; time.Sleep(pause) {
		if _, err := peer.Read(b); err != nil {
			return
		}
	}
}

func TestCloseIsBoundedInTimeBehindABacklog(t *testing.T) {
	limits := generous
	limits.WriteTimeout, limits.CloseTimeout = 10*time.Second, 5*time.Second
	synctestOnPipe(t, limits, func(t *testing.T, s *socket) {
		s.push(t, numbered(0, 100_000), numbered(1, 100_000))
		var dripping sync.WaitGroup
		defer dripping.Wait()
		dripping.Go(func() { drip(s.peer, 1, time.Second) })
		time.Sleep(time.Hour) // as long as nobody closes it, it may
		start := time.Now()
		if err := s.CloseWith(4401, "logged out"); err != nil {
			t.Error(err)
		}
		s.wantEnding(t, outbox.Closed)
		if _, err := s.Read(make([]byte, 1)); err == nil {
			t.Error("Read returned")
		}
		s.Close()
		s.Linger(false)
		if took := time.Since(start); took != 15*time.Second {
			t.Errorf("it took %v", took)
		}
		s.wantLost(t, 2)
	})
}

func TestCloseIsBoundedInTimeOnARawSocket(t *testing.T) {
	t.Parallel()
	limits := generous
	limits.WriteTimeout, limits.CloseTimeout = time.Second, time.Millisecond
	conn, peer := unix(t) // TCP takes bytes by the megabyte
	s := upgraded(t, conn, peer, limits)
	var dripping sync.WaitGroup
	defer dripping.Wait()
	defer s.hangUp()
	s.push(t, frame.New(opText, make([]byte, 20<<20), false))
	dripping.Go(func() { drip(s.peer, 1000, 10*time.Millisecond) }) // minutes for all
	if err := s.CloseWith(4401, "logged out"); err != nil {
		t.Error(err)
	}
	if how := <-s.endings; how != outbox.Closed {
		t.Errorf("ending is %d", how)
	}
	s.wantEnding(t, outbox.Dead)
}

func TestOnceTheBacklogIsWrittenThePeerHasCloseTimeout(t *testing.T) {
	limits := generous
	limits.WriteTimeout, limits.CloseTimeout = 10*time.Second, 5*time.Second
	for after, want := range map[time.Duration]time.Duration{
		time.Second:      6 * time.Second,
		12 * time.Second: 15 * time.Second, // WriteTimeout and CloseTimeout are for all
	} {
		synctestOnPipe(t, limits, func(t *testing.T, s *socket) {
			start := time.Now()
			s.push(t, numbered(0, 100_000))
			if err := s.CloseWith(1000, ""); err != nil {
				t.Error(err)
			}
			time.AfterFunc(after, func() { s.wantNumber(t, 0); s.wantControl(t, opClose, code(1000)) })
			if _, err := s.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("Read: %v", err)
			}
			if took := time.Since(start); took != want {
				t.Errorf("it took %v, want %v", took, want)
			}
			s.wantLost(t, 0)
		})
	}
}

func TestTimeoutsThatMeanNeverDoNotEndAClose(t *testing.T) {
	limits := generous
	limits.WriteTimeout, limits.CloseTimeout = math.MaxInt64, math.MaxInt64
	synctestOnPipe(t, limits, func(t *testing.T, s *socket) {
		s.push(t, numbered(0, 100_000))
		if err := s.CloseWith(1000, ""); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Hour)
		s.wantNumber(t, 0)
		s.wantControl(t, opClose, code(1000))
	})
}
