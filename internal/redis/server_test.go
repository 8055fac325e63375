package redis

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/alicebob/miniredis/v2/server"
	"github.com/redis/rueidis"

	"github.com/seed-29c60982/grouphub/internal/redistest"
	"github.com/seed-29c60982/grouphub/layer"
)

func TestServerThatIsDemotedIsLeftForTheNewMaster(t *testing.T) {
	t.Parallel()
	if patience(defaultHeartbeat) > 15*time.Second || defaultHeartbeat+defaultTimeout > 15*time.Second {
		t.Error("it takes more than 15 s")
	}
	for _, protocol := range []int{2, 3} {
		t.Run(fmt.Sprint("Protocol=", protocol), func(t *testing.T) {
			t.Parallel()
			old, new := redistest.Start(t), redistest.Start(t)
			name := redistest.StartProxy(t, old.URL())
			l := newTestLayer(t, name.URL()+fmt.Sprint("?protocol=", protocol), Options{Heartbeat: time.Second})
			h := attachHub(t, l, "topic")
			mustPublish(t, l, "topic", "before")
			h.untilReceived("before")

			old.Follow(new)
			// It is uncertain if the connection is left just then.
			err := l.Publish(t.Context(), kept("topic", "x", layer.Keep{Count: 5, Life: time.Minute}))
			if !errors.Is(err, layer.ErrUnavailable) && !errors.Is(err, layer.ErrUncertain) {
				t.Errorf("%v, want ErrUnavailable", err)
			}
			await(t, "the replica to be refused", func() bool {
				err := l.Publish(t.Context(), publication("topic", "to nobody"))
				return errors.Is(err, layer.ErrUnavailable) && strings.Contains(err.Error(), "replica")
			})
			await(t, "Up to be false", func() bool { return !h.Up() })

			name.LeadTo(new.URL())
			h.untilLost("topic")
			elsewhere := attachHub(t, newTestLayer(t, new.URL(), Options{}), "topic")
			await(t, "Publish to work again", func() bool { return l.Publish(t.Context(), publication("topic", "after")) == nil })
			elsewhere.untilReceived("after")
			h.untilReceived("after")
		})
	}
}

func TestReplicaIsRefused(t *testing.T) {
	t.Parallel()
	master, replica := redistest.Start(t), redistest.Start(t)
	replica.Follow(master)
	for _, protocol := range []string{"", "?protocol=2"} {
		if _, err := New(replica.URL()+protocol, Options{}); !errors.Is(err, layer.ErrUnavailable) || !strings.Contains(err.Error(), "replica") {
			t.Errorf("%v, want ErrUnavailable and that it is a replica", err)
		}
	}
}

// anOldServer answers as a Redis of some version before 6.0 does.
func anOldServer(t *testing.T, version string) *miniredis.Miniredis {
	m := miniredis.RunT(t)
	m.Server().SetPreHook(func(c *server.Peer, command string, args ...string) bool {
		switch {
		case command == "HELLO":
			c.WriteError("ERR unknown command `HELLO`, with args beginning with: `3`, ")
		case command == "INFO":
			c.WriteBulk("# Server\r\nredis_version:" + version + "\r\n# Replication\r\nrole:master\r\n")
		case strings.HasPrefix(command, "X") && slices.ContainsFunc(args, func(arg string) bool { return strings.HasPrefix(arg, "(") }):
			c.WriteError("ERR Invalid stream ID specified as stream command argument")
		default:
			return false
		}
		return true
	})
	return m
}

func TestRedisBeforeSixWorks(t *testing.T) {
	t.Parallel()
	m := anOldServer(t, "5.0.14")
	l := newTestLayer(t, "redis://"+m.Addr(), Options{Client: func(o *rueidis.ClientOption) { o.ForceSingleClient = true }})
	h := attachHub(t, l, "topic")
	mustPublish(t, l, "topic", "x")
	h.untilReceived("x")
	for i := range 100 {
		if err := l.Publish(t.Context(), kept("topic", fmt.Sprintf("%02d%s", i, strings.Repeat("x", 100)), layer.Keep{Count: 100, Bytes: 5000, Life: time.Minute})); err != nil {
			t.Fatal(err)
		}
	}
	got := payloadsOf(t, l, "topic")
	if n := len(got); n < 30 || n > 50 || !strings.HasPrefix(got[n-1], "99") || !strings.HasPrefix(got[0], fmt.Sprint(100-n)) {
		t.Errorf("kept %d: %.200q", n, got)
	}
	if later, err := l.History(t.Context(), "topic", 98); err != nil || len(later.Kept) != 2 {
		t.Errorf("%+v, %v after 98, want two", later, err)
	}
}

func TestRedisBeforeFiveIsRefused(t *testing.T) {
	t.Parallel()
	m := anOldServer(t, "4.0.14")
	_, err := New("redis://"+m.Addr(), Options{Client: func(o *rueidis.ClientOption) { o.ForceSingleClient = true }})
	if err == nil || !strings.Contains(err.Error(), "4.0.14") {
		t.Errorf("%v, want an error that names the version", err)
	}
}
