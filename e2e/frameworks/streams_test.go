package frameworks

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/gin-gonic/gin"
	"github.com/gofiber/fiber/v3"
	"github.com/gofiber/fiber/v3/middleware/adaptor"
	"github.com/gofiber/fiber/v3/middleware/compress"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/e2e/eventsource"
)

// withHistory keeps what is sent to a room for streams that come back.
var withHistory = &grouphub.Options{
	Policy: func(string) grouphub.GroupPolicy { return grouphub.GroupPolicy{History: 100} },
}

func TestEventStreamWorksUnderAnyRouterAndItsMiddleware(t *testing.T) {
	gin.SetMode(gin.ReleaseMode)
	for name, mount := range mounts {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(mount(newHub(t, withHistory)))
			t.Cleanup(server.Close)
			talkByStream(t, server.URL+"/ws/lobby")
		})
	}
}

// Fiber is built on fasthttp. Its adaptor can hijack for a handler of net/http.
func TestEventStreamWorksUnderFibersAdaptor(t *testing.T) {
	router := http.NewServeMux()
	router.Handle("/ws/{room}", newHub(t, withHistory))
	app := fiber.New()
	app.Use(compress.New())
	// A context that is derived from fasthttp's reads, on a goroutine, what its Shutdown writes.
	app.Use(adaptor.HTTPHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		router.ServeHTTP(w, r.WithContext(context.WithoutCancel(r.Context())))
	})))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- app.Listener(listener, fiber.ListenConfig{DisableStartupMessage: true}) }()
	t.Cleanup(func() {
		if err := app.Shutdown(); err != nil {
			t.Error(err)
		}
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	talkByStream(t, "http://"+listener.Addr().String()+"/ws/lobby")
}

// talkByStream has two clients of a room send by POST and hear by stream. Each event is
// awaited before the next is sent, so that none may stay in a buffer on its way.
func talkByStream(t *testing.T, url string) {
	t.Helper()
	ann, bob := new(eventsource.Source), new(eventsource.Source)
	for _, s := range []*eventsource.Source{ann, bob} {
		connect(t, s, url)
	}
	for n := range 5 {
		text := fmt.Sprint("note ", n)
		say(t, ann, text)
		for _, s := range []*eventsource.Source{ann, bob} {
			if got := heardByStream(t, s); got != text {
				t.Fatalf("a member heard %q, want %q", got, text)
			}
		}
	}
	bob.Cut()
	for _, text := range []string{"missed", "missed as well"} {
		say(t, ann, text)
	}
	connect(t, bob, url)
	// A POST is answered when the message is queued, so the order is only that of one sender.
	say(t, ann, "back")
	for _, want := range []string{"missed", "missed as well", "back"} {
		if got := heardByStream(t, bob); got != want {
			t.Fatalf("the member that came back heard %q, want %q", got, want)
		}
	}
	ann.Cut()
	bob.Cut()
}

// connect returns when the stream is open, and its token known.
func connect(t *testing.T, s *eventsource.Source, url string) {
	t.Helper()
	if err := s.Connect(url); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Cut)
	if encoding := s.Header.Get("Content-Encoding"); encoding != "" {
		t.Errorf("the stream is encoded by %s", encoding)
	}
	if b, err := s.Next(); err != nil || b.Name != "grouphub.open" {
		t.Fatalf("the first block is %+v, %v", b, err)
	}
}

func say(t *testing.T, s *eventsource.Source, text string) {
	t.Helper()
	body, err := json.Marshal(note{text})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Post(string(body)); err != nil {
		t.Fatal(err)
	}
}

func heardByStream(t *testing.T, s *eventsource.Source) string {
	t.Helper()
	data, err := s.NextEvent()
	if err != nil {
		t.Fatal(err)
	}
	var e grouphub.Event
	var n note
	if err := json.Unmarshal([]byte(data), &e); err != nil {
		t.Fatalf("%q: %v", data, err)
	}
	if err := e.Decode(&n); err != nil {
		t.Fatal(err)
	}
	return n.Text
}
