package grouphub_test

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
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
