package grouphub

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

func TestSpreadTakesAsLongAsItMay(t *testing.T) {
	for name, test := range map[string]struct {
		conns       int
		pause, most time.Duration
		allowed     time.Duration // by the context; 0: no end
		want        time.Duration
	}{
		"none":                         {0, time.Second, time.Minute, 0, 0},
		"one":                          {1, time.Second, time.Minute, 0, 0},
		"a pause for each":             {100, 10 * time.Millisecond, time.Minute, 0, time.Second},
		"pauses too short for a timer": {10_000, 100 * time.Microsecond, time.Minute, 0, time.Second},
		"no more than the most":        {1000, time.Second, 10 * time.Second, 0, 10 * time.Second},
		"half of what ctx allows":      {1000, time.Second, 10 * time.Second, 6 * time.Second, 3 * time.Second},
		"ctx has ended":                {1000, time.Second, 10 * time.Second, -time.Second, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx := t.Context()
				if test.allowed != 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, test.allowed)
					defer cancel()
				}
				conns := make([]*Conn, test.conns)
				for i := range conns {
					conns[i] = new(Conn)
				}
				start, called := time.Now(), 0
				spread(ctx, conns, test.pause, test.most, func(c *Conn) {
					if c != conns[called] {
						t.Errorf("call %d is for another connection", called)
					}
					due := test.want * time.Duration(called) / time.Duration(test.conns)
					if at := time.Since(start); at > due || at < due-time.Millisecond {
						t.Errorf("call %d comes after %v, want %v", called, at, due)
					}
					called++
				})
				if called != test.conns {
					t.Errorf("%d of %d connections", called, test.conns)
				}
			})
		})
	}
}

func TestSpreadEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		time.AfterFunc(3500*time.Millisecond, cancel)
		called := 0
		spread(ctx, make([]*Conn, 10), time.Second, time.Minute, func(*Conn) { called++ })
		if called != 4 {
			t.Errorf("%d calls in three and a half seconds", called)
		}
	})
}
