package grouphub_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
)

// What a hub does every 20 seconds, by the clock of its layer.
type upkeepLog struct {
	mu        sync.Mutex
	reads     map[string][]time.Time // of histories, by topic
	positions map[string][]time.Time // by topic
	renewals  map[string][]time.Time // of leases, by topic
	calls     int                    // of Positions
}

// log has a layer note what it is asked for.
func (l *faultyLayer) log() *upkeepLog {
	u := &upkeepLog{reads: make(map[string][]time.Time), positions: make(map[string][]time.Time), renewals: make(map[string][]time.Time)}
	note := func(in map[string][]time.Time, topic string) {
		u.mu.Lock()
		defer u.mu.Unlock()
		in[topic] = append(in[topic], time.Now())
	}
	l.reading = func(topic string) { note(u.reads, topic) }
	l.lease = func(_ context.Context, topic string) error { note(u.renewals, topic); return nil }
	l.positions = func(ctx context.Context, topics []string) ([]grouphub.Position, error) {
		for _, topic := range topics {
			note(u.positions, topic)
		}
		u.mu.Lock()
		u.calls++
		u.mu.Unlock()
		return l.MemoryLayer.Positions(ctx, topics)
	}
	return u
}

// forget begins the log anew.
func (u *upkeepLog) forget() {
	u.mu.Lock()
	defer u.mu.Unlock()
	clear(u.reads)
	clear(u.positions)
	clear(u.renewals)
	u.calls = 0
}

// longest returns the longest time from one entry of a topic to the next.
func longest(times []time.Time) (longest time.Duration) {
	for i := range times[1:] {
		longest = max(longest, times[i+1].Sub(times[i]))
	}
	return longest
}

// quietHub returns a hub whose groups have history and presence, with a member in each of so many groups.
func quietHub(t *testing.T, layer grouphub.Layer, groups int) (*grouphub.Hub, *hubtest.Client) {
	hub := newHub(t, &grouphub.Options{
		Layer:  layer,
		Policy: func(string) grouphub.GroupPolicy { return grouphub.GroupPolicy{History: 10, Presence: groups < 1000} },
		Consumer: grouphub.Consumer{
			Connect: func(c *grouphub.Conn) error {
				var err error
				for i := range groups {
					err = errors.Join(err, c.Join(fmt.Sprint(i)))
				}
				return err
			},
			Events: grouphub.Events{"n": grouphub.Forward()},
		},
	})
	c := hubtest.Dial(t, hub, "/")
	synctest.Wait()
	return hub, c
}

func TestAQuietGroupCostsNoReadingOfItsHistory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		layer := newFaultyLayer()
		defer layer.Close()
		log := layer.log()
		hub, client := quietHub(t, layer, 50)
		for i := range 50 {
			send(t, hub, fmt.Sprint(i), "n", i)
			client.ExpectEvent("n")
		}
		log.forget()
		time.Sleep(9 * time.Minute)
		synctest.Wait()
		for topic := range log.reads {
			if strings.HasPrefix(topic, "g:") {
				t.Errorf("the history of %s was read", topic)
			}
		}
		if len(log.positions) != 50 || log.calls > 9*60 {
			t.Errorf("%d calls for the positions of %d topics, want at most one a second for all 50", log.calls, len(log.positions))
		}
		hub.Shutdown(background)
	})
}

func TestALossAtTheEndIsFoundWithinTwentySeconds(t *testing.T) {
	for name, wrap := range map[string]func(l *faultyLayer) grouphub.Layer{
		"of a layer that says where topics are": func(l *faultyLayer) grouphub.Layer { return l },
		"of one that does not":                  func(l *faultyLayer) grouphub.Layer { return struct{ grouphub.Layer }{l} },
		"of one that fails to": func(l *faultyLayer) grouphub.Layer {
			l.positions = func(context.Context, []string) ([]grouphub.Position, error) { return nil, grouphub.ErrUnavailable }
			return l
		},
		"of one that says too little": func(l *faultyLayer) grouphub.Layer {
			l.positions = func(_ context.Context, topics []string) ([]grouphub.Position, error) {
				return make([]grouphub.Position, len(topics)-1), nil
			}
			return l
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				layer := newFaultyLayer()
				defer layer.Close()
				hub, client := quietHub(t, wrap(layer), 30)
				for i := range 90 { // at any time between two comparisons
					time.Sleep(3300 * time.Millisecond)
					layer.setFault(loseAll)
					send(t, hub, fmt.Sprint(i%30), "n", i)
					layer.setFault(nil)
					begun := time.Now()
					client.ExpectNone(time.Millisecond)
					time.Sleep(20*time.Second - time.Since(begun))
					if e := client.ExpectEvent("n"); string(e.Data) != fmt.Sprint(i) || time.Since(begun) > 20*time.Second {
						t.Fatalf("%s after %v, want %d within 20 s", e.Data, time.Since(begun), i)
					}
				}
				hub.Shutdown(background)
			})
		})
	}
}

func TestTenThousandGroupsAreComparedSmoothly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const groups = 10_000
		layer := newFaultyLayer()
		defer layer.Close()
		log := layer.log()
		hub, _ := quietHub(t, layer, groups)
		joined := time.Now()
		time.Sleep(time.Minute)
		synctest.Wait()
		inSecond := make(map[int]int)
		for i := range groups {
			times := log.positions[fmt.Sprint("g:", i)]
			if len(times) != 3 || longest(times) > 20*time.Second || times[0].Sub(joined) > 20*time.Second {
				t.Fatalf("group %d was compared at %v, want once in 20 s", i, times)
			}
			for _, at := range times {
				inSecond[int(at.Sub(joined)/time.Second)]++
			}
		}
		for second, compared := range inSecond {
			if compared > groups/20 {
				t.Errorf("%d groups were compared in second %d, want no more than %d", compared, second, groups/20)
			}
		}
		if want := groups / 500 * 3; log.calls > want {
			t.Errorf("%d calls for the positions, want %d", log.calls, want)
		}
		hub.Shutdown(background)
	})
}

func TestWhatHangsInTheLayerDelaysNoLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		layer := newFaultyLayer()
		defer layer.Close()
		log := layer.log()
		layer.positions = func(ctx context.Context, _ []string) ([]grouphub.Position, error) {
			<-ctx.Done() // after five seconds
			return nil, grouphub.ErrUnavailable
		}
		hub, client := quietHub(t, layer, 100)
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		for i := range 100 {
			topic := fmt.Sprint("g:", i)
			if renewals := log.renewals[topic]; len(renewals) < 15 || longest(renewals) > 20*time.Second+time.Second/2 {
				t.Fatalf("the lease of group %d was written at %v, want every 20 s", i, renewals)
			}
			if reads := log.reads[topic]; len(reads) < 15 || longest(reads) > 26*time.Second {
				t.Fatalf("the history of group %d was read at %v, want every 20 s where its position cannot be learned", i, reads)
			}
		}
		send(t, hub, "0", "n", 1)
		client.ExpectEvent("n")
		hub.Shutdown(background) // which the calls that wait do not hold up
	})
}

// An epoch in which nothing was published may end when its history was not read for an hour.
func TestAnUnusedEpochIsReadWhileItHasMembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		layer := newFaultyLayer()
		defer layer.Close()
		log := layer.log()
		hub, _ := quietHub(t, layer, 40)
		time.Sleep(4 * time.Hour)
		synctest.Wait()
		for i := range 40 {
			reads := log.reads[fmt.Sprint("g:", i)]
			if len(reads) < 12 || len(reads) > 30 || longest(append(reads, time.Now())) > 21*time.Minute {
				t.Errorf("the history of group %d was read at %v, want every 10 to 20 minutes", i, reads)
			}
		}
		hub.Shutdown(background)
	})
}
