// Package origin compares the origins of web pages.
package origin

import (
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/seed-29c60982/grouphub/internal/name"
)

// An Origin is in lower case, and its Port is empty if it is the scheme's own.
type Origin struct{ Scheme, Host, Port string }

// hostLetters are what a host name is made of. ToLower would make ASCII of some
// other letters, so the host is checked as it came.
const hostLetters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_."

// Parse is strict: what a browser would not send is no origin.
func Parse(s string) (Origin, bool) {
	u, err := url.Parse(s)
	// Whatever else a URL may have, user, path, query or escapes, shows here.
	if err != nil || !strings.EqualFold(u.Scheme+"://"+u.Host, s) {
		return Origin{}, false
	}
	o := Origin{u.Scheme, strings.ToLower(u.Hostname()), u.Port()}
	if strings.HasPrefix(u.Host, "[") {
		address, err := netip.ParseAddr(o.Host)
		if err != nil || !address.Is6() {
			return Origin{}, false
		}
		o.Host = "[" + address.String() + "]"
	} else if o.Host == "" || strings.Trim(u.Hostname(), hostLetters) != "" {
		return Origin{}, false
	}
	if n, err := strconv.ParseUint(o.Port, 10, 16); o.Port == "" {
		if strings.HasSuffix(u.Host, ":") {
			return Origin{}, false
		}
	} else if err != nil || strconv.FormatUint(n, 10) != o.Port {
		return Origin{}, false
	}
	if o.Scheme == "http" && o.Port == "80" || o.Scheme == "https" && o.Port == "443" {
		o.Port = ""
	}
	return o, true
}

// A Pattern says which origins are allowed.
type Pattern struct {
	Origin
	subdomains bool // those of Host, and not Host itself
	Any        bool // whatever the header says
}

// ParsePattern parses an origin, an origin with *. before its host, or *.
func ParsePattern(s string) (Pattern, bool) {
	if s == "*" {
		return Pattern{Any: true}, true
	}
	scheme, host, _ := strings.Cut(s, "://")
	host, subdomains := strings.CutPrefix(host, "*.")
	o, ok := Parse(scheme + "://" + host)
	_, err := netip.ParseAddr(strings.Trim(o.Host, "[]"))
	switch {
	case subdomains && err == nil: // an address has no subdomains,
		ok = false
	case o.Scheme == "ws" || o.Scheme == "wss": // and no page is at ws:
		ok = false
	}
	return Pattern{Origin: o, subdomains: subdomains}, ok
}

// Match reports whether the pattern allows an origin.
func (p Pattern) Match(o Origin) bool {
	if p.subdomains && len(o.Host) > len(p.Host)+1 && strings.HasSuffix(o.Host, "."+p.Host) {
		o.Host = p.Host
	} else if p.subdomains {
		return false
	}
	return o == p.Origin
}

// Fault says why a request's origin is neither the server's own nor among the allowed, ""
// if it is, or if the request has none.
func Fault(r *http.Request, allowed []Pattern) string {
	header := r.Header["Origin"]
	if len(header) == 0 {
		return ""
	}
	if len(header) > 1 {
		return fmt.Sprintf("%d Origin headers, want one", len(header))
	}
	from, ok := Parse(header[0])
	// Behind a proxy that ends TLS nobody here knows the page's scheme, so the
	// host and port have to do. Taking the origin's scheme for both drops the
	// same default port from both. Where TLS ends here, the page's was https.
	own, valid := from, ok
	if _, host, _ := strings.Cut(header[0], "://"); host != r.Host { // as it nearly never is
		own, valid = Parse(from.Scheme + "://" + r.Host)
	}
	if ok && valid && from == own && (r.TLS == nil || from.Scheme == "https") {
		return ""
	}
	if slices.ContainsFunc(allowed, func(p Pattern) bool { return p.Any || ok && p.Match(from) }) {
		return ""
	}
	return "origin " + name.Quote(header[0]) + " is not allowed"
}
