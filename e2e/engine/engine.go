// Package engine drives real browsers: Chromium by its own protocol, Firefox by WebDriver
// BiDi, and WebKit by WebDriver. A test that cannot go on fails.
package engine

import (
	"flag"
	"os"
	"strconv"
	"testing"
	"time"
)

// Patience is how long a browser may take for anything; a test only waits that long when it
// fails.
const Patience = 60 * time.Second

// A Browser has a profile of its own, and ends with its test. A Tab ends with the test that
// has opened it.
type Browser interface {
	Name() string
	Open(t *testing.T, url string) Tab // the first one is in front
}

// A Tab is a page in a browser.
type Tab interface {
	Navigate(url string)
	Back()
	Eval(expression string) string // returns the JSON of what it, or its promise, is
	// Freeze stops the page's timers and callbacks, as browsers do with tabs that nobody looks
	// at, or all of the browser, as a computer does that sleeps. Thaw has them go on.
	Freeze()
	Thaw()
}

// A Phone is a Tab whose network can be taken away. WebKit has no command for that.
type Phone interface {
	Tab
	Offline(bool)
}

// AtTheSameTime has all browsers of a package's tests run at the same time, on however few
// cores: most of what they do is to wait. TestMain calls it.
func AtTheSameTime() {
	flag.Parse()
	flag.Set("test.parallel", "3")
}

// Each runs a test in each browser, in parallel.
func Each(t *testing.T, test func(t *testing.T, b Browser)) {
	t.Helper()
	for name, start := range map[string]func(*testing.T) Browser{
		"Chromium": func(t *testing.T) Browser { return StartChromium(t) },
		"Firefox":  startFirefox,
		"WebKit":   startWebKit,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, start(t))
		})
	}
}

// Wait returns when the expression is true. If it does not become true, the test fails and
// tells what the other expression is.
func Wait(t Tab, expression, otherwise string) {
	t.Eval(`new Promise((resolve, reject) => {
		const since = Date.now()
		const look = () => {
			if (` + expression + `) resolve(true)
			else if (Date.now() - since > ` + strconv.FormatInt(Patience.Milliseconds(), 10) + `) reject(new Error(JSON.stringify(` + otherwise + `)))
			else setTimeout(look, 10)
		}
		look()
	})`)
}

// Missing fails the test in CI, which installs everything, and skips it elsewhere.
func Missing(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(what)
	}
	t.Skip(what)
}
