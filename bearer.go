package grouphub

import (
	"cmp"
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

const (
	// bearerProtocol begins the subprotocol by which a page's WebSocket, which can set no
	// header, sends a token.
	bearerProtocol = "grouphub.bearer."
	// bearerParameter is the URL parameter for clients that can send nothing else.
	bearerParameter = "access_token"
)

// Bearer returns a function for [Authenticate] that asks verify who has sent a token. The token is
// that of the header "Authorization: Bearer <token>"; else of the subprotocol
// "grouphub.bearer.<token>", which a page's WebSocket can offer beside a real one; else the URL
// parameter access_token. A request without a token gets 401. To let strangers in, call Bearer
// only where there is one.
//
// The handshake is answered by the real subprotocol, or by that of the token where there is no
// other, since browsers insist on an answer; [Conn.Subprotocol] is empty then. URLs get into
// logs, so Authenticate passes a request on without the parameter, and a connection's Request
// has no subprotocol with a token. Proxies and servers in front may still log the URL: tokens
// in it should not live long.
func Bearer(verify func(ctx context.Context, token string) (User, error)) func(*http.Request) (User, error) {
	return func(r *http.Request) (User, error) {
		token := headerToken(r)
		if r.URL.RawQuery != "" && r.URL.Query().Has(bearerParameter) {
			token = cmp.Or(token, r.URL.Query().Get(bearerParameter))
			if inURL, ok := r.Context().Value(tokenInURLKey{}).(*bool); ok {
				*inURL = true
			}
		}
		if token == "" {
			return User{}, &Reject{http.StatusUnauthorized, "a bearer token is missing"}
		}
		return verify(r.Context(), token)
	}
}

// tokenInURLKey is the context key of a *bool, by which Bearer tells Authenticate that the URL has
// its parameter.
type tokenInURLKey struct{}

// headerToken returns the token in a request's header, "" if there is none.
func headerToken(r *http.Request) string {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if token = strings.TrimSpace(token); token != "" && strings.EqualFold(scheme, "Bearer") {
		return token
	}
	for _, offered := range listed(r.Header[protocolHeader]) {
		if token, ok := strings.CutPrefix(offered, bearerProtocol); ok && token != "" {
			return token
		}
	}
	return ""
}

const protocolHeader = "Sec-Websocket-Protocol"

// subprotocol returns the one by which a handshake is answered, "" if there is none: what the
// consumer prefers of those that the client offers, else the one with a token.
func (e *endpoint) subprotocol(r *http.Request) string {
	offered := listed(r.Header[protocolHeader])
	for _, known := range e.consumer.Subprotocols {
		if slices.Contains(offered, known) {
			return known
		}
	}
	if i := slices.IndexFunc(offered, isBearerProtocol); i >= 0 {
		return offered[i]
	}
	return ""
}

func isBearerProtocol(protocol string) bool { return strings.HasPrefix(protocol, bearerProtocol) }

// answerSubprotocol has the handshake answered by a subprotocol, which gorilla takes from the
// response's header. One that a middleware has set there counts where the consumer has none.
func (e *endpoint) answerSubprotocol(header http.Header, protocol string) {
	if len(e.consumer.Subprotocols) > 0 {
		header.Del(protocolHeader)
	}
	if protocol != "" && header.Get(protocolHeader) == "" {
		header.Set(protocolHeader, protocol)
	}
}

// withoutBearerProtocol returns a request's header without subprotocols that have a token, which
// would stay in memory with the connection. The header itself is not changed.
func withoutBearerProtocol(header http.Header) http.Header {
	offered := listed(header[protocolHeader])
	if !slices.ContainsFunc(offered, isBearerProtocol) {
		return header
	}
	header = header.Clone()
	header.Del(protocolHeader)
	if offered = slices.DeleteFunc(offered, isBearerProtocol); len(offered) > 0 {
		header.Set(protocolHeader, strings.Join(offered, ", "))
	}
	return header
}

// withoutParameter returns a copy of a request whose URL does not have a parameter.
func withoutParameter(r *http.Request, name string) *http.Request {
	var rest []string
	for pair := range strings.SplitSeq(r.URL.RawQuery, "&") {
		key, _, _ := strings.Cut(pair, "=")
		if key, err := url.QueryUnescape(key); err != nil || key != name {
			rest = append(rest, pair)
		}
	}
	r = r.WithContext(r.Context())
	u := *r.URL
	u.RawQuery = strings.Join(rest, "&")
	r.URL, r.RequestURI = &u, u.RequestURI()
	r.Form, r.PostForm = nil, nil // if they were parsed, it was from the old URL; they can be parsed again
	return r
}
