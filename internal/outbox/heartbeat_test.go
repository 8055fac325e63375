package outbox_test

import (
	"io"
	"testing"
	"time"

	"github.com/seed-29c60982/grouphub/internal/outbox"
)

const heartbeat = `{"type":"grouphub.heartbeat"}`

// withHeartbeats runs a test with an outbox whose peer gets heartbeats, while somebody reads
// from it.
func withHeartbeats(t *testing.T, change func(*outbox.Limits), test func(t *testing.T, s *socket)) {
	t.Helper()
	limits := generous
	limits.Heartbeat = 25 * time.Second
	change(&limits)
	synctestOnPipe(t, limits, func(t *testing.T, s *socket) {
		go io.Copy(io.Discard, s)
		test(t, s)
	})
}

func TestAHeartbeatFollowsEachIntervalWithoutAFrame(t *testing.T) {
	withHeartbeats(t, func(*outbox.Limits) {}, func(t *testing.T, s *socket) {
		last := time.Now()
		wantAfter := func(want time.Duration, payload string) {
			t.Helper()
			f := s.next(t)
			if got := time.Since(last); f.opcode != opText || string(f.payload) != payload || got != want {
				t.Errorf("after %v came %q, want after %v %q", got, f.payload, want, payload)
			}
			last = time.Now()
		}
		for range 100 { // beyond what the clock's bits hold
			wantAfter(25*time.Second, heartbeat)
		}
		time.AfterFunc(24*time.Second, func() { s.push(t, numbered(1, 10)) })
		wantAfter(24*time.Second, string(numberedPayload(1, 10)))
		wantAfter(25*time.Second, heartbeat)
		time.Sleep(time.Second)
		last = time.Now()
		s.peer.Write([]byte{1}) // what comes from the peer is no reason to say less
		wantAfter(24*time.Second, heartbeat)
	})
}

func TestPingsAreNoHeartbeats(t *testing.T) {
	withHeartbeats(t, func(l *outbox.Limits) { l.PingInterval = 10 * time.Second }, func(t *testing.T, s *socket) {
		for _, want := range []byte{opPing, opPing, opText, opPing, opPing, opPing, opText} {
			if f := s.next(t); f.opcode != want {
				t.Fatalf("got opcode %d, want %d", f.opcode, want)
			}
		}
	})
}

func TestNoHeartbeatFollowsACloseFrame(t *testing.T) {
	withHeartbeats(t, func(*outbox.Limits) {}, func(t *testing.T, s *socket) {
		s.CloseWith(1000, "")
		if f := s.next(t); f.opcode != opClose {
			t.Errorf("got opcode %d", f.opcode)
		}
		time.AfterFunc(10*time.Minute, func() { s.Kill() })
		s.wantEOF(t)
		s.wantLost(t, 0)
	})
}
