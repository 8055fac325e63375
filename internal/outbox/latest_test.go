package outbox_test

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-29c60982/grouphub/internal/outbox"
)

// pushSpans pushes numbered frames, each with a key unless that is empty.
func (s *socket) pushSpans(numbers []int, size int, keys ...string) error {
	var frames []byte
	var spans []outbox.Span
	for i, n := range numbers {
		frames = append(frames, numbered(n, size)...)
		spans = append(spans, outbox.Span{End: len(frames), Key: keys[i]})
	}
	w := outbox.BorrowWriter()
	defer w.Return()
	return s.PushSpans(w, frames, spans)
}

// begin pushes frame 0, of so many bytes, of which the peer has read a byte.
func (s *socket) begin(t *testing.T, size int) {
	t.Helper()
	s.push(t, numbered(0, size))
	if _, err := s.r.Peek(1); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
}

func TestOfPartsWithOneKeyThatWaitTheLastOneIsSentInItsOwnPlace(t *testing.T) {
	synctestOnPipe(t, generous, func(t *testing.T, s *socket) {
		s.begin(t, 100_000)
		s.push(t, numbered(1, 10))
		err := errors.Join(
			s.pushSpans([]int{2}, 10, "a"),
			s.pushSpans([]int{3, 4, 5}, 10, "a", "", "b"),
			s.pushSpans([]int{6, 7, 8}, 10, "a", "a", "c"),
		)
		if err != nil {
			t.Fatal(err)
		}
		s.push(t, numbered(9, 10))
		for _, n := range []int{0, 1, 4, 5, 7, 8, 9} {
			s.wantNumber(t, n)
		}
		if got := s.Superseded(); got != 3 {
			t.Errorf("%d are superseded, want 3", got)
		}
		s.wantLost(t, 0)
	})
}

func TestWhatTheKernelTakesAtOnceIsNotReplaced(t *testing.T) {
	conn, peer := tcp(t)
	s := upgraded(t, conn, peer, generous)
	defer s.end(t)
	for n := range 100 {
		if err := s.pushSpans([]int{n}, 10, "a"); err != nil {
			t.Fatal(err)
		}
		s.wantNumber(t, n)
	}
	if got := s.Superseded(); got != 0 {
		t.Errorf("%d are superseded", got)
	}
}

func TestPartThatIsBegunIsNotReplaced(t *testing.T) {
	synctestOnPipe(t, generous, func(t *testing.T, s *socket) {
		if err := s.pushSpans([]int{0}, 100_000, "a"); err != nil {
			t.Fatal(err)
		}
		if _, err := s.r.Peek(1); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if err := errors.Join(s.pushSpans([]int{1}, 10, "a"), s.pushSpans([]int{2}, 10, "a")); err != nil {
			t.Fatal(err)
		}
		s.wantNumber(t, 0)
		s.wantNumber(t, 2)
	})
}

func TestReplaceablePartsHaveALimitOfTheirOwn(t *testing.T) {
	limits := generous
	limits.Pending = 10_000
	synctestOnPipe(t, limits, func(t *testing.T, s *socket) {
		s.begin(t, 1000)
		n := 1
		for ; ; n++ {
			err := s.pushSpans([]int{n, n + 1000}, 1000, fmt.Sprint(n), fmt.Sprint(n, "too"))
			if errors.Is(err, outbox.ErrBehind) {
				break
			}
			if err != nil || n > 100 {
				t.Fatalf("push %d: %v", n, err)
			}
		}
		if n < 5 || n > 7 {
			t.Errorf("push %d is refused", n)
		}
		refused := s.lost.Load()
		if refused < 1 || refused > 2 {
			t.Errorf("%d frames are refused, want 1 or 2", refused)
		}
		if err := s.pushSpans([]int{5000}, 1000, "1"); err != nil {
			t.Errorf("one that replaces another is refused: %v", err)
		}
		// What is replaceable does not make the connection slow, nor do control frames.
		s.push(t, numbered(2000, 10))
		s.wantNumber(t, 0)
		for i := 1; i < n; i++ {
			if i > 1 {
				s.wantNumber(t, i)
			}
			s.wantNumber(t, i+1000)
		}
		if refused == 1 {
			s.wantNumber(t, n)
		}
		s.wantNumber(t, 5000)
		s.wantNumber(t, 2000)
	})
}

func TestPlainFramesStillMakeAConnectionSlowBesideReplaceableOnes(t *testing.T) {
	limits := generous
	limits.Pending = 10_000
	limits.CloseTimeout = time.Second
	synctestOnPipe(t, limits, func(t *testing.T, s *socket) {
		s.push(t, numbered(0, 1000))
		for n := 1; ; n++ {
			if err := s.pushSpans([]int{n}, 1000, "a"); err != nil {
				t.Fatal(err)
			}
			if err := s.Push(numbered(n, 1000)); errors.Is(err, outbox.ErrSlow) {
				if n < 9 || n > 12 {
					t.Errorf("slow after %d plain frames of 1000 bytes", n)
				}
				break
			} else if err != nil {
				t.Fatal(err)
			}
		}
		s.wantEnding(t, outbox.Slow)
	})
}

// What a peer has got is what was pushed, in order and undamaged, without what a later part of
// the same key has replaced, and with the last one of each key.
func TestReplacingIsExactWhateverTheKernelTakes(t *testing.T) {
	overEachTransport(t, func(t *testing.T, conn, peer net.Conn) {
		s := upgraded(t, conn, peer, generous)
		defer s.end(t)
		r := rand.New(rand.NewPCG(3, 4))
		keys := make(map[int]string) // of the frames that have one
		last := make(map[string]int)
		const frames = 3000
		pace := make(chan struct{}, frames)
		got := make(chan []int)
		go func() {
			var numbers []int
			defer func() { got <- numbers }()
			for {
				f, err := s.read()
				if err != nil {
					if err != io.EOF {
						t.Error(err)
					}
					return
				}
				n := f.number(t)
				numbers = append(numbers, n)
				if n == frames {
					return
				}
				if len(numbers)%20 == 0 {
					<-pace
				}
			}
		}()
		for n := 0; n < frames; {
			var numbers []int
			var names []string
			for range min(frames-n, 1+r.IntN(6)) {
				name := ""
				if k := r.IntN(8); k > 2 {
					name = fmt.Sprint(k)
					keys[n], last[name] = name, n
				}
				numbers, names = append(numbers, n), append(names, name)
				n++
			}
			if err := s.pushSpans(numbers, randomSize(r), names...); err != nil {
				t.Fatal(err)
			}
			if r.IntN(30) == 0 {
				pace <- struct{}{}
			}
		}
		s.push(t, numbered(frames, 10))
		close(pace)
		numbers := <-got
		seen := make(map[int]bool)
		for i, n := range numbers {
			if i > 0 && n <= numbers[i-1] {
				t.Fatalf("%d comes after %d", n, numbers[i-1])
			}
			seen[n] = true
		}
		for n := range frames {
			if key := keys[n]; !seen[n] && (key == "" || last[key] == n) {
				t.Errorf("frame %d with the key %q is missing", n, key)
			}
		}
		if want := frames + 1 - len(numbers); s.Superseded() != want {
			t.Errorf("%d are superseded, and %d are missing", s.Superseded(), want)
		}
	})
}
