package browsers

import (
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/seed-29c60982/grouphub/e2e/engine"
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
			engine.Each(t, func(t *testing.T, b engine.Browser) {
				s := newSite(t, withUpgrades(block))
				tab := s.open(b, `{}`)
				if got := tab.Eval(`[hub.transport, log.closes.length]`); got != `["stream",2]` {
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
				if got := tab.Eval(`hub.transport`); got != `"stream"` {
					t.Errorf("the transport is %s", got)
				}
			})
		})
	}
}

func TestMessagesGoOutInOrderBesideAStream(t *testing.T) {
	engine.Each(t, func(t *testing.T, b engine.Browser) {
		s := newSite(t, nil)
		tab := s.open(b, `{"transport": "stream"}`)
		const n = 100
		tab.Eval(`(() => {
			window.echoes = []
			hub.on("echo", data => echoes.push(data))
			for (let i = 0; i < ` + strconv.Itoa(n) + `; i++) hub.send(i)
		})()`)
		wait(tab, `echoes.length >= `+strconv.Itoa(n))
		var want []string
		for i := range n {
			want = append(want, strconv.Itoa(i))
		}
		if got := tab.Eval(`echoes`); got != "["+strings.Join(want, ",")+"]" {
			t.Errorf("the echoes are %s", got)
		}
	})
}

func TestARefusedStreamIsFinal(t *testing.T) {
	engine.Each(t, func(t *testing.T, b engine.Browser) {
		s := newSite(t, func(http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { http.Error(w, "no such room", http.StatusNotFound) })
		})
		tab := b.Open(t, s.at(`{"transport": "stream"}`))
		wait(tab, `window.hub?.state === "closed"`)
		if got := tab.Eval(`log.closes`); got != `[{"code":4404,"reason":"no such room","willReconnect":false,"delay":0}]` {
			t.Errorf("the closes are %s", got)
		}
	})
}
