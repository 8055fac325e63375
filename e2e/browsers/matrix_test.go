package browsers

import (
	"strconv"
	"testing"
	"time"

	"github.com/seed-29c60982/grouphub/e2e/engine"
)

// A client is what a page has.
type client struct {
	name    string
	options string // of a GroupHub; none for an EventSource
	streams bool
}

const heartbeat = 5 * time.Second

var clients = []client{
	{"client.js by WebSocket", `{"maxDelay": 500, "heartbeat": 5000, "transport": "websocket"}`, false},
	{"client.js by stream", `{"maxDelay": 500, "heartbeat": 5000, "transport": "stream"}`, true},
	{"EventSource", "", true},
}

// Incidents are what can happen to a page. Each is survived without a gap and without a repeat.
var incidents = []struct {
	name   string
	happen func(t *testing.T, b engine.Browser, c client, s *site, tab engine.Tab)
}{
	{"the server closes", func(t *testing.T, b engine.Browser, c client, s *site, tab engine.Tab) {
		rounds := 5
		if c.streams { // which come back after the random time that the close names
			rounds = 1
		}
		for range rounds {
			s.send(10)
			if err := s.hub.GroupClose(t.Context(), "g", 1012, "restart"); err != nil {
				t.Fatal(err)
			}
			s.send(10)
			s.wantAll(tab)
			wait(tab, `isOpen()`)
		}
	}},
	{"the connection is reset", func(t *testing.T, b engine.Browser, c client, s *site, tab engine.Tab) {
		for range 2 {
			s.send(10)
			s.proxy.Cut()
			s.send(10)
			s.wantAll(tab)
			wait(tab, `isOpen()`)
		}
	}},
	{"nobody listens for a while", func(t *testing.T, b engine.Browser, c client, s *site, tab engine.Tab) {
		s.proxy.Refuse()
		wait(tab, `log.closes.length >= 2`) // the second one is an attempt that has failed
		s.send(10)
		s.proxy.Listen()
		s.wantAll(tab)
	}},
	{"the path dies in silence", func(t *testing.T, b engine.Browser, c client, s *site, tab engine.Tab) {
		if c.options == "" {
			t.Skip("an EventSource does not notice")
		}
		start := time.Now()
		s.proxy.Kill()
		s.send(1)
		s.wantAll(tab)
		// The request for a stream may go to a connection that the browser has kept, whose path is
		// dead as well: that takes six seconds, and perhaps twice.
		least, most := heartbeat*5/2-time.Second, 20*time.Second
		if c.streams {
			most += 12 * time.Second
		}
		if took := time.Since(start); took < least || took > most {
			t.Errorf("noticed after %v, want two and a half intervals of %v", took, heartbeat)
		}
		if got := tab.Eval(`log.closes.map(close => close.reason)`); got != `["silence"]` {
			t.Errorf("the closes are %s", got)
		}
		// The path is alive now, and quiet.
		tab.Eval(`new Promise(resolve => setTimeout(resolve, ` + strconv.FormatInt((heartbeat*14/5).Milliseconds(), 10) + `))`)
		if got := tab.Eval(`log.closes.length`); got != "1" {
			t.Errorf("%s closes on a quiet path", got)
		}
	}},
	// Chromium keeps the page, and so does WebKit. Firefox would, if the connection had ended before
	// it began to leave; there the page is loaded anew, and goes on from where it knows it was.
	{"the visitor leaves and comes back", func(t *testing.T, b engine.Browser, c client, s *site, tab engine.Tab) {
		for range 2 {
			tab.Navigate(s.url + "/other")
			s.send(1)
			tab.Back()
			wait(tab, `document.title === "test" && window.isOpen?.()`)
			s.wantAll(tab)
		}
		if persisted := tab.Eval(`persisted`) == "true"; !persisted && b.Name() != "Firefox" && c.options != "" {
			t.Error("the page was loaded anew")
		} else {
			t.Logf("from the cache: %v", persisted)
		}
	}},
	{"the page is frozen", func(t *testing.T, b engine.Browser, c client, s *site, tab engine.Tab) {
		for range 2 {
			tab.Freeze()
			s.send(3)
			tab.Thaw()
			s.wantAll(tab)
		}
		tab.Freeze()
		s.send(3)
		s.proxy.Cut()
		s.send(3)
		tab.Thaw()
		s.wantAll(tab)
	}},
	{"the network goes away", func(t *testing.T, b engine.Browser, c client, s *site, tab engine.Tab) {
		phone, ok := tab.(engine.Phone)
		if !ok {
			t.Skip("WebKit has no command for that")
		}
		phone.Offline(true)
		if c.options != "" { // an EventSource may be connected all the same
			wait(tab, `log.closes.length > 0`)
			if got := tab.Eval(`log.closes[0].reason`); got != `"offline"` {
				t.Errorf("the reason is %s", got)
			}
		}
		s.send(1)
		phone.Offline(false)
		s.wantAll(tab)
	}},
}

func TestAPageMissesNothing(t *testing.T) {
	engine.Each(t, func(t *testing.T, b engine.Browser) {
		for _, c := range clients {
			t.Run(c.name, func(t *testing.T) {
				for _, incident := range incidents {
					t.Run(incident.name, func(t *testing.T) {
						s := newSite(t, nil)
						tab := s.open(b, c.options)
						s.send(1)
						s.wantAll(tab)
						incident.happen(t, b, c, s, tab)
						// It is open, or will be, and hears what comes.
						s.send(1)
						s.wantAll(tab)
					})
				}
			})
		}
	})
}
