package redis

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/seed-29c60982/grouphub/internal/redistest"
	"github.com/seed-29c60982/grouphub/layer"
)

// beatAt has a clock receive a heartbeat that took two delays, one each way, by a server whose
// time is ahead by an offset. It returns when it came.
func beatAt(c *clock, ahead, to, from time.Duration) (came time.Time) {
	token := c.send()
	passed := c.sent.Add(to)
	came = passed.Add(from)
	c.receive(fmt.Appendf(nil, "%d %s", passed.Add(ahead).UnixMicro(), token), came)
	return came
}

// serverTime is what a server says whose time is ahead by an offset.
func serverTime(at time.Time, ahead time.Duration) time.Duration {
	return at.Add(ahead).Sub(time.Unix(0, 0))
}

func TestAClockNeverTakesAPublicationForOlderThanItIs(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	delay := func() time.Duration { return time.Duration(random.ExpFloat64() * float64(50*time.Millisecond)) }
	for range 1000 {
		var c clock
		ahead := time.Duration(random.Int64N(int64(20*time.Second))) - 10*time.Second
		if age := c.age(serverTime(time.Now(), ahead-time.Hour), time.Now()); age != 0 {
			t.Fatalf("%v before the first heartbeat", age)
		}
		for range 1 + random.IntN(4) {
			to, from := delay(), delay()
			came := beatAt(&c, ahead, to, from)
			is := time.Duration(random.Int64N(int64(5 * time.Second)))
			at := came.Add(is)
			age := c.age(serverTime(came, ahead), at)
			if age > is+time.Microsecond || age < is-from-time.Microsecond {
				t.Fatalf("a publication of %v is taken for %v old, with a heartbeat that took %v and %v", is, age, to, from)
			}
		}
	}
}

func TestAHeartbeatThatIsLateDoesNotMakePublicationsYounger(t *testing.T) {
	var c clock
	beatAt(&c, time.Hour, 0, time.Millisecond)
	came := beatAt(&c, time.Hour, time.Millisecond, 2*time.Second) // it stood still with all the rest
	if age := c.age(serverTime(came.Add(-time.Second), time.Hour), came); age < 998*time.Millisecond || age > time.Second {
		t.Errorf("%v, want a second", age)
	}
}

func TestAServersTimeThatIsSetMakesNothingOlder(t *testing.T) {
	var c clock
	beatAt(&c, time.Hour, 0, time.Millisecond)
	came := beatAt(&c, time.Minute, 0, time.Millisecond) // put back
	if age := c.age(serverTime(came, time.Minute), came.Add(time.Second)); age < 998*time.Millisecond || age > time.Second {
		t.Errorf("%v, want a second", age)
	}
}

func TestAServersTimeThatWasPutBackSinceTheLastHeartbeatMakesNothingOlder(t *testing.T) {
	var c clock
	came := beatAt(&c, time.Hour, 0, time.Millisecond)
	at := came.Add(time.Second)
	if age := c.age(serverTime(at, 0), at); age != 0 {
		t.Errorf("what is new is taken for %v old", age)
	}
	if age := c.age(serverTime(came, time.Hour), at); age < 998*time.Millisecond || age > time.Second {
		t.Errorf("%v, want a second", age)
	}
}

func TestAHeartbeatOfSomebodyElseSaysNothing(t *testing.T) {
	var c clock
	token := c.send()
	now := time.Now()
	for _, beat := range []string{"", "1 ", " " + token, "x " + token, fmt.Sprintf("%d other", now.UnixMicro()), fmt.Sprint(now.UnixMicro())} {
		if c.receive([]byte(beat), now); c.last.known {
			t.Fatalf("%q is taken for a heartbeat", beat)
		}
	}
	c.receive(fmt.Appendf(nil, "%d %s", now.UnixMicro(), token), now)
	known := c.last
	c.receive(fmt.Appendf(nil, "%d %s", now.Add(time.Hour).UnixMicro(), token), now) // said again
	if !known.known || c.last != known {
		t.Errorf("%+v became %+v", known, c.last)
	}
}

func TestAPublicationThatComesLateHasItsAge(t *testing.T) {
	t.Parallel()
	for _, sharded := range []bool{false, true} {
		t.Run(fmt.Sprint("Sharded=", sharded), func(t *testing.T) {
			t.Parallel()
			s := redistest.Start(t)
			proxy := redistest.StartProxy(t, s.URL())
			options := Options{Sharded: sharded, EncryptionKeys: []string{"secret"}}
			sender, behind := newTestLayer(t, s.URL(), options), newTestLayer(t, proxy.URL(), options)
			ages := &ageReceiver{ages: make(chan time.Duration, 1)}
			sub, err := behind.Attach("hub", ages)
			if err != nil {
				t.Fatal(err)
			}
			if err := sub.Add(t.Context(), "topic"); err != nil {
				t.Fatal(err)
			}
			publish := func(p layer.Publication) {
				t.Helper()
				if err := sender.Publish(t.Context(), p); err != nil {
					t.Fatal(err)
				}
			}
			await(t, "the first heartbeat", s.HasBeaten)
			publish(publication("topic", "behind the heartbeat"))
			if age := <-ages.ages; age != 0 {
				t.Errorf("%v for what has no time", age)
			}
			// It is taken for younger by as much as the heartbeat took, and the clock knows nothing as long as
			// each heartbeat comes when the next one has been sent. On a busy machine that may go on for a while.
			await(t, "an age", func() bool {
				goOn, begun := proxy.Stall(t), time.Now()
				publish(kept("topic", "x", layer.Keep{Count: 5, Life: time.Minute}))
				published := time.Now()
				await(t, "time to pass", func() bool { return time.Since(published) > 50*time.Millisecond })
				least := time.Since(published)
				goOn()
				age, is := <-ages.ages, time.Since(begun)
				if age > is+time.Millisecond {
					t.Errorf("%v for what is at most %v old", age, is)
				}
				return age >= least/2
			})
		})
	}
}

// An ageReceiver tells the ages of what is delivered.
type ageReceiver struct {
	layer.Receiver
	ages chan time.Duration
}

func (r *ageReceiver) Deliver(p layer.Publication) { r.ages <- p.Age }
func (r *ageReceiver) Lost([]string)               {}
