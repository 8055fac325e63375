package redis

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/seed-29c60982/grouphub/internal/redistest"
)

func TestServerThatIsBusyWhileATopicIsLeftIsAskedAgain(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	s.CLI("CONFIG", "SET", "busy-reply-threshold", "50")
	proxy := redistest.StartProxy(t, s.URL())
	l := newTestLayer(t, proxy.URL(), Options{Client: func(o *rueidis.ClientOption) { o.ForceSingleClient = true }})
	h := attachHub(t, l, "stays", "goes")
	other, observer := s.Client(), s.Client()
	var running sync.WaitGroup
	defer running.Wait()
	held := make(chan struct{})
	proxy.HoldUp("\r\nUNSUBSCRIBE\r\n", func() {
		defer close(held)
		running.Go(func() { // a slow script of another application
			script := "local t = redis.call('TIME') while redis.call('TIME')[1] - t[1] + (redis.call('TIME')[2] - t[2]) / 1e6 < 1 do end return 1"
			other.Do(t.Context(), other.B().Eval().Script(script).Numkeys(0).Build())
		})
		await(t, "BUSY", func() bool {
			err := observer.Do(t.Context(), observer.B().Ping().Build()).Error()
			return err != nil && strings.HasPrefix(err.Error(), "BUSY")
		})
	})
	h.Remove("goes")
	<-held
	running.Wait()
	mustPublish(t, l, "stays", "afterwards")
	h.untilReceived("afterwards")
	await(t, "the server to be told", func() bool { return !strings.Contains(s.CLI("PUBSUB", "CHANNELS"), "{goes}") })
	if _, lost := h.state(); len(lost) > 0 {
		t.Errorf("lost %q, want nothing", lost)
	}
}

func TestCredentialsAreRefreshedWithoutAnInterruption(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	s.CLI("ACL", "SETUSER", "user", "on", ">first", "~*", "+@all", "&*")
	password := "first"
	var asked, refreshed atomic.Int32
	l := newTestLayer(t, s.URL(), Options{Heartbeat: time.Second, Client: func(o *rueidis.ClientOption) {
		o.AuthCredentialsFn = func(rueidis.AuthCredentialsContext) (rueidis.AuthCredentials, error) {
			c := rueidis.AuthCredentials{Username: "user", Password: password}
			if asked.Add(1) > 2 { // the first two are the connections' own
				refreshed.Add(1)
			} else {
				c.RefreshAfter = time.Now().Add(50 * time.Millisecond)
			}
			return c, nil
		}
	}})
	h := attachHub(t, l, "topic")
	await(t, "both connections to be refreshed", func() bool { return refreshed.Load() >= 2 })
	mustPublish(t, l, "topic", "afterwards")
	h.untilReceived("afterwards")
	if _, lost := h.state(); len(lost) > 0 {
		t.Errorf("lost %q, want nothing", lost)
	}
}

func TestSubscriptionWithoutHeartbeatsIsNotUp(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	s.CLI("ACL", "SETUSER", "user", "on", ">pass", "~*", "+@all", "&grouphub:topic:*")
	l := newTestLayer(t, "redis://user:pass@"+s.Address(), Options{})
	h, err := l.Attach("hub", &testHub{t: t, changed: make(chan struct{}, 1)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	h.Add(ctx, "topic") // by then the link has tried many times
	if h.Up() {
		t.Error("a subscription without heartbeats is up")
	}
}
