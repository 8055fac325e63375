package grouphub_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/seed-29c60982/grouphub"
)

// logAll returns a logger that keeps everything, and what it has kept.
func logAll() (*slog.Logger, *safeBuffer) {
	var b safeBuffer
	return slog.New(slog.NewTextHandler(&b, &slog.HandlerOptions{Level: slog.LevelDebug})), &b
}

func TestRefusalsAreLoggedAndCounted(t *testing.T) {
	failure, meant := errors.New("the database is away"), fmt.Errorf("wrapped: %w", &grouphub.Reject{Status: 429, Reason: "slow down"})
	accept := func(err error) func(*grouphub.Hub) http.Handler {
		return func(hub *grouphub.Hub) http.Handler {
			return hub.Handler(grouphub.Consumer{Accept: func(*http.Request) error { return err }})
		}
	}
	authenticate := func(err error, wrap func(http.Handler) http.Handler) func(*grouphub.Hub) http.Handler {
		return func(hub *grouphub.Hub) http.Handler {
			return grouphub.Authenticate(func(*http.Request) (grouphub.User, error) { return grouphub.User{}, err })(wrap(hub))
		}
	}
	plain := func(h http.Handler) http.Handler { return h }
	inMux := func(h http.Handler) http.Handler {
		mux := http.NewServeMux()
		mux.Handle("GET /{room...}", h)
		return mux
	}
	for name, test := range map[string]struct {
		handler func(*grouphub.Hub) http.Handler
		status  int
		level   string
		text    string
	}{
		"Accept fails":                {accept(failure), 403, "WARN", "the database is away"},
		"Accept refuses":              {accept(meant), 429, "DEBUG", "slow down"},
		"Authenticate fails":          {authenticate(failure, plain), 401, "WARN", "the database is away"},
		"Authenticate refuses":        {authenticate(meant, plain), 429, "DEBUG", "slow down"},
		"Authenticate before a mux":   {authenticate(failure, inMux), 401, "WARN", "the database is away"},
		"Authenticate before another": {authenticate(failure, grouphub.AllowOrigins("*")), 401, "WARN", "the database is away"},
		"the hijack fails":            {func(hub *grouphub.Hub) http.Handler { return hub }, 500, "WARN", "cannot hijack"}, // of a recorder
	} {
		t.Run(name, func(t *testing.T) {
			logger, logged := logAll()
			hub := newHub(t, &grouphub.Options{Logger: logger})
			status, body, _ := get(t, test.handler(hub), upgradeHeader())
			if status != test.status {
				t.Errorf("answered with %d %q, want %d", status, body, test.status)
			}
			if test.level == "WARN" && status < 500 && strings.Contains(body, test.text) {
				t.Errorf("the client is told %q", body)
			}
			text := logged.String()
			if strings.Count(text, "\n") != 1 || !strings.Contains(text, "level="+test.level) || !strings.Contains(text, test.text) {
				t.Errorf("logged %s, want %s and %q", text, test.level, test.text)
			}
			if s := hub.Stats(); s.Rejected != 1 || s.Accepted != 0 {
				t.Errorf("%+v", s)
			}
		})
	}
}

func TestRefusedStreamsAndPostsAreCountedAsUpgradesAre(t *testing.T) {
	never := grouphub.Authenticate(func(*http.Request) (grouphub.User, error) { return grouphub.User{}, errors.New("no session") })
	for name, test := range map[string]struct {
		wrap   func(http.Handler) http.Handler
		origin string
		status int
	}{
		"Authenticate": {never, "", 401},
		"AllowHosts":   {grouphub.AllowHosts("other.example"), "", 403},
		"the origin":   {grouphub.AllowOrigins("https://other.example"), "https://evil.example", 403},
	} {
		logger, logged := logAll()
		hub := newHub(t, &grouphub.Options{Logger: logger})
		h := test.wrap(hub)
		stream, message := httptest.NewRequest("GET", "/", nil), httptest.NewRequest("POST", "/", nil)
		stream.Header.Set("Accept", "text/event-stream")
		for i, r := range []*http.Request{stream, message} {
			if test.origin != "" {
				r.Header.Set("Origin", test.origin)
			}
			w := hijackable{httptest.NewRecorder()}
			h.ServeHTTP(w, r)
			if n := hub.Stats().Rejected; w.Code != test.status || n != uint64(i+1) {
				t.Errorf("a %s that %s refuses: %d, and %d counted", r.Method, name, w.Code, n)
			}
		}
		if n := strings.Count(logged.String(), "\n"); n != 2 {
			t.Errorf("what %s refuses is logged %d times: %s", name, n, logged.String())
		}
	}
}

// An EventSource that is answered by 503 does not come back, with or without a Retry-After.
func TestTemporaryRefusalOfAStreamIsATemporaryClose(t *testing.T) {
	later := &grouphub.Reject{Status: 503, Reason: "warming up"}
	refused := func(h http.Handler, reason string) {
		t.Helper()
		s := httptest.NewServer(h)
		defer s.Close()
		source := &eventSource{t: t}
		source.connect(s.URL)
		b := source.expect("grouphub.close")
		if want := fmt.Sprintf(`{"code":1013,"reason":%q}`, reason); source.status != 200 || b.data != want || source.lastID != "" {
			t.Errorf("status %d, close %s, id %q, want 200 and %s", source.status, b.data, source.lastID, want)
		}
		source.cut()
	}
	hub := newHub(t, &grouphub.Options{Logger: quiet()})
	refused(hub.Handler(grouphub.Consumer{Accept: func(*http.Request) error { return later }}), "warming up")
	refused(grouphub.Authenticate(func(*http.Request) (grouphub.User, error) { return grouphub.User{}, later })(hub), "warming up")
	if n := hub.Stats().Rejected; n != 2 {
		t.Errorf("%d rejected, want 2", n)
	}

	// Shutdown has given up waiting for an Accept that then returns.
	entered, proceed := make(chan struct{}), make(chan struct{})
	ending := grouphub.New(&grouphub.Options{Consumer: grouphub.Consumer{
		Accept:  func(*http.Request) error { close(entered); <-proceed; return nil },
		Connect: func(*grouphub.Conn) error { t.Error("Connect was called after Shutdown"); return nil },
	}})
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		refused(ending, "the server is shutting down")
	}()
	<-entered
	if err := ending.Shutdown(canceled()); !errors.Is(err, context.Canceled) {
		t.Errorf("Shutdown: %v", err)
	}
	close(proceed)
	<-answered
	if err := ending.Shutdown(background); err != nil {
		t.Error(err)
	}
	refused(ending, "the server is shutting down") // and now at once
}

func TestABadHandshakeIsNoWarning(t *testing.T) {
	logger, logged := logAll()
	hub := newHub(t, &grouphub.Options{Logger: logger})
	header := upgradeHeader()
	header.Set("Sec-WebSocket-Version", "7")
	if status, _, _ := get(t, hub, header); status != http.StatusBadRequest {
		t.Errorf("answered with %d", status)
	}
	if text := logged.String(); !strings.Contains(text, "level=DEBUG") || !strings.Contains(text, "version") {
		t.Errorf("logged %s", text)
	}
}

func TestWhatAuthenticateRefusesIsNotCountedIfItIsNoUpgrade(t *testing.T) {
	logger, logged := logAll()
	hub := newHub(t, &grouphub.Options{Logger: logger})
	h := grouphub.Authenticate(func(*http.Request) (grouphub.User, error) { return grouphub.User{}, errors.New("no session") })(hub)
	if status, _, _ := get(t, h, nil); status != http.StatusUnauthorized {
		t.Errorf("answered with %d", status)
	}
	if n := hub.Stats().Rejected; n != 0 || !strings.Contains(logged.String(), "no session") {
		t.Errorf("%d rejected, logged %s", n, logged.String())
	}
}
