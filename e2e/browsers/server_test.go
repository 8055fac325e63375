package browsers

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/seed-29c60982/grouphub"
)

// pageHTML has a GroupHub in window.hub, whose options are the URL's parameter "options", and
// notes what it hears in window.log.
const pageHTML = `<!DOCTYPE html><meta charset="utf-8"><title>test</title>
<script type="module" src="/page.js"></script>
<body>`

const pageScript = `
import {GroupHub} from "/client.js"

const query = new URLSearchParams(location.search)
const {log, positions} = JSON.parse(sessionStorage.kept ?? "{}")
window.log = log ?? {events: [], closes: [], opens: 0, resyncs: []}
window.hub = new GroupHub(query.get("to") ?? "/ws", {positions, ...JSON.parse(query.get("options") ?? "{}")})
hub.on("n", n => window.log.events.push(n))
hub.on("open", () => window.log.opens++)
hub.on("close", close => window.log.closes.push(close))
hub.on("resync", group => window.log.resyncs.push(group))
// What a page does that wants to go on where it was, whether or not the browser keeps it.
addEventListener("pagehide", () => { sessionStorage.kept = JSON.stringify({log: window.log, positions: hub.positions}) })
addEventListener("pageshow", ({persisted}) => { window.persisted = persisted })
`

// A site is a server with a page and a hub, behind a proxy that can let the paths through it die.
type site struct {
	t     *testing.T
	hub   *grouphub.Hub
	proxy *proxy
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
	p := newProxy(t, server.Listener.Addr().String())
	t.Cleanup(func() {
		if err := hub.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		server.CloseClientConnections()
		server.Close()
	})
	return &site{t: t, hub: hub, proxy: p, url: "http://" + p.listener.Addr().String()}
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
func (s *site) wantAll(tab tab) {
	s.t.Helper()
	wait(tab, "log.events.length >= "+itoa(s.sent))
	var want strings.Builder
	for n := range s.sent {
		if n > 0 {
			want.WriteByte(',')
		}
		want.WriteString(itoa(n + 1))
	}
	if got := tab.eval("log.events"); got != "["+want.String()+"]" {
		s.t.Errorf("the page has %s, want %s", got, want.String())
	}
	if got := tab.eval("log.resyncs"); got != "[]" {
		s.t.Errorf("a resync for %s", got)
	}
}

// A proxy passes bytes on, until the paths through it die.
type proxy struct {
	listener net.Listener
	target   string

	mu    sync.Mutex
	ends  []net.Conn
	alive *life // of the connections that are made now
}

// A life says whether connections pass bytes on.
type life struct {
	mu   sync.Mutex
	over bool
}

func newProxy(t *testing.T, target string) *proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{listener: listener, target: target, alive: new(life)}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			running.Go(func() { p.pass(conn) })
		}
	})
	t.Cleanup(func() {
		listener.Close()
		p.mu.Lock()
		for _, end := range p.ends {
			end.Close()
		}
		p.mu.Unlock()
		running.Wait()
	})
	return p
}

// kill has all connections that there are fall silent, without an end.
func (p *proxy) kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.alive.mu.Lock()
	p.alive.over = true
	p.alive.mu.Unlock()
	p.alive = new(life)
}

func (p *proxy) pass(client net.Conn) {
	server, err := net.Dial("tcp", p.target)
	if err != nil {
		client.Close()
		return
	}
	p.mu.Lock()
	p.ends = append(p.ends, client, server)
	alive := p.alive
	p.mu.Unlock()
	var both sync.WaitGroup
	for from, to := range map[net.Conn]net.Conn{client: server, server: client} {
		both.Go(func() { alive.pass(from, to) })
	}
	both.Wait()
}

func (l *life) pass(from, to net.Conn) {
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		l.mu.Lock()
		over := l.over
		l.mu.Unlock()
		if over {
			if err != nil {
				return
			}
			continue
		}
		if _, failed := to.Write(buffer[:n]); err != nil || failed != nil {
			from.Close()
			to.Close()
			return
		}
	}
}
