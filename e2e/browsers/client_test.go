// Package browsers tries client.js in real browsers: Chromium and Firefox, on networks that
// break as real ones do.
package browsers

import (
	"net/http"
	"net/url"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/seed-29c60982/grouphub"
)

// patience is how long a browser may take for anything; a test only waits that long when it
// fails.
const patience = 30 * time.Second

type browser interface {
	open(url string) tab
}

// A tab is a page in a browser.
type tab interface {
	navigate(url string)
	back()
	offline(bool)
	eval(expression string) string // returns the JSON of what it, or its promise, is
}

func itoa(n int) string { return strconv.Itoa(n) }

// wait returns when the expression is true.
func wait(t tab, expression string) {
	t.eval(`new Promise((resolve, reject) => {
		const since = Date.now()
		const look = () => {
			if (` + expression + `) resolve(true)
			else if (Date.now() - since > ` + itoa(int(patience.Milliseconds())) + `) reject(new Error(JSON.stringify(window.log)))
			else setTimeout(look, 10)
		}
		look()
	})`)
}

// missing fails the test in CI, which installs everything, and skips it elsewhere.
func missing(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(what)
	}
	t.Skip(what)
}

// inEach runs a test in each browser.
func inEach(t *testing.T, test func(t *testing.T, b browser)) {
	t.Helper()
	for name, start := range map[string]func(*testing.T) browser{"Chromium": startChromium, "Firefox": startFirefox} {
		t.Run(name, func(t *testing.T) { test(t, start(t)) })
	}
}

// open opens the page, whose GroupHub has these options, and waits until it has joined the group.
func (s *site) open(b browser, options string) tab {
	s.t.Helper()
	tab := b.open(s.at(options))
	wait(tab, `window.hub?.positions.g`)
	return tab
}

// at returns the page's address with options for its GroupHub.
func (s *site) at(options string) string {
	return s.url + "/?" + url.Values{"options": {options}}.Encode()
}

func TestAPageComesBackAndMissesNothing(t *testing.T) {
	inEach(t, func(t *testing.T, b browser) {
		s := newSite(t, nil)
		tab := s.open(b, `{"maxDelay": 500}`)
		for range 5 {
			s.send(10)
			if err := s.hub.GroupClose(t.Context(), "g", 1012, "restart"); err != nil {
				t.Fatal(err)
			}
			s.send(10)
			s.wantAll(tab)
			wait(tab, `hub.state === "open"`)
		}
		if got := tab.eval(`hub.transport`); got != `"websocket"` {
			t.Errorf("the transport is %s", got)
		}
	})
}

func TestADeadPathIsNoticed(t *testing.T) {
	inEach(t, func(t *testing.T, b browser) {
		s := newSite(t, nil)
		tab := s.open(b, `{"heartbeat": 5000}`)
		s.send(1)
		s.wantAll(tab)
		start := time.Now()
		s.proxy.kill()
		s.send(1)
		s.wantAll(tab)
		if took := time.Since(start); took < 12*time.Second || took > 20*time.Second {
			t.Errorf("noticed after %v, want two and a half intervals of five seconds", took)
		}
		if got := tab.eval(`log.closes.map(close => close.reason)`); got != `["silence"]` {
			t.Errorf("the closes are %s", got)
		}
		// The path is alive now.
		tab.eval(`new Promise(resolve => setTimeout(resolve, 14000))`)
		if got := tab.eval(`log.closes.length`); got != "1" {
			t.Errorf("%s closes on a quiet path", got)
		}
	})
}

// Chromium keeps the page. Firefox would, if the connection had ended before it began to leave;
// there the page is loaded anew, and goes on from the positions that it has kept.
func TestAPageThatComesBackGoesOnWhereItWas(t *testing.T) {
	inEach(t, func(t *testing.T, b browser) {
		s := newSite(t, nil)
		tab := s.open(b, `{}`)
		for range 2 {
			s.send(1)
			s.wantAll(tab)
			tab.navigate(s.url + "/other")
			s.send(1)
			tab.back()
			wait(tab, `document.title === "test" && window.hub?.state === "open"`)
			s.wantAll(tab)
		}
		if _, ok := b.(*chromium); ok && tab.eval(`persisted`) != "true" {
			t.Error("the page was loaded anew")
		}
	})
}

func TestABrowserWithoutANetworkIsNoticed(t *testing.T) {
	inEach(t, func(t *testing.T, b browser) {
		s := newSite(t, nil)
		tab := s.open(b, `{}`)
		s.send(1)
		s.wantAll(tab)
		tab.offline(true)
		wait(tab, `log.closes.length > 0`)
		s.send(1)
		tab.offline(false)
		s.wantAll(tab)
		if got := tab.eval(`log.closes[0].reason`); got != `"offline"` {
			t.Errorf("the reason is %s", got)
		}
	})
}

func TestARefusalIsSeen(t *testing.T) {
	refuse := func(next http.Handler) http.Handler {
		return grouphub.Authenticate(func(*http.Request) (grouphub.User, error) {
			return grouphub.User{}, &grouphub.Reject{Status: http.StatusUnauthorized, Reason: "session expired"}
		})(next)
	}
	inEach(t, func(t *testing.T, b browser) {
		s := newSite(t, refuse)
		tab := b.open(s.at(`{}`))
		wait(tab, `hub.state === "closed"`)
		if got := tab.eval(`log.closes.at(-1)`); got != `{"code":4401,"reason":"session expired","willReconnect":false,"delay":0}` {
			t.Errorf("the last close is %s", got)
		}
	})
}

// Chromium closes a frozen page's WebSocket, of which the page hears when it is thawed.
func TestAFrozenPageGoesOnWhenItIsThawed(t *testing.T) {
	s := newSite(t, nil)
	tab := s.open(startChromium(t), `{}`).(*chromiumTab) // others cannot be told to freeze
	for range 2 {
		s.send(1)
		s.wantAll(tab)
		tab.freeze("frozen")
		s.send(3)
		tab.freeze("active")
		s.wantAll(tab)
	}
}

const strictPolicy = "default-src 'none'; script-src 'self'; connect-src 'self'; require-trusted-types-for 'script'; trusted-types 'none'"

func TestItWorksUnderAStrictPolicy(t *testing.T) {
	inEach(t, func(t *testing.T, b browser) {
		s := newSite(t, nil, "Content-Security-Policy", strictPolicy)
		tab := s.open(b, `{}`)
		s.send(1)
		s.wantAll(tab)
	})
}

func TestAnAddressThatThePolicyForbidsIsAFailedAttempt(t *testing.T) {
	inEach(t, func(t *testing.T, b browser) {
		s := newSite(t, nil, "Content-Security-Policy", strictPolicy)
		another := newSite(t, nil)
		tab := b.open(s.at(`{}`) + "&to=" + url.QueryEscape(another.url+"/ws"))
		wait(tab, `window.log?.closes.length >= 3`)
		if got := tab.eval(`log.closes.every(({code, willReconnect}) => code === 1006 && willReconnect)`); got != "true" {
			t.Errorf("the closes are %s", tab.eval(`log.closes`))
		}
	})
}

func TestAWorkerMadeOfABlobKnowsWhereItIs(t *testing.T) {
	inEach(t, func(t *testing.T, b browser) {
		s := newSite(t, nil)
		tab := s.open(b, `{}`)
		got := tab.eval("new Promise(resolve => {" +
			"const source = `import {GroupHub} from '${location.origin}/client.js'\n" +
			"new GroupHub('/ws').on('position', group => postMessage(group))`\n" +
			`const worker = new Worker(URL.createObjectURL(new Blob([source], {type: "text/javascript"})), {type: "module"})
			worker.onmessage = ({data}) => resolve(data)
			worker.onerror = ({message}) => resolve("error: " + message)
		})`)
		if got != `"g"` {
			t.Errorf("the worker says %s", got)
		}
	})
}

func TestASandboxedPageCanLoadTheClient(t *testing.T) {
	inEach(t, func(t *testing.T, b browser) {
		s := newSite(t, nil)
		tab := s.open(b, `{}`)
		got := tab.eval("new Promise(resolve => {" +
			"const frame = document.createElement('iframe')\n" +
			"frame.sandbox = 'allow-scripts'\n" +
			"frame.srcdoc = `<script type=module>import('${location.origin}/client.js').then(m => parent.postMessage(Object.keys(m), '*'), e => parent.postMessage(e.message, '*'))<` + `/script>`\n" +
			`addEventListener("message", ({data}) => resolve(data))
			document.body.append(frame)
		})`)
		if got != `["GroupHub"]` {
			t.Errorf("the frame says %s", got)
		}
	})
}
