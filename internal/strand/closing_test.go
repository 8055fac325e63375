package strand_test

import "testing"

func TestCloseWhileMessagesAreDrainedDropsThemAndIsIdle(t *testing.T) {
	inBubble(t, 1000, func(t *testing.T, b *bench) {
		b.Release()
		proceed := b.block(t)
		b.message(t, b.job(1))
		b.Drain()
		b.Close()
		b.wantIdle(t, 0)
		proceed()
		b.wantRan(t)
		b.wantIdle(t, 1)
		b.Last(b.job(9))
		b.wantRan(t, 9)
		b.wantIdle(t, 1)
	})
}

func TestClosedStrandSaysWhetherItWasFull(t *testing.T) {
	inBubble(t, 100, func(t *testing.T, b *bench) {
		b.event(t, 101, b.job(1))
		for range 2 {
			if ok, full := b.Event(1, b.job(2)); ok || !full {
				t.Errorf("Event past the limit: ok %v, full %v", ok, full)
			}
			b.Close()
		}
		b.Release()
	})
}
