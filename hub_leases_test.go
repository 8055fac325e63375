package grouphub_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
	"github.com/seed-29c60982/grouphub/internal/redistest"
)

// A countingLayer counts how often a hub asks for the leases of hubs.
type countingLayer struct {
	grouphub.Layer
	asked atomic.Int32
}

func (l *countingLayer) Leases(ctx context.Context, topic string, known map[string]uint64) (map[string]grouphub.Lease, error) {
	if strings.HasPrefix(topic, "h:") {
		l.asked.Add(1)
	}
	return l.Layer.Leases(ctx, topic, known)
}

// sendAll makes each kind of command to the connection of another hub.
func sendAll(hub *grouphub.Hub, channel string) error {
	return errors.Join(hub.Send(background, channel, "note", 1), hub.GroupAdd(background, "g", channel),
		hub.GroupDiscard(background, "g", channel))
}

func TestNothingIsKeptForAHubThatIsNotThere(t *testing.T) {
	for name, layer := range map[string]func(t *testing.T) grouphub.Layer{
		"memory": func(*testing.T) grouphub.Layer { return grouphub.NewMemoryLayer() },
		"Redis":  func(t *testing.T) grouphub.Layer { return redisLayer(t, redistest.Start(t).URL(), nil) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			layer := layer(t)
			hub := newHub(t, &grouphub.Options{Layer: layer})
			grouphub.AskForHubs(hub)
			for i := range 3 {
				if err := sendAll(hub, fmt.Sprintf("invented%d!1", i)); err != nil {
					t.Error(err)
				}
			}
			for i := range 3 {
				h, err := layer.History(background, fmt.Sprintf("h:invented%d", i), 0)
				if err != nil || h.Last > 0 || len(h.Kept) > 0 {
					t.Errorf("%d commands were given a number, %d are kept, %v", h.Last, len(h.Kept), err)
				}
			}
		})
	}
}

func TestCommandsAreKeptForAHubThatIsCutOff(t *testing.T) {
	t.Parallel()
	redistest.OnBoth(t, func(t *testing.T, url string) {
		proxy := redistest.StartProxy(t, url)
		conns := make(chan *grouphub.Conn, 1)
		cutOff := newHub(t, &grouphub.Options{Layer: layerBehind(t, proxy), Logger: quiet(), Consumer: grouphub.Consumer{
			Connect: func(c *grouphub.Conn) error { conns <- c; return nil },
			Events:  grouphub.Events{"note": grouphub.Forward()},
		}})
		layer := &countingLayer{Layer: redisLayer(t, url, nil)}
		sender := newHub(t, &grouphub.Options{Layer: layer, Logger: quiet()})
		if err := cutOff.Ping(background); err != nil {
			t.Fatal(err)
		}
		c, channel := hubtest.Dial(t, cutOff, "/"), (<-conns).Channel()
		name, _, _ := strings.Cut(channel, "!")
		eventually(t, func() bool {
			leases, err := layer.Layer.Leases(background, "h:"+name, nil)
			return err == nil && len(leases) == 1
		}, "the hub has no lease")
		grouphub.AskForHubs(sender)
		proxy.Cut()
		for i := range 20 {
			if err := sender.Send(background, channel, "note", i); err != nil {
				t.Fatal(err)
			}
		}
		if n := layer.asked.Load(); n != 1 {
			t.Errorf("the sender has asked %d times whether the hub is there, want once", n)
		}
		proxy.Mend()
		for i := range 20 {
			c.Expect(fmt.Sprintf(`{"type":"note","data":%d}`, i))
		}
	})
}

func TestAHubsLeaseIsThereAsLongAsTheHub(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		layer := newFaultyLayer()
		defer layer.Close()
		layer.lease = func(context.Context, string) error {
			if layer.down.Load() {
				return grouphub.ErrUnavailable
			}
			return nil
		}
		hub := grouphub.New(&grouphub.Options{Layer: layer, Logger: quiet()})
		channel := fmt.Sprint(grouphub.HubName(hub), "!1")
		leased := func() bool {
			leases, err := layer.Leases(background, "h:"+grouphub.HubName(hub), nil)
			if err != nil {
				t.Fatal(err)
			}
			return len(leases) == 1
		}
		time.Sleep(24 * time.Hour)
		if !leased() {
			t.Error("it has ended before its hub")
		}
		other := grouphub.New(&grouphub.Options{Layer: layer.MemoryLayer})
		layer.cut()
		time.Sleep(2 * time.Hour)
		if leased() {
			t.Error("it is prolonged while the hub is cut off")
		}
		if err := sendAll(other, channel); err != nil {
			t.Error(err)
		}
		before := hub.Stats().Dropped
		layer.mend()
		time.Sleep(time.Minute)
		if !leased() || hub.Stats().Dropped == before {
			t.Errorf("leased: %t, %d dropped, although nothing was kept for the hub", leased(), hub.Stats().Dropped-before)
		}
		hub.Shutdown(background)
		if leased() {
			t.Error("it is there after its hub")
		}
		other.Shutdown(background)
	})
}
