package grouphub

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// originsKey is the context key of the patterns that AllowOrigins allows.
type originsKey struct{}

// AllowOrigins returns middleware that lets browsers connect from pages of other
// origins than the server's own. A pattern is one of
//
//   - "https://example.com" or "https://example.com:8443": this scheme, host and port,
//   - "https://*.example.com": the subdomains of any depth, not example.com itself,
//   - "http://localhost:*": this scheme and host, or these subdomains, with any port,
//   - "capacitor://localhost": the pages of an application that has its own scheme,
//   - "file://": what some of these send for the pages that they were installed with,
//   - "null": pages without an origin: files, and sandboxed frames. Any site can put a page
//     of its own into such a frame, so this is hardly less than "*",
//   - "*": any page of anyone, with the user's cookies. Use it only where cookies
//     mean nothing.
//
// Scheme and host are compared without regard to case, and :80 of http and :443 of
// https may be left out. Patterns of nested calls add up. AllowOrigins panics if a
// pattern is none of the above.
//
// The server's own origin is allowed in any case: a page of http or https whose host and
// port are those of the request's Host header. Whoever owns a name can have it lead to the
// server's address, and his pages are of the same origin then, though with no cookies of
// yours. [AllowHosts] refuses such names.
func AllowOrigins(patterns ...string) func(http.Handler) http.Handler {
	allowed := make([]originPattern, len(patterns))
	for i, p := range patterns {
		var ok bool
		if allowed[i], ok = parseOriginPattern(p); !ok {
			panic(fmt.Sprintf("grouphub: AllowOrigins: %s is not an origin, such as https://example.com, "+
				"https://*.example.com, http://localhost:*, file://, null, or *", quoted(p)))
		}
	}
	return func(next http.Handler) http.Handler {
		return &middleware{next, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			outer, _ := r.Context().Value(originsKey{}).([]originPattern)
			all := slices.Concat(outer, allowed)
			next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), originsKey{}, all)))
		}}
	}
}

// checkOrigin returns the *Reject for a request that a browser sent from a page of
// another origin, unless AllowOrigins names it. What has no Origin is no browser's.
func checkOrigin(r *http.Request) error {
	allowed, _ := r.Context().Value(originsKey{}).([]originPattern)
	if fault := originFault(r, allowed); fault != "" {
		return &Reject{http.StatusForbidden, fault}
	}
	return nil
}

// allowCrossOrigin lets the page of another origin read the answer to its request, if
// AllowOrigins names its origin. A page that only "*" lets in may not send its credentials.
func allowCrossOrigin(w http.ResponseWriter, r *http.Request) {
	from := r.Header.Get("Origin")
	allowed, _ := r.Context().Value(originsKey{}).([]originPattern)
	if from == "" || len(allowed) == 0 {
		return
	}
	w.Header().Add("Vary", "Origin")
	o, ok := parseOrigin(from)
	switch {
	case slices.ContainsFunc(allowed, func(p originPattern) bool { return !p.any && p.allows(from, o, ok) }):
		w.Header().Set("Access-Control-Allow-Credentials", "true")
	case !slices.ContainsFunc(allowed, func(p originPattern) bool { return p.any }):
		return
	}
	w.Header().Set("Access-Control-Allow-Origin", from)
}

// An origin is in lower case, and its port is empty if it is the scheme's own.
type origin struct{ scheme, host, port string }

// hostLetters are what a host name is made of. ToLower would make ASCII of some
// other letters, so the host is checked as it came.
const hostLetters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_."

// parseOrigin is strict: what a browser would not send is no origin.
func parseOrigin(s string) (origin, bool) {
	u, err := url.Parse(s)
	// Whatever else a URL may have, user, path, query or escapes, shows here.
	if err != nil || !strings.EqualFold(u.Scheme+"://"+u.Host, s) {
		return origin{}, false
	}
	o := origin{u.Scheme, strings.ToLower(u.Hostname()), u.Port()}
	if strings.HasPrefix(u.Host, "[") {
		address, err := netip.ParseAddr(o.host)
		if err != nil || !address.Is6() {
			return origin{}, false
		}
		o.host = "[" + address.String() + "]"
	} else if o.host == "" || strings.Trim(u.Hostname(), hostLetters) != "" {
		return origin{}, false
	}
	if n, err := strconv.ParseUint(o.port, 10, 16); o.port == "" {
		if strings.HasSuffix(u.Host, ":") {
			return origin{}, false
		}
	} else if err != nil || strconv.FormatUint(n, 10) != o.port {
		return origin{}, false
	}
	if o.scheme == "http" && o.port == "80" || o.scheme == "https" && o.port == "443" {
		o.port = ""
	}
	return o, true
}

// An originPattern says which origins are allowed.
type originPattern struct {
	origin            // zero if what follows says all
	subdomains bool   // those of host, and not host itself
	anyPort    bool   // port is empty, and means nothing
	literal    string // what a browser sends for a page without a host: "null" or "file://"
	any        bool   // whatever the header says
}

// parseOriginPattern parses a pattern of AllowOrigins.
func parseOriginPattern(s string) (originPattern, bool) {
	switch s {
	case "*":
		return originPattern{any: true}, true
	case "null", "file://":
		return originPattern{literal: s}, true
	}
	scheme, host, _ := strings.Cut(s, "://")
	host, subdomains := strings.CutPrefix(host, "*.")
	host, anyPort := strings.CutSuffix(host, ":*")
	o, ok := parseOrigin(scheme + "://" + host)
	_, err := netip.ParseAddr(strings.Trim(o.host, "[]"))
	switch {
	case subdomains && err == nil: // an address has no subdomains,
		ok = false
	case anyPort && strings.LastIndex(host, ":") > strings.LastIndex(host, "]"): // an origin has one port,
		ok = false
	case o.scheme == "ws" || o.scheme == "wss": // and no page is at ws:
		ok = false
	}
	return originPattern{origin: o, subdomains: subdomains, anyPort: anyPort}, ok
}

// allows reports whether the pattern allows what an Origin header says. It is an origin if
// valid says so.
func (p originPattern) allows(header string, o origin, valid bool) bool {
	switch {
	case p.any:
		return true
	case p.literal != "":
		return header == p.literal
	case !valid:
		return false
	}
	if p.subdomains {
		if len(o.host) <= len(p.host)+1 || !strings.HasSuffix(o.host, "."+p.host) {
			return false
		}
		o.host = p.host
	}
	if p.anyPort {
		o.port = ""
	}
	return o == p.origin
}

// originFault says why a request's origin is neither the server's own nor among the allowed, ""
// if it is, or if the request has none.
func originFault(r *http.Request, allowed []originPattern) string {
	header := r.Header["Origin"]
	if len(header) == 0 {
		return ""
	}
	if len(header) > 1 {
		return fmt.Sprintf("%d Origin headers, want one", len(header))
	}
	from, ok := parseOrigin(header[0])
	// Behind a proxy that ends TLS nobody here knows the page's scheme, so the
	// host and port have to do. Taking the origin's scheme for both drops the
	// same default port from both. Where TLS ends here, the page's was https.
	own, valid := from, ok
	if _, host, _ := strings.Cut(header[0], "://"); host != r.Host { // as it nearly never is
		own, valid = parseOrigin(from.scheme + "://" + r.Host)
	}
	page := from.scheme == "https" || from.scheme == "http" && r.TLS == nil
	if ok && valid && from == own && page {
		return ""
	}
	if slices.ContainsFunc(allowed, func(p originPattern) bool { return p.allows(header[0], from, ok) }) {
		return ""
	}
	return "origin " + quoted(header[0]) + " is not allowed"
}
