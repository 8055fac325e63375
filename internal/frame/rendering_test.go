package frame

import (
	"bytes"
	"sync"
	"testing"
)

func TestRenderingCallsOnceAndOthersWait(t *testing.T) {
	var r Rendering
	if r.Done() || r.Frame(false) != nil {
		t.Error("it is done before it was called for")
	}
	var wg sync.WaitGroup
	calls := 0 // without a lock: the race detector says if two run
	for range 10 {
		wg.Go(func() {
			r.Do(false, func() []byte { calls++; return []byte("text") })
			if got := r.Frame(false); !r.Done() || !bytes.Equal(got, New(Text, []byte("text"), false)) {
				t.Errorf("done %v: %q", r.Done(), got)
			}
		})
	}
	wg.Wait()
	if calls != 1 {
		t.Errorf("%d calls", calls)
	}
}

func TestRenderingThatFailsHasNoFrame(t *testing.T) {
	var none *Rendering
	if none.Frame(false) != nil {
		t.Error("no rendering has a frame")
	}
	var empty, panics Rendering
	empty.Do(false, func() []byte { return nil })
	func() {
		defer func() { recover() }()
		panics.Do(false, func() []byte { panic("on purpose") })
	}()
	for _, r := range []*Rendering{&empty, &panics} {
		if !r.Done() || r.Frame(true) != nil {
			t.Errorf("done %v: %q", r.Done(), r.Frame(true))
		}
	}
}
