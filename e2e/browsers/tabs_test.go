package browsers

import (
	"testing"

	"github.com/seed-29c60982/grouphub/e2e/engine"
)

// Over HTTP/1.1 a browser has six connections to a host, for streams and requests. WebSockets
// do not count.
func TestSixTabsWithStreamsLeaveNoConnectionUntilOneEnds(t *testing.T) {
	engine.Each(t, func(t *testing.T, b engine.Browser) {
		for _, c := range clients {
			t.Run(c.name, func(t *testing.T) {
				s := newSite(t, nil)
				var tabs []engine.Tab
				for range 6 {
					tabs = append(tabs, s.open(b, c.options))
				}
				s.send(10)
				for _, tab := range tabs {
					s.wantAll(tab)
				}
				first, last := tabs[0], tabs[5]
				first.Eval(`(() => {
					window.echoes = []
					window.hub?.on("echo", data => echoes.push(data))
					for (let i = 0; i < 3; i++) window.hub?.send(i)
					fetch("/other").then(() => { window.answered = true })
				})()`)
				if c.streams {
					first.Eval(`new Promise(resolve => setTimeout(resolve, 500))`)
					if first.Eval(`window.answered ?? false`) == "true" {
						t.Error("a request was answered while six streams were open")
					}
					last.Eval(`(window.hub ?? source).close()`)
				}
				wait(first, `window.answered && (!window.hub || echoes.length >= 3)`)
				if got := first.Eval(`echoes`); c.options != "" && got != "[0,1,2]" {
					t.Errorf("the echoes are %s", got)
				}
				s.send(1)
				s.wantAll(first)
			})
		}
	})
}
