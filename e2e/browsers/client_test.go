// Package browsers tries client.js and a bare EventSource in real browsers, on networks that
// break as real ones do.
package browsers

import (
	"net/http"
	"net/url"
	"testing"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/e2e/engine"
)

// wait returns when the expression is true.
func wait(t engine.Tab, expression string) {
	engine.Wait(t, expression, "window.log")
}

// open opens the page, whose GroupHub has these options, or which has an EventSource if they are
// empty, and waits until it has joined the group.
func (s *site) open(b engine.Browser, options string) engine.Tab {
	s.t.Helper()
	tab := b.Open(s.t, s.at(options))
	wait(tab, `window.hasJoined?.()`)
	return tab
}

// at returns the page's address with options for its GroupHub.
func (s *site) at(options string) string {
	if options == "" {
		return s.url + "/"
	}
	return s.url + "/?" + url.Values{"options": {options}}.Encode()
}

func TestARefusalIsSeen(t *testing.T) {
	refuse := func(next http.Handler) http.Handler {
		return grouphub.Authenticate(func(*http.Request) (grouphub.User, error) {
			return grouphub.User{}, &grouphub.Reject{Status: http.StatusUnauthorized, Reason: "session expired"}
		})(next)
	}
	engine.Each(t, func(t *testing.T, b engine.Browser) {
		s := newSite(t, refuse)
		tab := b.Open(t, s.at(`{}`))
		wait(tab, `hub.state === "closed"`)
		if got := tab.Eval(`log.closes.at(-1)`); got != `{"code":4401,"reason":"session expired","willReconnect":false,"delay":0}` {
			t.Errorf("the last close is %s", got)
		}
	})
}

const strictPolicy = "default-src 'none'; script-src 'self'; connect-src 'self'; require-trusted-types-for 'script'; trusted-types 'none'"

func TestItWorksUnderAStrictPolicy(t *testing.T) {
	engine.Each(t, func(t *testing.T, b engine.Browser) {
		for _, c := range clients {
			s := newSite(t, nil, "Content-Security-Policy", strictPolicy)
			tab := s.open(b, c.options)
			s.send(1)
			s.wantAll(tab)
		}
	})
}

func TestAnAddressThatThePolicyForbidsIsAFailedAttempt(t *testing.T) {
	engine.Each(t, func(t *testing.T, b engine.Browser) {
		s := newSite(t, nil, "Content-Security-Policy", strictPolicy)
		another := newSite(t, nil)
		tab := b.Open(t, s.at(`{}`)+"&to="+url.QueryEscape(another.url+"/ws"))
		wait(tab, `window.log?.closes.length >= 3`)
		if got := tab.Eval(`log.closes.every(({code, willReconnect}) => code === 1006 && willReconnect)`); got != "true" {
			t.Errorf("the closes are %s", tab.Eval(`log.closes`))
		}
	})
}

func TestAWorkerMadeOfABlobKnowsWhereItIs(t *testing.T) {
	engine.Each(t, func(t *testing.T, b engine.Browser) {
		s := newSite(t, nil)
		tab := s.open(b, `{}`)
		got := tab.Eval("new Promise(resolve => {" +
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
	engine.Each(t, func(t *testing.T, b engine.Browser) {
		s := newSite(t, nil)
		tab := s.open(b, `{}`)
		got := tab.Eval("new Promise(resolve => {" +
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
