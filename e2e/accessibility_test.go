package e2e

import (
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"github.com/seed-29c60982/grouphub/e2e/engine"
	"github.com/seed-29c60982/grouphub/e2e/npm"
)

// A violation is a rule of axe-core that a page breaks.
type violation struct {
	ID     string `json:"id"`
	Impact string `json:"impact"`
	Nodes  []struct {
		HTML    string `json:"html"`
		Failure string `json:"failureSummary"`
	} `json:"nodes"`
}

// accessible has axe-core look at the page, in light and dark. What it calls moderate or minor
// is a matter of taste.
func (w *window) accessible(axe, name string) {
	w.t.Helper()
	w.do(chromedp.Evaluate[chromedp.Void](axe + "; undefined"))
	for _, scheme := range []string{"light", "dark"} {
		w.do(call(emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
			Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
		}))
		const look = `axe.run().then(found => JSON.stringify(found.violations))`
		var found []violation
		if err := json.Unmarshal([]byte(run(w, chromedp.Evaluate[string](look, chromedp.EvalAwaitPromise))), &found); err != nil {
			w.t.Fatal(err)
		}
		for _, v := range found {
			if v.Impact != "serious" && v.Impact != "critical" {
				continue
			}
			for _, node := range v.Nodes {
				w.t.Errorf("%s, %s: %s: %s\n%s", name, scheme, v.ID, node.HTML, node.Failure)
			}
		}
	}
}

func TestPagesOfAllExamplesAreAccessible(t *testing.T) {
	modules := npm.Install(t)
	source, err := os.ReadFile(filepath.Join(modules, "axe-core", "axe.min.js"))
	if err != nil {
		t.Fatal(err)
	}
	axe, browser := string(source), engine.StartChromium(t).Context

	chat := start(t, "chat").url
	w := open(t, browser, chat)
	w.wait(`!document.querySelector("#enter").hidden`)
	w.accessible(axe, "chat, at the door")
	w = open(t, browser, chat+"/?"+url.Values{"room": {"lobby"}, "name": {"Ann"}}.Encode())
	w.wait(connected)
	w.accessible(axe, "chat, empty")
	// Names of many hues, and of everything that a log can have.
	for _, name := range strings.Fields("Bob Cy Dee Eve Flo Gus Hal Ida Jon Kim Lea Max") {
		other := open(t, browser, chat+"/?"+url.Values{"room": {"lobby"}, "name": {name}}.Encode())
		other.wait(connected)
		other.write("#say input", "Hello, I am "+name)
		w.waitText(".message p", "Hello, I am "+name)
		other.do(chromedp.Navigate("about:blank"))
	}
	w.write("#say input", "Hello")
	w.waitText(".message p", "Hello")
	response, err := http.PostForm(chat+"/announce", url.Values{"room": {"lobby"}, "text": {"Tea"}})
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	w.wait(`document.querySelector(".announcement")`)
	w.do(chromedp.Evaluate[chromedp.Void](`document.querySelector("details").open = true`))
	w.accessible(axe, "chat")
	w.offline(true)
	w.wait(disconnected)
	w.accessible(axe, "chat, offline")

	w = open(t, browser, start(t, "tasks", "-duration", "1s").url)
	w.accessible(axe, "tasks, empty")
	w.write("#start input", "Report")
	w.wait(`document.querySelector("[data-state=done]")`)
	w.accessible(axe, "tasks, done")
	w = open(t, browser, start(t, "tasks", "-duration", "1h").url+"/?job=unknown")
	w.write("#start input", "Report")
	w.wait(`document.querySelector("[data-state=gone]") && document.querySelector("[data-state=running]")`)
	w.accessible(axe, "tasks, running and gone")

	w = open(t, browser, start(t, "htmx", "-htmx", filepath.Join(modules, "htmx.org", "dist")).url)
	w.accessible(axe, "htmx, empty")
	w.write("form input", "Milk")
	w.waitText("#list span", "Milk")
	w.accessible(axe, "htmx")
	w.offline(true)
	w.write("form input", "Salt")
	w.waitText("[role=alert]", "The server does not answer.")
	w.accessible(axe, "htmx, offline")

	w = open(t, browser, start(t, "dashboard").url)
	w.wait(`document.querySelectorAll("#values data").length === 8`)
	w.accessible(axe, "dashboard")
	connectSlowly(w)
	w.accessible(axe, "dashboard, with a slow reader")
	w.offline(true)
	w.wait(`document.querySelector("#state").dataset.state === "closed"`)
	w.accessible(axe, "dashboard, offline")

	build := exec.Command("go", "build", "-o", programs+"/", ".")
	build.Dir = filepath.Join("..", "examples", "orders")
	if output, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build examples/orders: %v\n%s", err, output)
	}
	w = open(t, browser, start(t, "orders", "-sqlite", filepath.Join(t.TempDir(), "orders.db")).url)
	w.accessible(axe, "orders, empty")
	w.picture("orders-empty")
	w.write("#place [name=item]", "Tea")
	w.wait(`document.querySelector("#orders li")`)
	w.accessible(axe, "orders")
	w.picture("orders")
	w.fits("#place")
	w.do(chromedp.Evaluate[chromedp.Void](`document.querySelector("[name=fail]").click()`))
	w.write("#place [name=item]", "Cake")
	w.waitText("[role=alert]", "the card was declined, and the order rolled back\n")
	w.offline(true)
	w.wait(`document.querySelector("#state").dataset.state === "closed"`)
	w.accessible(axe, "orders, declined and offline")
	w.picture("orders-offline")
}
