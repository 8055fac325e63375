package grouphub_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
)

// A heardRefusal is what Options.Refuse has heard.
type heardRefusal struct {
	status     int
	err        error
	retryAfter string
	upgrade    string
}

// refusing returns a Refuse that answers with JSON, and what it hears.
func refusing() (<-chan heardRefusal, func(http.ResponseWriter, *http.Request, int, error)) {
	heard := make(chan heardRefusal, 100)
	return heard, func(w http.ResponseWriter, _ *http.Request, status int, err error) {
		heard <- heardRefusal{status, err, w.Header().Get("Retry-After"), w.Header().Get("Upgrade")}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		fmt.Fprintf(w, `{"status":%d}`, status)
	}
}

func TestRefuseHearsOfAllThatTheHubAndItsConsumersRefuse(t *testing.T) {
	heard, refuse := refusing()
	notYou := errors.New("not you")
	hub := newHub(t, &grouphub.Options{Refuse: refuse, MaxConns: 1, Logger: quiet(), Consumer: grouphub.Consumer{
		Accept: func(r *http.Request) error {
			switch r.URL.Path {
			case "/error":
				return notYou
			case "/reject":
				return &grouphub.Reject{Status: 429, Reason: "slow down"}
			}
			return nil
		}}})
	request := func(method, path string, header ...string) *http.Request {
		r := httptest.NewRequest(method, path, nil)
		for i := 0; i < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		return r
	}
	upgrade := func(path string, more ...string) *http.Request {
		r := request("GET", path)
		r.Header = upgradeHeader(more...)
		return r
	}
	full := func() { hubtest.Dial(t, hub, "/") }
	for _, test := range []struct {
		name       string
		before     func()
		r          *http.Request
		status     int
		err        error // "": any *Reject
		retryAfter string
		upgrade    string
	}{
		{name: "a plain request", r: request("GET", "/"), status: 426, upgrade: "websocket"},
		{name: "another origin", r: upgrade("/", "Origin", "https://evil.example"), status: 403},
		{name: "an error of Accept", r: upgrade("/error"), status: 403, err: notYou},
		{name: "a Reject of Accept", r: upgrade("/reject"), status: 429},
		{name: "no handshake", r: upgrade("/", "Sec-WebSocket-Version", "7"), status: 400},
		{name: "a large header", r: upgrade("/", "Large", strings.Repeat("x", 40<<10)), status: 431},
		{name: "a stream that Accept refuses", r: request("GET", "/reject", "Accept", "text/event-stream"), status: 429},
		{name: "a stream that was closed for good", r: request("GET", "/", "Accept", "text/event-stream", "Last-Event-ID", "!4401"), status: 410},
		{name: "a post without a token", r: request("POST", "/"), status: 400},
		{name: "a post to no stream", r: request("POST", "/", "Grouphub-Stream", "a!1.b"), status: 410},
		{name: "a preflight", r: request("OPTIONS", "/", "Origin", "https://evil.example", "Access-Control-Request-Method", "POST"), status: 403},
		{name: "a full hub", before: full, r: upgrade("/"), status: 503, retryAfter: "5"},
		{name: "a stream on a full hub", r: request("GET", "/", "Accept", "text/event-stream"), status: 503, retryAfter: "5"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.before != nil {
				test.before()
			}
			if test.name == "no handshake" {
				test.r.Header.Set("Sec-WebSocket-Version", "7")
			}
			w := hijackable{httptest.NewRecorder()}
			hub.ServeHTTP(w, test.r)
			if len(heard) != 1 {
				t.Fatalf("Refuse heard %d times; answered by %d %s", len(heard), w.Code, w.Body)
			}
			got := <-heard
			var reject *grouphub.Reject
			if got.status != test.status || got.retryAfter != test.retryAfter || got.upgrade != test.upgrade ||
				test.err != nil && !errors.Is(got.err, test.err) || test.err == nil && !errors.As(got.err, &reject) {
				t.Errorf("Refuse heard %+v", got)
			}
			if strings.Contains(test.name, "stream on a full") { // an EventSource has to come back
				if w.Code != 200 || !strings.Contains(w.Body.String(), "grouphub.close") || strings.Contains(w.Body.String(), "status") {
					t.Errorf("answered by %d %s", w.Code, w.Body)
				}
			} else if w.Code != test.status || w.Body.String() != fmt.Sprintf(`{"status":%d}`, test.status) {
				t.Errorf("answered by %d %s", w.Code, w.Body)
			}
		})
	}
}

func TestRefuseDoesNotHearWhatAuthenticateInFrontOfTheHubRefuses(t *testing.T) {
	heard, refuse := refusing()
	hub := newHub(t, &grouphub.Options{Refuse: refuse, Logger: quiet()})
	h := grouphub.Authenticate(func(*http.Request) (grouphub.User, error) {
		return grouphub.User{}, &grouphub.Reject{Status: 401, Reason: "who are you"}
	})(hub)
	for _, header := range []http.Header{upgradeHeader(), {"Accept": {"text/event-stream"}}, nil} {
		status, body, _ := get(t, h, header)
		if status != 401 || body != "who are you\n" || len(heard) != 0 {
			t.Errorf("answered by %d %q, and Refuse heard %d times", status, body, len(heard))
		}
	}
	if n := hub.Stats().Rejected; n != 2 {
		t.Errorf("%d rejected", n)
	}
}
