package redis

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"testing"

	"github.com/seed-29c60982/grouphub/internal/redistest"
	"github.com/seed-29c60982/grouphub/layer"
)

func newLazy(t *testing.T, url string, opts Options) *Lazy {
	t.Helper()
	opts.Logger = slog.New(slog.DiscardHandler)
	l, err := NewLazy(url, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func TestLazyLayerWorksAsSoonAsItsServerIsThere(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	s.Kill()
	l := newLazy(t, s.URL(), Options{})
	h := attachHub(t, l)
	took := make(chan string, 1)
	go func() {
		message, err := l.Take(t.Context(), "queue")
		if err != nil {
			t.Errorf("Take: %v", err)
		}
		took <- string(message)
	}()
	if h.Up() {
		t.Error("Up without a server")
	}
	_, historyErr := l.History(t.Context(), "topic", 0)
	for call, err := range map[string]error{
		"Publish": l.Publish(t.Context(), publication("topic", "x")),
		"Append":  l.Append(t.Context(), "queue", []byte("x")),
		"History": historyErr,
		"Add":     h.Add(t.Context(), "topic"),
	} {
		if !errors.Is(err, layer.ErrUnavailable) {
			t.Errorf("%s: %v, want ErrUnavailable", call, err)
		}
	}
	s.Restart()
	await(t, "Up", h.Up)
	await(t, "Add", func() bool { return h.Add(t.Context(), "topic") == nil })
	mustPublish(t, l, "topic", "first")
	h.untilReceived("first")
	if err := l.Append(t.Context(), "queue", []byte("job")); err != nil {
		t.Error(err)
	}
	if message := <-took; message != "job" {
		t.Errorf("took %q", message)
	}
	later := attachHub(t, l)
	await(t, "Add", func() bool { return later.Add(t.Context(), "topic") == nil })
	mustPublish(t, l, "topic", "second")
	later.untilReceived("second")
}

func TestLazyLayerIsClosedWhileItConnects(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0") // accepts, and never answers
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	l := newLazy(t, "redis://"+listener.Addr().String(), Options{})
	h := attachHub(t, l)
	conn, err := listener.Accept() // it is connecting
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	taken := make(chan error)
	go func() {
		_, err := l.Take(context.Background(), "queue")
		taken <- err
	}()
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	for call, err := range map[string]error{
		"Take": <-taken, "Close": l.Close(), "Publish": l.Publish(t.Context(), publication("topic", "x")), "Add": h.Add(t.Context(), "topic"),
	} {
		if !errors.Is(err, layer.ErrClosed) {
			t.Errorf("%s: %v, want ErrClosed", call, err)
		}
	}
}

func TestSubscriptionThatEndsBeforeTheServerIsThereStaysEnded(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	s.Kill()
	l := newLazy(t, s.URL(), Options{})
	h := attachHub(t, l)
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	s.Restart()
	<-l.ready
	if h.Up() {
		t.Error("Up")
	}
	h.Remove("topic")
	if err := h.Add(t.Context(), "topic"); !errors.Is(err, layer.ErrClosed) {
		t.Errorf("Add: %v, want ErrClosed", err)
	}
}

func TestLazyLayerSaysAtOnceWhatIsWrongWithItsOptions(t *testing.T) {
	for url, opts := range map[string]Options{"127.0.0.1:6379": {}, "redis://127.0.0.1:1": {QueueCapacity: -1}} {
		if l, err := NewLazy(url, opts); err == nil || !strings.HasPrefix(err.Error(), "grouphub: ") {
			l.Close()
			t.Errorf("%s: %v", url, err)
		}
	}
}
