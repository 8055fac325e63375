package e2e

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/seed-29c60982/grouphub/e2e/engine"
)

// A chatter is a page of the chat, in any browser.
type chatter struct {
	t *testing.T
	engine.Tab
}

// wait returns when the expression is true.
func (c chatter) wait(expression string) {
	c.t.Helper()
	engine.Wait(c, expression, `document.body.innerText`)
}

func (c chatter) say(text string) {
	c.t.Helper()
	c.Eval(`(() => {
		const input = document.querySelector("#say input")
		input.value = "` + text + `"
		input.form.requestSubmit()
	})()`)
}

// sees waits until exactly these messages are there, each once and in this order.
func (c chatter) sees(texts ...string) {
	c.t.Helper()
	c.wait(`[...document.querySelectorAll(".message p")].map(p => p.textContent).join() === "` + strings.Join(texts, ",") + `"`)
}

func TestChatGoesOnOverAStreamWhereItsWebSocketIsRefused(t *testing.T) {
	engine.Each(t, func(t *testing.T, b engine.Browser) {
		p := start(t, "chat")
		target, err := url.Parse(p.url)
		if err != nil {
			t.Fatal(err)
		}
		var refused, streams, posts atomic.Int32
		pass := httputil.NewSingleHostReverseProxy(target)
		pass.ErrorLog = log.New(io.Discard, "", 0) // it tells of each connection that is cut
		proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.Header.Get("Upgrade") != "":
				refused.Add(1)
				http.Error(w, "no upgrades here", http.StatusBadRequest)
				return
			case r.Header.Get("Accept") == "text/event-stream":
				streams.Add(1)
			case r.Method == http.MethodPost:
				posts.Add(1)
			}
			pass.ServeHTTP(w, r)
		}))
		t.Cleanup(func() {
			proxy.CloseClientConnections()
			proxy.Close()
		})
		enter := func(at, name string) chatter {
			page := chatter{t, b.Open(t, at+"/?room=lobby&name="+name)}
			page.wait(connected)
			return page
		}
		ann, bob := enter(proxy.URL, "Ann"), enter(p.url, "Bob")
		ann.say("one")
		bob.sees("one")
		bob.say("two")
		ann.sees("one", "two")

		proxy.CloseClientConnections()
		bob.say("three")
		ann.sees("one", "two", "three")
		ann.wait(connected)
		ann.say("four")
		for _, page := range []chatter{ann, bob} {
			page.sees("one", "two", "three", "four")
			page.wait(`[...document.querySelectorAll("#who b")].map(b => b.textContent).sort().join() === "Ann,Bob"`)
		}
		if refused.Load() < 2 || streams.Load() < 2 || posts.Load() != 2 {
			t.Errorf("%d WebSockets were refused, %d streams opened, and %d messages posted", refused.Load(), streams.Load(), posts.Load())
		}
	})
}
