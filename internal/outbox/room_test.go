package outbox_test

import (
	"context"
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-29c60982/grouphub/internal/outbox"
)

func TestPushThatWaitsIsLimitedByThePeerAndLosesNothing(t *testing.T) {
	overEachTransport(t, func(t *testing.T, conn, peer net.Conn) {
		limits := generous
		limits.Pending = 50_000
		s := upgraded(t, conn, peer, limits)
		defer s.end(t)
		const frames = 2000
		sent := make(chan error, 1)
		go func() {
			for n := range frames {
				if err := s.PushWait(context.Background(), numbered(n, 3000)); err != nil {
					sent <- err
					return
				}
			}
			sent <- nil
		}()
		for n := range frames {
			s.wantNumber(t, n)
		}
		if err := <-sent; err != nil {
			t.Error(err)
		}
		s.wantLost(t, 0)
	})
}

func TestPushThatWaitsHasNoMoreWaitingThanMay(t *testing.T) {
	limits := generous
	limits.Pending = 10_000
	synctestOnPipe(t, limits, func(t *testing.T, s *socket) {
		sent := 0
		go func() {
			for s.PushWait(context.Background(), numbered(sent, 1000)) == nil {
				sent++
			}
		}()
		synctest.Wait()
		if sent < 8 || sent > 10 {
			t.Errorf("%d frames of 1000 bytes wait", sent)
		}
		// What waits so makes the connection no slow one.
		s.push(t, numbered(7000, 1000))
		s.wantNumber(t, 0)
		s.wantNumber(t, 1)
	})
}

func TestPushThatIsLargerThanMayWaitWaitsUntilNothingElseDoes(t *testing.T) {
	limits := generous
	limits.Pending = 10_000
	synctestOnPipe(t, limits, func(t *testing.T, s *socket) {
		s.push(t, numbered(0, 1000), numbered(1, 1000))
		done := make(chan error, 2)
		go func() { done <- s.PushWait(context.Background(), numbered(2, 100_000)) }()
		synctest.Wait()
		// A small one that would have room comes behind it.
		go func() { done <- s.PushWait(context.Background(), numbered(3, 10)) }()
		synctest.Wait()
		if len(done) != 0 {
			t.Fatal("it has not waited")
		}
		// What is replaceable is not in its way.
		if err := s.pushSpans([]int{7}, 1000, "a"); err != nil {
			t.Fatal(err)
		}
		for n := range 2 {
			s.wantNumber(t, n)
		}
		synctest.Wait()
		if len(done) != 1 {
			t.Fatalf("%d have returned, want 1", len(done))
		}
		for _, n := range []int{7, 2, 3} {
			s.wantNumber(t, n)
		}
		if err := errors.Join(<-done, <-done); err != nil {
			t.Error(err)
		}
	})
}

func TestPushThatWaitsEndsWithItsContextOrTheConnection(t *testing.T) {
	limits := generous
	limits.Pending = 10_000
	limits.CloseTimeout = time.Second
	for name, end := range map[string]func(s *socket){
		"close": func(s *socket) { s.CloseWith(1001, "") },
		"kill":  func(s *socket) { s.Kill() },
		"slow": func(s *socket) {
			for s.Push(numbered(0, 1000)) == nil {
			}
		},
		"cancel": nil,
	} {
		t.Run(name, func(t *testing.T) {
			synctestOnPipe(t, limits, func(t *testing.T, s *socket) {
				s.push(t, numbered(0, 9_900))
				ctx, cancel := context.WithCancel(context.Background())
				defer cancel()
				done := make(chan error, 3)
				go func() { done <- s.PushWait(ctx, numbered(1, 1000)) }()
				go func() { done <- s.CaughtUp(ctx) }()
				go func() { done <- s.Drained(ctx) }()
				synctest.Wait()
				want := outbox.ErrClosed
				if end == nil {
					want = context.Canceled
					cancel()
				} else {
					end(s)
				}
				for range 3 {
					if err := <-done; !errors.Is(err, want) {
						t.Errorf("got %v, want %v", err, want)
					}
				}
				if end == nil { // one that has given up takes nobody's room
					s.push(t, numbered(1, 10))
					s.wantNumber(t, 0)
					s.wantNumber(t, 1)
				} else if err := s.PushWait(ctx, numbered(1, 10)); !errors.Is(err, outbox.ErrClosed) {
					t.Errorf("later: %v", err)
				}
			})
		})
	}
}

func TestCaughtUpWaitsForWhatWaitsNowAndNotForWhatComesLater(t *testing.T) {
	synctestOnPipe(t, generous, func(t *testing.T, s *socket) {
		s.begin(t, 100_000)
		s.push(t, numbered(1, 1000))
		done := make(chan error, 1)
		go func() { done <- s.CaughtUp(context.Background()) }()
		synctest.Wait()
		s.push(t, numbered(2, 100_000))
		s.wantNumber(t, 0)
		if len(done) != 0 {
			t.Error("it has not waited")
		}
		s.wantNumber(t, 1)
		if _, err := s.r.Peek(2); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if len(done) != 1 {
			t.Error("it waits for what came later")
		}
		s.wantNumber(t, 2)
	})
}

func TestPushThatHasToWaitReleasesWhatIsHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn, peer := net.Pipe()
		limits := generous
		limits.Pending = 10_000
		s := &socket{peer: peer, endings: make(chan outbox.Ending, 10)}
		s.Outbox = outbox.New(conn, limits, func(outbox.Ending) {}, func(int) {})
		go s.Write([]byte(response))
		synctest.Wait()
		done := make(chan error, 1)
		go func() {
			var err error
			for n := 0; n < 20 && err == nil; n++ {
				err = s.PushWait(context.Background(), numbered(n, 3000))
			}
			done <- err
		}()
		buf := make([]byte, 1<<20)
		total := 0
		for total < len(response)+20*3004 {
			n, err := peer.Read(buf)
			if err != nil {
				t.Fatal(err)
			}
			total += n
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		peer.Close()
		s.Close()
		s.Linger(true)
	})
}
