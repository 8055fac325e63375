package browsers

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/e2e/engine"
	"github.com/seed-29c60982/grouphub/e2e/network"
)

// pageHTML is a page with a client, which notes what it hears in window.log.
const pageHTML = `<!DOCTYPE html><meta charset="utf-8"><title>test</title>
<script type="module" src="/page.js"></script>
<body>`

// The URL's parameter "options" has the options of a GroupHub; without it the client is a bare
// EventSource. Both do what a page does that wants to go on where it was, whether or not the
// browser keeps it.
const pageScript = `
import {GroupHub} from "/client.js"

const query = new URLSearchParams(location.search)
const kept = JSON.parse(sessionStorage.kept ?? "{}")
window.log = kept.log ?? {events: [], closes: [], opens: 0, resyncs: []}
let place = () => undefined // where the page stands, for the next one

if (query.has("options")) {
	window.hub = new GroupHub(query.get("to") ?? "/ws", {positions: kept.place, ...JSON.parse(query.get("options"))})
	window.isOpen = () => hub.state === "open"
	window.hasJoined = () => "g" in hub.positions
	place = () => hub.positions
	hub.on("n", n => window.log.events.push(n))
	hub.on("open", () => window.log.opens++)
	hub.on("close", close => window.log.closes.push(close))
	hub.on("resync", group => window.log.resyncs.push(group))
} else {
	let last = kept.place
	window.isOpen = () => source.readyState === EventSource.OPEN
	window.hasJoined = () => last !== undefined
	place = () => last
	const connect = () => {
		window.source = new EventSource(last ? "/ws?lastEventId=" + last : "/ws")
		source.onopen = () => window.log.opens++
		source.addEventListener("grouphub.position", ({lastEventId}) => { last = lastEventId })
		source.onmessage = ({data, lastEventId}) => {
			last = lastEventId
			const event = JSON.parse(data)
			if (event.type === "n") window.log.events.push(event.data)
			if (event.type === "resync") window.log.resyncs.push(event.group)
		}
		source.onerror = () => {
			window.log.closes.push({})
			// Firefox gives up where nobody listens, for a server that starts anew is nobody for a while.
			if (source.readyState === EventSource.CLOSED) setTimeout(connect, 500)
		}
	}
	connect()
}
addEventListener("pagehide", () => { sessionStorage.kept = JSON.stringify({log: window.log, place: place()}) })
addEventListener("pageshow", ({persisted}) => { window.persisted = persisted })
`

// A site is a server with a page and a hub, behind a proxy that can let the paths through it die.
type site struct {
	t     *testing.T
	hub   *grouphub.Hub
	proxy *network.Proxy
	url   string
	sent  int
}

// newSite starts a site. wrap is around the hub's endpoint, nil for nothing, and headers are
// those of the page, in pairs.
func newSite(t *testing.T, wrap func(http.Handler) http.Handler, headers ...string) *site {
	t.Helper()
	hub := grouphub.New(&grouphub.Options{
		Policy: func(string) grouphub.GroupPolicy { return grouphub.GroupPolicy{History: 1000} },
		Logger: slog.New(slog.DiscardHandler),
		Consumer: grouphub.Consumer{
			Connect: func(c *grouphub.Conn) error { return c.Join("g") },
			Receive: func(c *grouphub.Conn, m grouphub.Message) error {
				return c.SendJSON(grouphub.Event{Type: "echo", Data: m.Data})
			},
			Events: grouphub.Events{"n": grouphub.Forward()},
		},
	})
	mux := http.NewServeMux()
	html := func(text string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			for i := 0; i < len(headers); i += 2 {
				w.Header().Set(headers[i], headers[i+1])
			}
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			io.WriteString(w, text)
		}
	}
	mux.HandleFunc("GET /{$}", html(pageHTML))
	mux.HandleFunc("GET /other", html(`<!DOCTYPE html><title>other</title><p>another page`))
	mux.HandleFunc("GET /page.js", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/javascript; charset=utf-8")
		io.WriteString(w, pageScript)
	})
	mux.Handle("GET /client.js", grouphub.ClientJS())
	var endpoint http.Handler = hub
	if wrap != nil {
		endpoint = wrap(endpoint)
	}
	mux.Handle("/ws", endpoint)
	server := httptest.NewServer(mux)
	p := network.NewProxy(t, server.Listener.Addr().String())
	t.Cleanup(func() {
		if err := hub.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		server.CloseClientConnections()
		server.Close()
	})
	return &site{t: t, hub: hub, proxy: p, url: "http://" + p.Address}
}

// send sends so many numbers to the group, going on where it was.
func (s *site) send(n int) {
	s.t.Helper()
	for range n {
		s.sent++
		if err := s.hub.GroupSend(s.t.Context(), "g", "n", s.sent); err != nil {
			s.t.Fatal(err)
		}
	}
}

// wantAll waits until the page has all numbers, and fails the test unless it has each
// of them once, in order.
func (s *site) wantAll(tab engine.Tab) {
	s.t.Helper()
	wait(tab, "log.events.length >= "+strconv.Itoa(s.sent))
	var want strings.Builder
	for n := range s.sent {
		if n > 0 {
			want.WriteByte(',')
		}
		want.WriteString(strconv.Itoa(n + 1))
	}
	if got := tab.Eval("log.events"); got != "["+want.String()+"]" {
		s.t.Errorf("the page has %s, want %s", got, want.String())
	}
	if got := tab.Eval("log.resyncs"); got != "[]" {
		s.t.Errorf("a resync for %s", got)
	}
}
