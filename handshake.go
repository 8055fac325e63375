package grouphub

import (
	"encoding/base64"
	"errors"
	"net/http"
	"slices"
	"strings"
)

// checkHandshake returns a status and the reason why a request for an upgrade cannot be
// granted, nil if it can. It is asked before Accept, which may reserve something that nobody
// would give back. gorilla checks most of this again.
func checkHandshake(w http.ResponseWriter, r *http.Request) (status int, reason error) {
	key, err := base64.StdEncoding.DecodeString(r.Header.Get("Sec-Websocket-Key"))
	switch {
	case r.Method != http.MethodGet:
		return http.StatusMethodNotAllowed, errors.New("not a WebSocket handshake: the method is not GET")
	case r.ContentLength != 0 || len(r.TransferEncoding) > 0:
		// The body would be taken for frames, whoever has chosen it.
		return http.StatusBadRequest, errors.New("not a WebSocket handshake: it has a body")
	case !slices.Contains(listed(r.Header["Sec-Websocket-Version"]), "13"):
		return http.StatusBadRequest, errors.New("unsupported version: 13 not found in 'Sec-WebSocket-Version' header")
	case err != nil || len(key) != 16:
		return http.StatusBadRequest, errors.New("not a WebSocket handshake: 'Sec-WebSocket-Key' is not the Base64 of 16 bytes")
	case w.Header()["Sec-Websocket-Extensions"] != nil:
		return http.StatusInternalServerError, errors.New("a middleware has set Sec-WebSocket-Extensions")
	case !canHijack(w):
		return http.StatusInternalServerError, errCannotHijack
	}
	return 0, nil
}

var errCannotHijack = errors.New("grouphub: upgrade: the server, or a middleware, cannot hijack")

// canHijack reports whether http.ResponseController.Hijack will find somebody to ask.
func canHijack(w http.ResponseWriter) bool {
	for {
		switch t := w.(type) {
		case http.Hijacker:
			return true
		case interface{ Unwrap() http.ResponseWriter }:
			w = t.Unwrap()
		default:
			return false
		}
	}
}

// canFlush is canHijack for http.ResponseController.Flush.
func canFlush(w http.ResponseWriter) bool {
	for {
		switch t := w.(type) {
		case http.Flusher, interface{ FlushError() error }:
			return true
		case interface{ Unwrap() http.ResponseWriter }:
			w = t.Unwrap()
		default:
			return false
		}
	}
}

// listed returns the elements of a header that is a list, on however many lines.
func listed(lines []string) []string {
	var elements []string
	for _, line := range lines {
		for element := range strings.SplitSeq(line, ",") {
			if element = strings.Trim(element, " \t"); element != "" {
				elements = append(elements, element)
			}
		}
	}
	return elements
}

// forUpgrader returns the request as gorilla has to see it to negotiate what the client means:
// it accepts an offer of compression whose parameters it ignores.
func forUpgrader(r *http.Request) *http.Request {
	const extensions = "Sec-Websocket-Extensions"
	offers := listed(r.Header[extensions])
	if !slices.ContainsFunc(offers, func(offer string) bool { return !acceptable(offer) }) {
		return r
	}
	changed := r.WithContext(r.Context())
	changed.Header = r.Header.Clone()
	changed.Header.Del(extensions)
	if offers = slices.DeleteFunc(offers, func(offer string) bool { return !acceptable(offer) }); len(offers) > 0 {
		changed.Header.Set(extensions, strings.Join(offers, ", "))
	}
	return changed
}

// acceptable reports whether an extension that a client offers can be accepted, as RFC 7692,
// 7.1, has it: permessage-deflate, with parameters that are known and appear once. This side
// compresses with a window of 32 KiB, so an offer with a smaller one is declined.
func acceptable(offer string) bool {
	name, rest, more := strings.Cut(offer, ";")
	if strings.TrimSpace(name) != "permessage-deflate" {
		return false
	}
	seen := make(map[string]bool)
	for more {
		var parameter string
		parameter, rest, more = strings.Cut(rest, ";")
		key, value, valued := strings.Cut(parameter, "=")
		key, value = strings.TrimSpace(key), strings.Trim(strings.TrimSpace(value), `"`)
		if seen[key] {
			return false
		}
		seen[key] = true
		switch key {
		case "server_no_context_takeover", "client_no_context_takeover":
			if valued {
				return false
			}
		case "client_max_window_bits":
			if valued && !slices.Contains(windowBits, value) {
				return false
			}
		case "server_max_window_bits":
			if value != "15" {
				return false
			}
		default:
			return false
		}
	}
	return true
}

// windowBits are the sizes of a window that a client may name, as logarithms.
var windowBits = []string{"8", "9", "10", "11", "12", "13", "14", "15"}
