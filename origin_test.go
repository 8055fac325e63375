package grouphub

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// checkedBehind runs checkOrigin as it runs behind one AllowOrigins for each of patterns.
func checkedBehind(host string, origins []string, patterns ...string) (err error) {
	var h http.Handler = http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { err = checkOrigin(r) })
	for _, p := range patterns {
		h = AllowOrigins(p)(h)
	}
	r := httptest.NewRequest("GET", "/", nil)
	r.Host = host
	for _, o := range origins {
		r.Header.Add("Origin", o)
	}
	h.ServeHTTP(httptest.NewRecorder(), r)
	return err
}

func TestSameOriginByDefault(t *testing.T) {
	for _, test := range []struct {
		host, origin string
		allowed      bool
	}{
		{"example.com", "https://example.com", true},
		{"example.com", "http://example.com", true},
		{"example.com", "HTTPS://EXAMPLE.com", true},
		{"EXAMPLE.com", "https://example.com", true},
		{"example.com:443", "https://example.com", true},
		{"example.com", "https://example.com:443", true},
		{"example.com", "http://example.com:80", true},
		{"example.com:8080", "http://example.com:8080", true},
		{"[::1]:8080", "http://[::1]:8080", true},
		{"[::1]", "http://[0:0::1]:80", true},
		{"example.com:80", "https://example.com", false},
		{"example.com", "https://example.com:80", false},
		{"example.com", "https://example.com:8443", false},
		{"example.com:8080", "http://example.com", false},
		{"[::1]:8080", "http://[::2]:8080", false},
		{"example.com", "https://evil.example", false},
		{"example.com", "https://example.com.evil.example", false},
		{"example.com", "https://www.example.com", false},
		{"example.com", "https://evil.example@example.com", false},
		{"example.com", "https://example.com/", false},
		{"example.com", "https://example.com:", false},
		{"example.com", "//example.com", false},
		{"example.com", "example.com", false},
		{"example.com", "null", false},
		{"example.com", "foo://example.com", false}, // the scheme of some application
		{"localhost", "capacitor://localhost", false},
		{"example.com:21", "ftp://example.com:21", false},
		{"example.com", "ws://example.com", false},
		{"example.com", "", false},
		{"", "null", false},
		{"", "", false},
		{"", "https://", false},
		{"kiss.example", "https://\u212aiss.example", false}, // a letter that is k in lower case
		{"\u212aiss.example", "https://kiss.example", false},
	} {
		if err := checkedBehind(test.host, []string{test.origin}); (err == nil) != test.allowed {
			t.Errorf("origin %q at host %q: %v", test.origin, test.host, err)
		}
	}
}

// Where the server has ended TLS itself, a page of http is one of another origin.
func TestSameOriginIsOfTheSameSchemeWhereTLSEnds(t *testing.T) {
	for from, allowed := range map[string]bool{"https://example.com": true, "http://example.com": false} {
		r := httptest.NewRequest("GET", "https://example.com/", nil) // which sets TLS
		r.Header.Set("Origin", from)
		if err := checkOrigin(r); (err == nil) != allowed {
			t.Errorf("origin %s: %v", from, err)
		}
	}
}

func TestAllowOriginsAllowsWhatItNames(t *testing.T) {
	for _, test := range []struct {
		pattern, origin string
		allowed         bool
	}{
		{"https://example.com", "https://example.com", true},
		{"HTTPS://Example.COM", "https://example.com", true},
		{"https://example.com:443", "https://example.com", true},
		{"https://example.com", "https://example.com:443", true},
		{"http://example.com:80", "http://example.com", true},
		{"https://example.com:8443", "https://example.com:8443", true},
		{"http://127.0.0.1:3000", "http://127.0.0.1:3000", true},
		{"http://[::1]:3000", "http://[::1]:3000", true},
		{"http://[0::1]", "http://[::1]", true},
		{"capacitor://localhost", "capacitor://localhost", true},
		{"https://example.com", "http://example.com", false},
		{"https://example.com:8443", "https://example.com", false},
		{"https://example.com", "https://example.com:8443", false},
		{"https://example.com", "https://a.example.com", false},
		{"https://example.com", "https://example.com/path", false},
		{"https://*.example.com", "https://a.example.com", true},
		{"https://*.example.com", "https://a.b.Example.com", true},
		{"https://*.example.com:8443", "https://a.example.com:8443", true},
		{"https://*.example.com", "https://example.com", false},
		{"https://*.example.com", "https://.example.com", false},
		{"https://*.example.com", "https://evilexample.com", false},
		{"https://*.example.com", "https://a.example.com.evil.example", false},
		{"https://*.example.com", "http://a.example.com", false},
		{"https://*.example.com", "https://a.example.com:8443", false},
		{"https://*.example.com", "null", false},
		{"*", "https://evil.example", true},
		{"http://localhost:*", "http://localhost", true},
		{"http://localhost:*", "http://localhost:5173", true},
		{"http://localhost:*", "https://localhost:5173", false},
		{"http://localhost:*", "http://localhost.evil.example:5173", false},
		{"http://localhost:*", "http://localhost:x", false},
		{"http://[::1]:*", "http://[0::1]:5173", true},
		{"https://*.example.com:*", "https://a.example.com:8443", true},
		{"https://*.example.com:*", "https://example.com:8443", false},
		{"file://", "file://", true},
		{"file://", "file:///etc/passwd", false},
		{"file://", "null", false},
		{"file://", "https://evil.example", false},
		{"null", "null", true},
		{"null", "file://", false},
		{"null", "https://null", false},
		{"null", "", false},
		{"*", "null", true},
		{"*", "\x00garbage", true},
	} {
		if err := checkedBehind("own.example", []string{test.origin}, test.pattern); (err == nil) != test.allowed {
			t.Errorf("origin %q with AllowOrigins(%q): %v", test.origin, test.pattern, err)
		}
	}
}

func TestPatternsOfNestedAllowOriginsAddUp(t *testing.T) {
	for _, o := range []string{"https://a.example", "https://b.example", "https://own.example"} {
		if err := checkedBehind("own.example", []string{o}, "https://a.example", "https://b.example"); err != nil {
			t.Error(err)
		}
	}
	if checkedBehind("own.example", []string{"https://c.example"}, "https://a.example", "https://b.example") == nil {
		t.Error("an origin that neither names was allowed")
	}
}

func TestRequestsWithoutOriginPass(t *testing.T) {
	if err := checkedBehind("example.com", nil); err != nil {
		t.Error(err)
	}
}

func TestTwoOriginHeadersAreRefused(t *testing.T) {
	err := checkedBehind("example.com", []string{"https://example.com", "https://example.com"}, "*")
	if err == nil {
		t.Error("two Origin headers passed")
	}
}

func TestARefusedOriginIsNamedInOneShortLine(t *testing.T) {
	status, line := refusal(checkedBehind("own.example", []string{"https://evil.example\n" + strings.Repeat("x", 10_000)}), 500)
	if status != 403 || len(line) > 200 || strings.Count(line, "\n") != 0 ||
		!strings.HasPrefix(line, `origin "https://evil.example\nxxx`) {
		t.Errorf("answer = %d %q", status, line)
	}
}

func FuzzCheckOrigin(f *testing.F) {
	for _, o := range []string{"https://example.com", "http://[::1]:80", "null", "", "https://a.b.example", "//x", "a://%41", "https://x:0"} {
		f.Add(o, "example.com", "https://*.example")
	}
	for _, pattern := range []string{"null", "file://", "http://localhost:*"} {
		f.Add(pattern, "localhost:8080", pattern)
	}
	f.Fuzz(func(t *testing.T, from, host, pattern string) {
		err := checkedBehind(host, []string{from})
		if o, ok := parseOrigin(from); err == nil && !ok {
			t.Errorf("%q passed at %q and is no origin", from, host)
		} else if again, _ := parseOrigin(o.scheme + "://" + o.host + ":" + o.port); ok && o.port != "" && again != o {
			t.Errorf("%q is %+v, and that is %+v", from, o, again)
		}
		if err != nil && (strings.ContainsAny(err.Error(), "\r\n") || len(err.Error()) > 500) {
			t.Errorf("error %q", err)
		}
		if p, ok := parseOriginPattern(pattern); ok {
			before := err
			if err := checkedBehind(host, []string{from}, pattern); err != nil && before == nil {
				t.Errorf("AllowOrigins(%q) took %q at %q away: %v", pattern, from, host, err)
			} else if err == nil && before != nil && !p.any && p.literal == "" && !strings.HasPrefix(strings.ToLower(from), p.scheme+"://") {
				t.Errorf("AllowOrigins(%q) let %q in", pattern, from)
			}
		}
	})
}

func TestAllowOriginsPanicsNamingThePattern(t *testing.T) {
	for _, pattern := range []string{
		"", "example.com", "*.example.com", "https://", "https://*", "https://*.", "https://a.*.com", "https://*.*.com",
		"https://example.com/", "https://example.com/path", "https://user@example.com", "https://example.com?a",
		"https://example.com#", "https://example.com:", "https://example.com:8443:*", "http://example.com:80:*", "https://example.com::*", "https://*:*",
		"https://example.com:0443", "http://localhost:**", "file:///", "file://host/", "NULL", "https://[::1:*",
		"https://example.com:99999", "https://exämple.com", "https://a b", "https://[::1", "https://[1.2.3.4]",
		"https://*.[::1]", "https://*.127.0.0.1", "wss://example.com", "**", "https://example.com\n",
	} {
		func() {
			defer func() {
				if message := fmt.Sprint(recover()); !strings.Contains(message, fmt.Sprintf("%q", pattern)) {
					t.Errorf("AllowOrigins(%q) panicked with %q", pattern, message)
				}
			}()
			AllowOrigins("https://example.com", pattern)
		}()
	}
}
