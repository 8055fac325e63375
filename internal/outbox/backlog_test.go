package outbox_test

import (
	"fmt"
	"math/rand/v2"
	"net"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

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

func TestSeveralPingsAreAnsweredByOnePong(t *testing.T) {
	limits := generous
	limits.Pending = 10_000
	synctestOnPipe(t, limits, func(t *testing.T, s *socket) {
		s.push(t, numbered(0, 100_000)) // more than may wait, but the first
		synctest.Wait()                 // the flusher has begun it
		for n := range 1000 {
			s.control(t, opPong, fmt.Sprint("answer ", n, strings.Repeat("x", 100)))
		}
		if n := s.Waiting(); n > 110_000 {
			t.Errorf("%d bytes wait", n)
		}
		s.wantNumber(t, 0)
		s.wantControl(t, opPong, "answer 999")
		synctest.Wait()
		if n := s.Waiting(); n != 0 {
			t.Errorf("%d bytes wait when all is written", n)
		}
		s.push(t, numbered(1, 10))
		s.wantNumber(t, 1)
		if len(s.endings) > 0 {
			t.Errorf("it ends as %d", <-s.endings)
		}
	})
}

// A client that pings is as fast as one that does not.
func TestAPingDoesNotMakeAConnectionSlow(t *testing.T) {
	limits := generous
	limits.Pending = 1 << 20
	overEachTransport(t, func(t *testing.T, conn, peer net.Conn) {
		s := upgraded(t, conn, peer, limits)
		defer s.end(t)
		s.push(t, numbered(0, 1000_000))
		s.push(t, numbered(1, 1000_000)) // no more than a megabyte waited before
		s.control(t, opPong, "answer")
		s.control(t, opPing, "")
		for n := 0; n < 2; {
			switch f := s.next(t); f.opcode {
			case opClose:
				t.Fatalf("closed with %x", f.payload)
			case opText:
				if f.number(t) != n {
					t.Fatalf("frame %d is out of place", n)
				}
				n++
			}
		}
		s.wantLost(t, 0)
		if len(s.endings) > 0 {
			t.Errorf("it ends as %d", <-s.endings)
		}
	})
}

// What has been written is not kept until all is.
func TestBufferThatIsWrittenIsFreedWhileOthersWait(t *testing.T) {
	conn, peer := net.Pipe()
	s := upgraded(t, conn, peer, generous)
	defer s.end(t)
	const frames = 3
	freed := make(chan int, frames)
	push := func(n int) {
		b := numbered(n, 100_000)
		runtime.AddCleanup(&b[0], func(n int) { freed <- n }, n)
		if err := s.Push(b); err != nil {
			t.Error(err)
		}
	}
	for n := range frames {
		push(n)
	}
	s.wantNumber(t, 0)
	s.wantNumber(t, 1)
	if _, err := s.r.Peek(1); err != nil { // the last one is being written
		t.Fatal(err)
	}
	timeout := time.After(30 * time.Second)
	for got := 0; got < frames-1; {
		runtime.GC()
		select {
		case <-freed:
			got++
		case <-timeout:
			t.Fatalf("%d of %d buffers that were written are freed", got, frames-1)
		default:
			runtime.Gosched()
		}
	}
}
