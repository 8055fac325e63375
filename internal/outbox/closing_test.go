package outbox_test

import (
	"errors"
	"math"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/seed-29c60982/grouphub/internal/outbox"
)

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
	limits := generous
	limits.WriteTimeout, limits.CloseTimeout = time.Second, time.Millisecond
	conn, peer := unix(t) // TCP takes bytes by the megabyte
	s := upgraded(t, conn, peer, limits)
	var dripping sync.WaitGroup
	defer dripping.Wait()
	defer s.end(t)
	s.push(t, outbox.NewFrame(opText, make([]byte, 20<<20), false))
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
