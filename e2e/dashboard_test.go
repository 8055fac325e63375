package e2e

import (
	"fmt"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"github.com/seed-29c60982/grouphub/e2e/engine"
)

// connectSlowly presses the dashboard's button and waits until the second reader is behind.
func connectSlowly(w *window) {
	w.t.Helper()
	w.do(chromedp.Evaluate[chromedp.Void](`document.querySelector("#slow").click()`))
	w.wait(`/got (1\d|[2-9]\d) events/.test(document.querySelector("#explanation").textContent)`)
}

func TestDashboardShowsASlowReaderThatIsNotClosed(t *testing.T) {
	w := open(t, engine.StartChromium(t).Context, start(t, "dashboard").url)
	w.wait(`document.querySelectorAll("#values data").length === 8`)
	w.wait(`document.querySelector("#values data").value !== ""`)
	first := w.text("#values data")
	w.wait(`document.querySelector("#values data").innerText !== "` + first + `"`)

	connectSlowly(w)
	// It gets few of the events, and what it gets is of now: eight values, a quarter of a second each.
	const age = `Math.max(...[...document.querySelectorAll(".slow")].map(p => parseFloat(/([\d.]+) s ago/.exec(p.textContent)[1])))`
	if oldest := eval[float64](w, age); oldest > 10 {
		t.Errorf("the slow reader's oldest value is %v s old", oldest)
	}
	w.wait(`/It is still connected/.test(document.querySelector("#explanation").textContent)`)
	w.picture("dashboard")
	w.fits("#slow")
	w.do(chromedp.Evaluate[chromedp.Void](`document.querySelector("#slow").click()`))
	w.wait(`[...document.querySelectorAll(".slow")].every(p => p.hidden)`)
}

func TestDashboardComesBackAndBeginsWithASnapshot(t *testing.T) {
	w := open(t, engine.StartChromium(t).Context, start(t, "dashboard", "-measure=false").url)
	w.wait(`document.querySelectorAll("#values data").length === 8`) // of the snapshot: nothing is measured
	before := w.text("#values")
	w.offline(true)
	w.wait(`document.querySelector("#state").dataset.state === "closed"`)
	w.picture("dashboard-offline")
	w.offline(false)
	w.wait(`document.querySelector("#state").dataset.state === "open"`)
	w.wait(fmt.Sprintf(`document.querySelector("#values").innerText !== %q`, before))
}

func TestDashboardIsCalmForThoseWhoWantLessMotion(t *testing.T) {
	w := open(t, engine.StartChromium(t).Context, start(t, "dashboard").url)
	w.wait(`document.querySelectorAll("#values data").length === 8`)
	w.do(call(emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-reduced-motion", Value: "reduce"}},
	}))
	// Each paint sets the text anew.
	const threePaints = `new Promise(painted => {
		const data = document.querySelector("#values data")
		const times = []
		new MutationObserver((_, observer) => {
			times.push(performance.now())
			if (times.length < 3) return
			observer.disconnect()
			painted(times[2] - times[1])
		}).observe(data, {childList: true})
	})`
	if between := run(w, chromedp.Evaluate[float64](threePaints, chromedp.EvalAwaitPromise)); between < 900 {
		t.Errorf("two paints are %v ms apart, want a second", between)
	}
}
