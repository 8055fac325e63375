package grouphub

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// AllowHosts returns middleware that passes a request on if its Host header has one of the
// given hosts, and refuses it with 403 otherwise. A host is "example.com", with any port,
// "example.com:8443", with that port in the header, or "*.example.com", which stands for the
// subdomains of any depth. AllowHosts panics if one is none of these.
//
// It is for servers that a browser can reach and others cannot: on the same machine, or in a
// network of its own. Whoever owns a name can have it lead to such an address after a browser
// has loaded his page. His page is then of the server's own origin, so that neither the
// browser nor the hub refuses what it asks for, but its requests still name his host.
//
// AllowHosts works for any handler, not only for a hub, and belongs in front of all of them.
// Refused requests are counted and logged as those of [Authenticate] are.
func AllowHosts(hosts ...string) func(http.Handler) http.Handler {
	allowed := make([]originPattern, len(hosts))
	for i, host := range hosts {
		var ok bool
		if allowed[i], ok = parseHostPattern(host); !ok {
			panic(fmt.Sprintf("grouphub: AllowHosts: %s is not a host, such as example.com, localhost:8080, "+
				"or *.example.com", quoted(host)))
		}
	}
	return func(next http.Handler) http.Handler {
		return &middleware{next, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			host, valid := parseOrigin(hostScheme + r.Host)
			if !slices.ContainsFunc(allowed, func(p originPattern) bool { return p.allows("", host, valid) }) {
				err := &Reject{http.StatusForbidden, "host " + quoted(r.Host) + " is not allowed"}
				refuseInFront(w, r, err, http.StatusForbidden, hubBehind(next, r))
				return
			}
			next.ServeHTTP(w, r)
		}}
	}
}

// hostScheme makes an origin of a host. It has no port of its own, so that every port counts
// as it is written.
const hostScheme = "host://"

// parseHostPattern parses a host of AllowHosts.
func parseHostPattern(host string) (originPattern, bool) {
	p, ok := parseOriginPattern(hostScheme + host)
	p.anyPort = p.port == ""
	return p, ok && !strings.HasSuffix(host, ":*")
}
