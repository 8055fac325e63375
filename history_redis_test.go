package grouphub_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
	"github.com/seed-29c60982/grouphub/internal/redistest"
)

func TestEveryEventExactlyOnceThroughRedis(t *testing.T) {
	redistest.OnBoth(t, func(t *testing.T, url string) {
		var hubs []*grouphub.Hub
		for range 2 {
			hubs = append(hubs, newHub(t, followed(redisLayer(t, url, nil))))
		}
		expectExactlyOnce(t, hubs, 200, func() {})
	})
}

func TestEveryEventExactlyOnceWhileTheSubscriberIsCutAgainAndAgain(t *testing.T) {
	redistest.OnBoth(t, func(t *testing.T, url string) {
		proxy := redistest.StartProxy(t, url)
		sender, cutOff := newHub(t, followed(redisLayer(t, url, nil))), newHub(t, followed(layerBehind(t, proxy)))
		c := hubtest.Dial(t, cutOff, "/")
		const cuts, ahead, end = 10, 800, 0
		var sent, read atomic.Int64
		stop := make(chan struct{})
		var running sync.WaitGroup
		defer running.Wait()
		running.Go(func() {
			number := end
			for number = 1; ; runtime.Gosched() {
				select {
				case <-stop:
					send(t, sender, "g", "n", end)
					return
				default:
				}
				if int64(number)-read.Load() < ahead {
					send(t, sender, "g", "n", number)
					sent.Store(int64(number))
					number++
				}
			}
		})
		running.Go(func() {
			defer close(stop)
			until := func(ok func() bool) {
				for !ok() && !t.Failed() {
					runtime.Gosched()
				}
			}
			for i := range cuts {
				before := sent.Load()
				until(func() bool { return sent.Load() > before })
				proxy.Cut()
				before = sent.Load()
				until(func() bool { return sent.Load() > before+20 || sent.Load()-read.Load() >= ahead-1 })
				proxy.Mend()
				until(func() bool { return cutOff.Stats().LayerUp })
				if i%2 == 0 { // or else again while gaps are filled
					until(func() bool { return read.Load() > before+20 })
				}
			}
		})
		for {
			data := string(c.ExpectEvent("n").Data)
			if data == fmt.Sprint(end) {
				break
			}
			if data != fmt.Sprint(read.Load()+1) {
				t.Fatalf("after %d came %s", read.Load(), data)
			}
			read.Add(1)
		}
		if read.Load() != sent.Load() {
			t.Errorf("received %d of %d events", read.Load(), sent.Load())
		}
		sendNumbers(t, sender, "g", 1, 1)
		expectNumbers(t, c, 1, 1)
		if s := cutOff.Stats(); s.Recovered == 0 || s.Resyncs != 0 || s.Dropped != 0 {
			t.Errorf("%+v", s)
		}
	})
}

func TestResumeAheadOfTheHubIsNoRepeat(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	proxy := redistest.StartProxy(t, s.URL())
	here, there := historyHub(t, redisLayer(t, s.URL(), nil)), historyHub(t, layerBehind(t, proxy))
	c := hubtest.Dial(t, here, "/g")
	stays := hubtest.Dial(t, there, "/g")
	sendNumbers(t, here, "g", 1, 5)
	expectNumbers(t, stays, 1, 5)
	proxy.Cut()
	eventually(t, func() bool { return !there.Stats().LayerUp }, "the other hub notices nothing")
	sendNumbers(t, here, "g", 6, 10)
	id := expectNumbers(t, c, 1, 10).ID
	joined := make(chan *hubtest.Client)
	go func() { joined <- hubtest.Dial(t, there, "/g"+resumeQuery("g", id)) }()
	proxy.Mend()
	again := <-joined
	if got := again.ExpectEvent("grouphub.position"); got.ID != id {
		t.Errorf("position %q, want %q", got.ID, id)
	}
	sendNumbers(t, here, "g", 11, 12)
	expectNumbers(t, again, 11, 12)
	expectNumbers(t, stays, 6, 12)
}

func TestResumeTakesOneRoundTripAtMost(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	var hubs []*grouphub.Hub
	for range 2 {
		hubs = append(hubs, newHub(t, followed(redisLayer(t, s.URL(), nil))))
	}
	if err := hubs[1].Ping(background); err != nil { // it has its own subscriptions
		t.Fatal(err)
	}
	c := hubtest.Dial(t, hubs[0], "/?resume=")
	position := c.ExpectEvent("grouphub.position").ID
	sendNumbers(t, hubs[0], "g", 1, 1000)
	expectNumbers(t, c, 1, 1000)
	monitor := s.Monitor()
	for i, step := range []struct {
		hub  *grouphub.Hub
		want []string
	}{{hubs[0], nil}, {hubs[0], nil}, {hubs[1], []string{"SUBSCRIBE", "EVALSHA"}}, {hubs[1], nil}} {
		again := hubtest.Dial(t, step.hub, "/"+resumeQuery("g", position))
		expectNumbers(t, again, 1, 1000)
		if commands := monitor.Commands("{g:g}"); !slices.Equal(commands, step.want) {
			t.Errorf("resume %d: commands %q, want %q", i, commands, step.want)
		}
	}
}

func TestReplyThatWasLost(t *testing.T) {
	redistest.OnBoth(t, func(t *testing.T, url string) {
		proxy := redistest.StartProxy(t, url)
		hub, sender := historyHub(t, redisLayer(t, url, nil)), historyHub(t, layerBehind(t, proxy))
		c := hubtest.Dial(t, hub, "/g")
		sendNumbers(t, sender, "g", 1, 1) // and the server knows the script
		retry := func(data int, opts ...grouphub.SendOption) {
			t.Helper()
			eventually(t, func() bool { return sender.GroupSend(background, "g", "n", data, opts...) == nil }, "%d is not accepted", data)
		}
		proxy.LoseReply(`"data":2`)
		if err := sender.GroupSend(background, "g", "n", 2); !errors.Is(err, grouphub.ErrUncertain) {
			t.Errorf("%v, want ErrUncertain", err)
		}
		retry(3)
		proxy.LoseReply(`"data":4`)
		if err := sender.GroupSend(background, "g", "n", 4, grouphub.Once("four")); !errors.Is(err, grouphub.ErrUncertain) {
			t.Errorf("%v, want ErrUncertain", err)
		}
		retry(4, grouphub.Once("four"))
		retry(5)
		expectNumbers(t, c, 1, 5)
	})
}

func TestFullRedisRefusesEventsAndLosesNone(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	hubs := []*grouphub.Hub{historyHub(t, redisLayer(t, s.URL(), nil)), historyHub(t, redisLayer(t, s.URL(), nil))}
	clients := []*hubtest.Client{hubtest.Dial(t, hubs[0], "/g"), hubtest.Dial(t, hubs[1], "/g")}
	sendNumbers(t, hubs[0], "g", 1, 1)
	for i := 2; i <= 20; i++ {
		hub, once := hubs[i%2], grouphub.Once(fmt.Sprint(i))
		s.CLI("CONFIG", "SET", "maxmemory", "1")
		for _, opts := range [][]grouphub.SendOption{nil, {once}} {
			if err := hub.GroupSend(background, "g", "n", i, opts...); !errors.Is(err, grouphub.ErrUnavailable) || !strings.Contains(err.Error(), "OOM") {
				t.Errorf("GroupSend through a full server: %v, want ErrUnavailable with OOM", err)
			}
		}
		s.CLI("CONFIG", "SET", "maxmemory", "0")
		// The key of what was refused is still good.
		send(t, hub, "g", "n", i, once)
		send(t, hub, "g", "n", i, once)
	}
	for _, c := range clients {
		expectNumbers(t, c, 1, 20)
	}
	expectNumbers(t, hubtest.Dial(t, historyHub(t, redisLayer(t, s.URL(), nil)), "/g?last=100"), 1, 20)
	sendNumbers(t, hubs[1], "g", 21, 21) // and nothing came in between
	for i, c := range clients {
		expectNumbers(t, c, 21, 21)
		if n := hubs[i].Stats(); n.Resyncs > 0 || n.Dropped > 0 || n.Recovered > 0 {
			t.Errorf("hub %d: %+v", i, n)
		}
	}
}

func TestFullRedisHasNoEpochToOfferAndEventsArriveAllTheSame(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	l := redisLayer(t, s.URL(), nil)
	hub := historyHub(t, l)
	s.CLI("CONFIG", "SET", "maxmemory", "1")
	c := hubtest.Dial(t, hub, "/g?resume=")
	id := c.ExpectEvent("grouphub.position").ID
	if h, err := l.History(t.Context(), "topic", 0); err != nil || h.Epoch != "" {
		t.Errorf("History of a full server: %+v, %v", h, err)
	}
	s.CLI("CONFIG", "SET", "maxmemory", "0")
	sendNumbers(t, hub, "g", 1, 2)
	expectNumbers(t, c, 1, 2)
	// That position says nothing about the store.
	hubtest.Dial(t, hub, "/g"+resumeQuery("g", id)).ExpectEvent("resync")
}

func TestServerThatLostWritesIsResync(t *testing.T) {
	for more := range 4 { // publications that come before the hub is back
		t.Run(fmt.Sprint("More=", more), func(t *testing.T) {
			t.Parallel()
			s := redistest.Start(t)
			proxy := redistest.StartProxy(t, s.URL())
			hub, sender := historyHub(t, layerBehind(t, proxy)), historyHub(t, redisLayer(t, s.URL(), nil))
			c := hubtest.Dial(t, hub, "/g?resume=")
			c.ExpectEvent("grouphub.position")
			sendNumbers(t, sender, "g", 1, 10)
			id := expectNumbers(t, c, 1, 10).ID
			proxy.Cut()
			eventually(t, func() bool { return !hub.Stats().LayerUp }, "the hub notices nothing")
			s.RollBack("g:g", 2)
			sendNumbers(t, sender, "g", 11, 10+more)
			proxy.Mend()
			c.Expect(`{"type":"resync","group":"g"}`)
			sendNumbers(t, sender, "g", 14, 16)
			expectNumbers(t, c, 14, 16)
			late := hubtest.Dial(t, hub, "/g"+resumeQuery("g", id))
			late.Expect(`{"type":"resync","group":"g"}`)
			late.ExpectEvent("grouphub.position")
			sendNumbers(t, sender, "g", 17, 17)
			expectNumbers(t, late, 17, 17)
		})
	}
}

func TestServerThatComesBackEmptyIsResync(t *testing.T) {
	for more := range 3 {
		t.Run(fmt.Sprint("More=", more), func(t *testing.T) {
			t.Parallel()
			s := redistest.Start(t)
			proxy := redistest.StartProxy(t, s.URL())
			hub, sender := historyHub(t, layerBehind(t, proxy)), historyHub(t, redisLayer(t, s.URL(), nil))
			c := hubtest.Dial(t, hub, "/g?resume=")
			c.ExpectEvent("grouphub.position")
			sendNumbers(t, sender, "g", 1, 10)
			id := expectNumbers(t, c, 1, 10).ID
			proxy.Cut()
			s.Kill()
			eventually(t, func() bool { return !hub.Stats().LayerUp }, "the hub notices nothing")
			s.Restart()
			eventually(t, func() bool { return sender.Stats().LayerUp }, "the sender is not back")
			sendNumbers(t, sender, "g", 11, 10+more)
			proxy.Mend()
			c.Expect(`{"type":"resync","group":"g"}`)
			sendNumbers(t, sender, "g", 14, 16)
			expectNumbers(t, c, 14, 16)
			late := hubtest.Dial(t, hub, "/g"+resumeQuery("g", id))
			late.Expect(`{"type":"resync","group":"g"}`)
		})
	}
}

func TestServerThatComesBackEmptyIsResyncAlsoWhereNothingWasSentBefore(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	proxy := redistest.StartProxy(t, s.URL())
	cutOff, sender := historyHub(t, layerBehind(t, proxy)), historyHub(t, redisLayer(t, s.URL(), nil))
	stays := hubtest.Dial(t, cutOff, "/g?resume=")
	stays.ExpectEvent("grouphub.position")
	leaves := hubtest.Dial(t, sender, "/g?resume=")
	id := leaves.ExpectEvent("grouphub.position").ID
	leaves.Close()
	proxy.Cut()
	eventually(t, func() bool { return !cutOff.Stats().LayerUp }, "the hub notices nothing")
	sendNumbers(t, sender, "g", 1, 2)
	s.Kill()
	s.Restart()
	proxy.Mend()
	eventually(t, func() bool { return sender.Ping(background) == nil }, "the sender is not back")
	stays.Expect(`{"type":"resync","group":"g"}`)
	sendNumbers(t, sender, "g", 3, 3)
	expectNumbers(t, stays, 3, 3)
	back := hubtest.Dial(t, sender, "/g"+resumeQuery("g", id))
	back.Expect(`{"type":"resync","group":"g"}`)
	back.ExpectEvent("grouphub.position")
	sendNumbers(t, sender, "g", 4, 4)
	expectNumbers(t, back, 4, 4)
}

// A gatedLayer reads histories, and returns them when gate has returned.
type gatedLayer struct {
	grouphub.Layer
	gate func(topic string)
}

func (l *gatedLayer) History(ctx context.Context, topic string, after uint64) (grouphub.History, error) {
	h, err := l.Layer.History(ctx, topic, after)
	l.gate(topic)
	return h, err
}

func TestGroupCloseWaitsForTheEventsThatHistoryStillHas(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	proxy := redistest.StartProxy(t, s.URL())
	var interrupted atomic.Bool
	commands, release := make(chan struct{}, 100), make(chan struct{})
	gate := func(topic string) {
		switch {
		case !interrupted.Load():
		case topic == "c:all":
			commands <- struct{}{}
		case topic == "g:g":
			<-release
		}
	}
	cutOff := historyHub(t, &gatedLayer{layerBehind(t, proxy), gate})
	sender := historyHub(t, redisLayer(t, s.URL(), nil))
	c := hubtest.Dial(t, cutOff, "/g")
	sendNumbers(t, sender, "g", 1, 1)
	expectNumbers(t, c, 1, 1)
	proxy.Cut()
	eventually(t, func() bool { return !cutOff.Stats().LayerUp }, "the hub notices nothing")
	interrupted.Store(true)
	sendNumbers(t, sender, "g", 2, 11)
	if err := sender.GroupClose(t.Context(), "g", 4000, "over"); err != nil {
		t.Fatal(err)
	}
	proxy.Mend()
	<-commands
	<-commands // a close that does not wait is carried out between the first reading and the second
	close(release)
	expectNumbers(t, c, 2, 11)
	c.ExpectClose(4000)
}
