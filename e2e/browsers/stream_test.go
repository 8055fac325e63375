package browsers

import (
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

// withUpgrades returns what is around the hub's endpoint where a proxy does something to upgrades.
func withUpgrades(do http.HandlerFunc) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Upgrade") != "" {
				do(w, r)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

func refuseUpgrade(w http.ResponseWriter, _ *http.Request) {
	http.Error(w, "no upgrades here", http.StatusBadRequest)
}

func cutUpgrade(w http.ResponseWriter, _ *http.Request) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err == nil {
		conn.Close()
	}
}

func hangUpgrade(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

func TestAStreamTakesThePlaceOfAWebSocketThatIsBlocked(t *testing.T) {
	for name, block := range map[string]http.HandlerFunc{"refused": refuseUpgrade, "cut": cutUpgrade, "left hanging": hangUpgrade} {
		t.Run(name, func(t *testing.T) {
			inEach(t, func(t *testing.T, b browser) {
				s := newSite(t, withUpgrades(block))
				tab := s.open(b, `{}`)
				if got := tab.eval(`[hub.transport, log.closes.length]`); got != `["stream",2]` {
					t.Errorf("transport and closes are %s", got)
				}
				wait(tab, `hub.state === "open"`)
				s.send(50)
				if err := s.hub.GroupClose(t.Context(), "g", 1012, "restart"); err != nil {
					t.Fatal(err)
				}
				s.send(50)
				s.wantAll(tab)
				wait(tab, `hub.state === "open"`)
				if got := tab.eval(`hub.transport`); got != `"stream"` {
					t.Errorf("the transport is %s", got)
				}
			})
		})
	}
}

func TestMessagesGoOutInOrderBesideAStream(t *testing.T) {
	inEach(t, func(t *testing.T, b browser) {
		s := newSite(t, nil)
		tab := s.open(b, `{"transport": "stream"}`)
		const n = 100
		tab.eval(`(() => {
			window.echoes = []
			hub.on("echo", data => echoes.push(data))
			for (let i = 0; i < ` + itoa(n) + `; i++) hub.send(i)
		})()`)
		wait(tab, `echoes.length >= `+itoa(n))
		var want []string
		for i := range n {
			want = append(want, strconv.Itoa(i))
		}
		if got := tab.eval(`echoes`); got != "["+strings.Join(want, ",")+"]" {
			t.Errorf("the echoes are %s", got)
		}
	})
}

func TestADeadPathOfAStreamIsNoticed(t *testing.T) {
	inEach(t, func(t *testing.T, b browser) {
		s := newSite(t, nil)
		tab := s.open(b, `{"heartbeat": 5000, "transport": "stream"}`)
		s.send(1)
		s.wantAll(tab)
		start := time.Now()
		s.proxy.kill()
		s.send(1)
		s.wantAll(tab)
		// The browser may try the connections first that it has kept, whose path is dead as well.
		if took := time.Since(start); took < 12*time.Second || took > 28*time.Second {
			t.Errorf("noticed after %v, want two and a half intervals of five seconds", took)
		}
		if got := tab.eval(`log.closes.map(close => close.reason)`); got != `["silence"]` {
			t.Errorf("the closes are %s", got)
		}
	})
}

func TestAPageThatComesBackGoesOnWithItsStream(t *testing.T) {
	inEach(t, func(t *testing.T, b browser) {
		s := newSite(t, nil)
		tab := s.open(b, `{"transport": "stream"}`)
		for range 2 {
			s.send(1)
			s.wantAll(tab)
			tab.navigate(s.url + "/other")
			s.send(1)
			tab.back()
			wait(tab, `document.title === "test" && window.hub?.state === "open"`)
			s.wantAll(tab)
		}
	})
}

func TestARefusedStreamIsFinal(t *testing.T) {
	inEach(t, func(t *testing.T, b browser) {
		s := newSite(t, func(http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { http.Error(w, "no such room", http.StatusNotFound) })
		})
		tab := b.open(s.at(`{"transport": "stream"}`))
		wait(tab, `window.hub?.state === "closed"`)
		if got := tab.eval(`log.closes`); got != `[{"code":4404,"reason":"no such room","willReconnect":false,"delay":0}]` {
			t.Errorf("the closes are %s", got)
		}
	})
}
