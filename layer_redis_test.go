package grouphub_test

import (
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
	"github.com/seed-29c60982/grouphub/internal/redistest"
)

func TestNewRedisLayerSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0") // accepts, and never answers
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	const absentAddress = "127.0.0.1:1" // a port that nobody is given
	locked := miniredis.RunT(t)
	locked.RequireAuth("other")
	for _, c := range []struct {
		url, want string
		opts      *grouphub.RedisOptions
	}{
		{"127.0.0.1:6379", "invalid redis URL", nil},
		{"redis://:hunter2@host:port", "invalid redis URL", nil},
		{"redis://:hun/ter2@127.0.0.1:1", "invalid redis URL", nil},
		{"redis://:%zhunter2@127.0.0.1:1", "invalid redis URL", nil},
		{"", "invalid redis URL", nil},
		{"redis://:hunter2@" + absentAddress, absentAddress, nil},
		{"redis://:hunter2@" + listener.Addr().String(), listener.Addr().String(), nil},
		{"redis://:hunter2@" + locked.Addr(), "WRONGPASS", nil},
		{"redis://" + locked.Addr(), "NOAUTH", nil},
		{"redis://" + locked.Addr(), "brace", &grouphub.RedisOptions{Prefix: "{app}"}},
		{"redis://" + locked.Addr(), "empty", &grouphub.RedisOptions{EncryptionKeys: []string{"a", ""}}},
		{"redis://" + locked.Addr(), "negative", &grouphub.RedisOptions{QueueCapacity: -1}},
	} {
		start := time.Now()
		_, err := grouphub.NewRedisLayer(c.url, c.opts)
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "grouphub: ") {
			t.Errorf("%s: %v, want an error with %q", c.url, err, c.want)
		}
		if err != nil && (strings.Contains(err.Error(), "hun") || strings.Contains(err.Error(), "ter2")) {
			t.Errorf("%s: the error shows the password: %v", c.url, err)
		}
		if took := time.Since(start); took > 6*time.Second {
			t.Errorf("%s: took %v, want 5s at most", c.url, took)
		}
	}
}

func TestALazyHubIsUpAsSoonAsItsServerIs(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	s.Kill()
	hub := newHub(t, &grouphub.Options{Logger: quiet(), Consumer: noteConsumer,
		Layer: redisLayer(t, s.URL(), &grouphub.RedisOptions{Lazy: true, Logger: quiet()})})
	if err := hub.GroupSend(background, "all", "note", 1); !errors.Is(err, grouphub.ErrUnavailable) || hub.Stats().LayerUp {
		t.Errorf("%v without a server, want ErrUnavailable", err)
	}
	s.Restart()
	eventually(t, func() bool { return hub.Stats().LayerUp }, "the hub is not up")
	if err := hub.Ping(background); err != nil {
		t.Error(err)
	}
	c := hubtest.Dial(t, hub, "/")
	send(t, hub, "all", "note", 2)
	c.Expect(`{"type":"note","group":"all","data":2}`)
}
