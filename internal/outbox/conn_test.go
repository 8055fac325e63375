package outbox_test

import (
	"bufio"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/seed-29c60982/grouphub/internal/outbox"
)

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

func TestWhatIsSentBeforeReleaseLeavesWithIt(t *testing.T) {
	overEachTransport(t, func(t *testing.T, conn, peer net.Conn) {
		for _, size := range []int{10, 100_000} { // which the kernel takes whole, and which not
			for name, release := range map[string]func(o *outbox.Outbox){
				"Release":   func(o *outbox.Outbox) { o.Release(); o.Release() },
				"CloseWith": func(o *outbox.Outbox) { o.CloseWith(1000, "") },
				"much":      func(o *outbox.Outbox) { o.Push(numbered(3, 1<<20)) },
			} {
				limits := generous
				limits.Pending = 2_000_000
				s := &socket{peer: peer, r: bufio.NewReader(peer), endings: make(chan outbox.Ending, 10)}
				s.Outbox = outbox.New(conn, limits, func(how outbox.Ending) { s.endings <- how }, func(frames int) { s.lost.Add(int64(frames)) })
				if n, err := s.Write([]byte(response)); n != len(response) || err != nil {
					t.Fatalf("Write: %d, %v", n, err)
				}
				for n := range 3 {
					s.push(t, numbered(n, size))
				}
				if err := s.Drained(t.Context()); err != nil {
					t.Errorf("Drained: %v", err)
				}
				peer.SetReadDeadline(time.Now().Add(time.Millisecond))
				if _, err := s.r.Peek(1); !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("something has left before %s: %v", name, err)
				}
				peer.SetReadDeadline(time.Time{})
				release(s.Outbox)
				got := make([]byte, len(response))
				if _, err := io.ReadFull(s.r, got); err != nil || string(got) != response {
					t.Errorf("answer is %q, %v", got, err)
				}
				for n := range 3 {
					s.wantNumber(t, n)
				}
				if name == "much" {
					s.wantNumber(t, 3)
				}
				if name == "CloseWith" {
					s.wantControl(t, opClose, code(1000))
				}
				s.wantLost(t, 0)
				if name != "CloseWith" {
					if err := s.Drained(t.Context()); err != nil {
						t.Errorf("Drained: %v", err)
					}
				}
			}
		}
	})
}

func TestWhatIsHeldForAPeerThatHasLeftIsCounted(t *testing.T) {
	conn, peer := tcp(t)
	var lost atomic.Int64
	o := outbox.New(conn, generous, func(outbox.Ending) {}, func(frames int) { lost.Add(int64(frames)) })
	if _, err := o.Write([]byte(response)); err != nil {
		t.Fatal(err)
	}
	for n := range 3 {
		if err := o.Push(numbered(n, 10)); err != nil {
			t.Fatal(err)
		}
	}
	peer.Close() // the kernel takes the answer, is told that nobody is there, and refuses what is behind it
	if n, err := conn.Read(make([]byte, 1)); n > 0 || err != io.EOF {
		t.Fatalf("Read: %d, %v, want io.EOF", n, err)
	}
	o.Release()
	if err := o.Push(numbered(3, 10)); err == nil {
		t.Error("a frame can be pushed after a write that failed")
	}
	if n := lost.Load(); n != 3 {
		t.Errorf("%d frames are counted as lost, want the 3 that were held", n)
	}
}
