package grouphub_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
)

// closed reads a stream to its end, and returns the code that it was closed with.
func (s *eventSource) closed() int {
	s.t.Helper()
	for {
		b, ok := s.next()
		if !ok {
			s.t.Fatal("the stream ended without a close")
		}
		if b.name != "grouphub.close" {
			continue
		}
		var reason struct {
			Code   int
			Reason string
		}
		if err := json.Unmarshal([]byte(b.data), &reason); err != nil {
			s.t.Fatalf("close %q: %v", b.data, err)
		}
		if _, err := s.body.ReadByte(); err != io.EOF {
			s.t.Errorf("after the close: %v, want the end", err)
		}
		return reason.Code
	}
}

func TestStreamThatIsClosedForGoodDoesNotComeBack(t *testing.T) {
	conns := make(chan *grouphub.Conn, 1)
	hub := newHub(t, &grouphub.Options{Consumer: grouphub.Consumer{Connect: func(c *grouphub.Conn) error {
		conns <- c
		return nil
	}}})
	s := httptest.NewServer(hub)
	defer s.Close()
	for code, final := range map[int]bool{1000: true, 1008: true, 4400: true, 4401: true, 4499: true,
		1001: false, 1012: false, 1013: false, 4000: false, 4399: false, 4500: false} {
		source := &eventSource{t: t}
		source.connect(s.URL)
		source.expect("grouphub.open")
		c := <-conns
		if err := c.Close(code, "reason"); err != nil {
			t.Fatal(err)
		}
		if got := source.closed(); got != code {
			t.Errorf("closed with %d, want %d", got, code)
		}
		source.connect(s.URL)
		if gone := source.status == http.StatusGone; gone != final {
			t.Errorf("back after %d: status %d", code, source.status)
		}
		if !final {
			source.expect("grouphub.open")
			<-conns
		}
		source.cut()
	}
}

func TestStreamIsToldToComeBackWhereThereIsNoRoom(t *testing.T) {
	hub := newHub(t, &grouphub.Options{MaxConns: 1})
	s := httptest.NewServer(hub)
	defer s.Close()
	first := &eventSource{t: t}
	first.connect(s.URL)
	token := first.expect("grouphub.open").data
	second := &eventSource{t: t}
	second.connect(s.URL)
	if code := second.closed(); second.status != 200 || code != 1013 {
		t.Errorf("status %d and close %d, want 200 and 1013", second.status, code)
	}
	// A POST takes no room, and needs none.
	if status := post(t, s.URL, token, "", "x"); status != http.StatusNoContent {
		t.Errorf("a POST for the stream that has room: %d", status)
	}
	first.cut()
}

func TestStreamEndsWithShutdownGroupCloseAndExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub := grouphub.New(&grouphub.Options{Consumer: grouphub.Consumer{Connect: joinAll}})
		expires := grouphub.Authenticate(func(*http.Request) (grouphub.User, error) {
			return grouphub.User{ID: "7", Expires: time.Now().Add(time.Minute)}, nil
		})
		expiring := hubtest.Dial(t, expires(hub), "/", hubtest.AsStream())
		time.Sleep(time.Minute)
		expiring.ExpectClose(4401)
		closed := hubtest.Dial(t, hub, "/", hubtest.AsStream())
		if err := hub.GroupClose(t.Context(), "all", 4000, ""); err != nil {
			t.Fatal(err)
		}
		closed.ExpectClose(4000)
		last := hubtest.Dial(t, hub, "/", hubtest.AsStream())
		synctest.Wait()
		if n := hub.Stats(); n.Streams != 1 || n.Conns != 1 {
			t.Errorf("%d streams of %d connections, want 1 of 1", n.Streams, n.Conns)
		}
		if err := hub.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		last.ExpectClose(1001)
		synctest.Wait()
		if n := hub.Stats(); n.Streams != 0 {
			t.Errorf("%d streams are left", n.Streams)
		}
	})
}

// There are proxies that never tell that a client has gone.
func TestStreamGoesOnInTheNextAfterAnHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub := newHub(t, nil)
		start := time.Now()
		client := hubtest.Dial(t, hub, "/", hubtest.AsStream())
		time.Sleep(70 * time.Minute)
		client.ExpectClose(1012)
		if d := time.Since(start); d < 54*time.Minute {
			t.Errorf("closed after %v", d)
		}
	})
}

func TestStreamOutlivesTheServersTimeouts(t *testing.T) {
	t.Parallel()
	for _, protocol := range []string{"HTTP/1.1", "HTTP/2.0"} {
		t.Run(protocol, func(t *testing.T) {
			hub := newHub(t, &grouphub.Options{Consumer: grouphub.Consumer{Connect: joinAll, Events: grouphub.Events{"late": grouphub.Forward()}}})
			handled := make(chan string, 20)
			s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				handled <- r.Proto
				w.Header().Set("Set-Cookie", "session=1")
				w.Header().Set("Content-Encoding", "gzip") // as a middleware may have
				w.Header().Set("Content-Length", "7")
				w.Header()["X-request-ID"] = []string{"one"} // written as some middleware does
				w.Header()["content-type"] = []string{"text/html"}
				hub.ServeHTTP(w, r)
			}))
			s.Config.ReadTimeout, s.Config.WriteTimeout = time.Second, time.Second
			s.EnableHTTP2 = true
			s.StartTLS()
			defer s.Close()
			client := s.Client()
			if protocol == "HTTP/1.1" {
				client.Transport.(*http.Transport).ForceAttemptHTTP2 = false
				client.Transport.(*http.Transport).TLSClientConfig.NextProtos = nil
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			r, err := http.NewRequestWithContext(ctx, "GET", s.URL, nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Accept", "text/event-stream")
			answer, err := client.Do(r)
			for range 10 { // the handshake of TLS may take longer than the server's timeouts
				if err == nil {
					break
				}
				answer, err = client.Do(r)
			}
			if err != nil {
				t.Fatal(err)
			}
			defer answer.Body.Close()
			if got := <-handled; got != protocol {
				t.Fatalf("asked with %s", got)
			}
			h := answer.Header
			if h.Get("Set-Cookie") != "session=1" || h.Get("X-Request-Id") != "one" || len(h["Content-Type"]) != 1 || h.Get("Content-Encoding") != "" || answer.ContentLength != -1 ||
				h.Get("Content-Type") != "text/event-stream" || h.Get("X-Accel-Buffering") != "no" {
				t.Errorf("header %v of %d bytes", h, answer.ContentLength)
			}
			source := &eventSource{t: t, body: newReader(answer.Body)}
			source.expect("grouphub.open")
			time.Sleep(1500 * time.Millisecond) // the server's timeouts pass
			send(t, hub, "all", "late", 1)
			if e := source.event(); e.Type != "late" {
				t.Errorf("got %+v", e)
			}
		})
	}
}

func TestStreamBlocksAreAsTheirHandlersSay(t *testing.T) {
	hub := newHub(t, &grouphub.Options{Consumer: grouphub.Consumer{Connect: joinAll, Events: grouphub.Events{
		"forward": grouphub.Forward(),
		"named":   grouphub.Forward().Named("other"),
		"render": grouphub.Render(func(e grouphub.Event) ([]byte, error) {
			return []byte("<p>\r\n" + string(e.Data) + "\r</p>\n"), nil
		}).Named("html"),
		"nothing": grouphub.Render(func(grouphub.Event) ([]byte, error) { return nil, nil }),
	}}})
	s := httptest.NewServer(hub)
	defer s.Close()
	source := &eventSource{t: t}
	source.connect(s.URL)
	source.expect("grouphub.open")
	for _, event := range []string{"forward", "named", "nothing", "render"} {
		send(t, hub, "all", event, 7)
	}
	for _, want := range []streamBlock{
		{"", `{"type":"forward","group":"all","data":7}`},
		{"other", `{"type":"named","group":"all","data":7}`},
		{"html", "<p>\n7\n</p>"},
	} {
		if b, _ := source.next(); b != want {
			t.Errorf("got %+v, want %+v", b, want)
		}
	}
	source.cut()
}
