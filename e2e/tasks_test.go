package e2e

import (
	"fmt"
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/seed-29c60982/grouphub/e2e/engine"
)

// job is the card of the job with this name, as a JavaScript expression.
func job(name string) string {
	return fmt.Sprintf(`[...document.querySelectorAll("#jobs li")].find(li => li.querySelector("b").textContent === %q)`, name)
}

// percent is how far the card's bar is, as a JavaScript expression; -1 without a card.
func percent(name string) string {
	return fmt.Sprintf(`(%s?.querySelector("progress").value ?? -1)`, job(name))
}

func TestJobReaches100PercentAndTwoStayApart(t *testing.T) {
	w := open(t, engine.StartChromium(t).Context, start(t, "tasks", "-duration", "4s").url)

	w.write("#start input", "First <b>job</b>")
	w.wait(percent("First <b>job</b>") + " >= 30")
	w.write("#start input", "第二 🎉")
	w.wait(percent("第二 🎉") + " >= 10")
	if first, second := eval[int](w, percent("First <b>job</b>")), eval[int](w, percent("第二 🎉")); first <= second {
		t.Errorf("the job that began first is at %d %%, the other at %d %%", first, second)
	}
	w.picture("tasks")
	w.fits("#start")
	for _, name := range []string{"First <b>job</b>", "第二 🎉"} {
		w.wait(percent(name) + " === 100")
		w.wait(job(name) + `.dataset.state === "done"`)
	}
	w.waitText("[role=status]", "第二 🎉: ✓ 100 % · done") // and nothing of the percents before
	if n := eval[int](w, `document.querySelectorAll("#jobs li").length`); n != 2 {
		t.Errorf("%d jobs are shown, want 2", n)
	}
}

func TestReloadDuringAJobGoesOnShowingIt(t *testing.T) {
	w := open(t, engine.StartChromium(t).Context, start(t, "tasks", "-duration", "8s").url)

	w.write("#start input", "Long job")
	w.wait(percent("Long job") + " >= 5")
	before := eval[int](w, percent("Long job"))
	w.do(chromedp.Reload())
	w.wait(job("Long job") + `?.dataset.state === "running"`)
	if after := eval[int](w, percent("Long job")); after < before {
		t.Errorf("the bar went back from %d %% to %d %%", before, after)
	}
	w.wait(percent("Long job") + " === 100")

	// What is done can still be looked at.
	w.do(chromedp.Reload())
	w.wait(job("Long job") + `?.dataset.state === "done"`)
}

func TestJobThatIsGoneIsSaidToBeGone(t *testing.T) {
	w := open(t, engine.StartChromium(t).Context, start(t, "tasks").url+"/?job=unknown")
	w.wait(`document.querySelector("#jobs li").dataset.state === "gone"`)
	w.waitText("#jobs .status", "there is no such job any more")
	w.picture("tasks-gone")
	w.do(chromedp.Evaluate[chromedp.Void](`document.querySelector("#jobs button").click()`))
	w.wait(`!document.querySelector("#jobs li") && location.search === ""`)
	w.wait(`document.activeElement === document.querySelector("#start input")`)
	w.waitText("[role=status]", "Job: there is no such job any more")
}

func TestJobThatCannotBeStartedIsSaidInPlainWords(t *testing.T) {
	w := open(t, engine.StartChromium(t).Context, start(t, "tasks").url)
	w.offline(true) // and not without a server: another program might get its port
	w.write("#start input", "Report")
	w.waitText("[role=alert]", "The job was not started: the server does not answer. Try again in a moment.")
	w.picture("tasks-offline")
	if name := eval[string](w, `document.querySelector("#start input").value`); name != "Report" {
		t.Errorf("the input has %q, want what was written", name)
	}
}
