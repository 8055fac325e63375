package grouphub

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// answered returns the answer of AllowHosts to a request with a host.
func answered(host string, hosts ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("GET", "/", nil)
	r.Host = host
	w := httptest.NewRecorder()
	AllowHosts(hosts...)(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})).ServeHTTP(w, r)
	return w
}

func TestAllowHostsAllowsWhatItNames(t *testing.T) {
	for _, test := range []struct {
		pattern, host string
		allowed       bool
	}{
		{"example.com", "example.com", true},
		{"Example.com", "EXAMPLE.com", true},
		{"example.com", "example.com:8080", true},
		{"example.com:8080", "example.com:8080", true},
		{"example.com:80", "example.com:80", true},
		{"127.0.0.1", "127.0.0.1:8080", true},
		{"[::1]", "[0::1]:8080", true},
		{"*.example.com", "a.b.example.com:8080", true},
		{"example.com:8080", "example.com", false},
		{"example.com:80", "example.com", false},
		{"example.com", "a.example.com", false},
		{"example.com", "evil.example", false},
		{"example.com", "example.com.evil.example", false},
		{"example.com", "evil.example@example.com", false},
		{"example.com", "example.com/", false},
		{"example.com", "", false},
		{"*.example.com", "example.com", false},
		{"*.example.com", ".example.com", false},
	} {
		if w := answered(test.host, test.pattern); (w.Code == http.StatusOK) != test.allowed {
			t.Errorf("host %q with AllowHosts(%q): %d %s", test.host, test.pattern, w.Code, w.Body)
		}
	}
	if w := answered("b.example", "a.example", "b.example"); w.Code != http.StatusOK {
		t.Errorf("the second of two hosts: %d", w.Code)
	}
}

// A page of evil.example, whose name leads to this server since the browser has loaded it, is
// of the same origin as the server that it reaches.
func TestAllowHostsRefusesANameThatLeadsHere(t *testing.T) {
	hub := New(nil)
	defer hub.Shutdown(t.Context())
	upgrade := func(h http.Handler, host string) *httptest.ResponseRecorder {
		r := httptest.NewRequest("GET", "/", nil)
		r.Host = host
		for name, value := range map[string]string{"Connection": "Upgrade", "Upgrade": "websocket",
			"Origin": "http://" + host, "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="} {
			r.Header.Set(name, value)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w
	}
	guarded := AllowHosts("localhost")(hub)
	w := upgrade(guarded, "evil.example:8080")
	if want := "host \"evil.example:8080\" is not allowed\n"; w.Code != http.StatusForbidden || w.Body.String() != want {
		t.Errorf("answer = %d %q, want 403 %q", w.Code, w.Body, want)
	}
	if rejected := hub.Stats().Rejected; rejected != 1 {
		t.Errorf("%d upgrades are counted as rejected, want 1", rejected)
	}
	// A recorder cannot be upgraded, so this is as far as an allowed request comes.
	if w := upgrade(guarded, "localhost:8080"); w.Code != http.StatusInternalServerError {
		t.Errorf("an allowed host gets %d %q", w.Code, w.Body)
	}
}

func TestAllowHostsPanicsNamingTheHost(t *testing.T) {
	for _, host := range []string{"", "*", "*.", "https://example.com", "example.com/", "user@example.com", "example.com:",
		"example.com:*", "example.com:080", "exämple.com", "[::1", "*.127.0.0.1", "a.*.com", "example.com\n"} {
		func() {
			defer func() {
				if message := fmt.Sprint(recover()); !strings.Contains(message, fmt.Sprintf("%q", host)) {
					t.Errorf("AllowHosts(%q) panicked with %q", host, message)
				}
			}()
			AllowHosts("example.com", host)
		}()
	}
}
