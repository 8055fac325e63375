package strand_test

import "testing"

func TestEventsWithoutTextAreBoundedToo(t *testing.T) {
	const limit = 1 << 20
	inBubble(t, limit, func(t *testing.T, b *bench) {
		n := 0
		for ; n <= limit; n++ {
			if ok, full := b.Event(0, func() {}); full {
				break
			} else if !ok {
				t.Fatal("refused, and not for the limit")
			}
		}
		// Each holds a job and a callback at least.
		if n > limit/100 {
			t.Errorf("%d events wait in %d bytes", n, limit)
		}
		b.Release()
	})
}
