package outbox_test

import (
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-29c60982/grouphub/internal/outbox"
)

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

func TestSmallFramesThatWaitCountForWhatTheyTake(t *testing.T) {
	limits := generous
	limits.Pending = 100_000
	synctestOnPipe(t, limits, func(t *testing.T, s *socket) {
		s.push(t, numbered(0, 50_000))
		synctest.Wait() // the flusher has begun it
		n := 0
		for s.Push(numbered(n, 4)) == nil {
			if n++; n > limits.Pending/40 {
				t.Fatalf("%d frames wait, which take 40 bytes each and more, of %d", n, limits.Pending)
			}
		}
		s.wantEnding(t, outbox.Slow)
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

// What counts against the limit is what waited already.
func TestAnEventOfAnyPermittedSizeIsDeliverable(t *testing.T) {
	limits := generous
	limits.Pending = 1 << 20
	synctestOnPipe(t, limits, func(t *testing.T, s *socket) {
		s.push(t, numbered(0, 1))
		// A few bytes wait, of a megabyte that may.
		s.push(t, numbered(1, 1<<20))
		s.wantNumber(t, 0)
		s.wantNumber(t, 1)
		if len(s.endings) > 0 {
			t.Errorf("it ends as %d", <-s.endings)
		}
	})
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
