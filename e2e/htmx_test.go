package e2e

import (
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/seed-29c60982/grouphub/e2e/engine"
	"github.com/seed-29c60982/grouphub/e2e/network"
	"github.com/seed-29c60982/grouphub/e2e/npm"
)

// A shopper is a page with the shopping list.
type shopper struct {
	t *testing.T
	engine.Tab
}

const onTheList = `[...document.querySelectorAll("#list li span")].map(span => span.textContent)`

// sees waits until exactly these are on the list, in this order.
func (s shopper) sees(items ...string) {
	s.t.Helper()
	engine.Wait(s, onTheList+`.join() === "`+strings.Join(items, ",")+`"`, onTheList)
}

func (s shopper) add(item string) {
	s.t.Helper()
	s.Eval(`(() => {
		const input = document.querySelector("form input")
		input.value = "` + item + `"
		input.form.requestSubmit()
	})()`)
	engine.Wait(s, `document.querySelector("form input").value === ""`, `document.body.innerText`)
}

func (s shopper) tickOff(item string) {
	s.t.Helper()
	s.Eval(`[...document.querySelectorAll("#list li")].find(li => li.querySelector("span").textContent === "` + item + `").querySelector("button").click()`)
}

// addItem adds to the list from elsewhere.
func addItem(t *testing.T, p *program, item string) {
	t.Helper()
	response, err := http.PostForm(p.url+"/items", url.Values{"text": {item}})
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusOK {
		t.Fatalf("%s was answered with %s", item, response.Status)
	}
}

func TestShoppingListGoesOnAfterACutAndARestart(t *testing.T) {
	htmx := filepath.Join(npm.Install(t), "htmx.org", "dist")
	engine.Each(t, func(t *testing.T, b engine.Browser) {
		redis := startRedis(t)
		p := start(t, "htmx", "-htmx", htmx, "-redis", redis.url())
		address := strings.TrimPrefix(p.url, "http://")
		proxy := network.NewProxy(t, address)
		page := shopper{t, b.Open(t, "http://"+proxy.Address)}
		page.add("tea")
		page.sees("tea")
		page.add("milk")
		page.sees("tea", "milk")
		page.tickOff("tea")
		page.sees("milk")

		proxy.Cut()
		addItem(t, p, "bread")
		page.sees("milk", "bread")

		p.stop(t)
		p = start(t, "htmx", "-htmx", htmx, "-redis", redis.url(), "-addr", address)
		addItem(t, p, "salt")
		page.sees("milk", "bread", "salt")
		page.tickOff("milk")
		page.sees("bread", "salt")
		if got := page.Eval(`performance.getEntriesByType("navigation").length`); got != "1" {
			t.Errorf("the page was loaded %s times", got)
		}
	})
}

func TestShoppingListThatEndedWithItsServerIsEmpty(t *testing.T) {
	htmx := filepath.Join(npm.Install(t), "htmx.org", "dist")
	engine.Each(t, func(t *testing.T, b engine.Browser) {
		p := start(t, "htmx", "-htmx", htmx)
		page := shopper{t, b.Open(t, p.url)}
		page.add("tea")
		page.sees("tea")
		p.stop(t)
		p = start(t, "htmx", "-htmx", htmx, "-addr", strings.TrimPrefix(p.url, "http://"))
		addItem(t, p, "milk")
		page.sees("milk")
	})
}

func TestShoppingListSaysWhatIsWrongAndKeepsTheText(t *testing.T) {
	p := start(t, "htmx", "-htmx", filepath.Join(npm.Install(t), "htmx.org", "dist"))
	w := open(t, engine.StartChromium(t).Context, p.url)
	w.waitText("#state.open", "Live")
	long := strings.Repeat("x", 101) // which the input allows to a script only
	w.do(chromedp.Evaluate[chromedp.Void](`document.querySelector("form input").removeAttribute("maxlength")`))
	w.write("form input", long)
	w.waitText("#problem", "an item has 1 to 100 characters\n")
	if text := eval[string](w, `document.querySelector("form input").value`); text != long {
		t.Errorf("the input has %q, want what was written", text)
	}
	w.write("form input", "Milk")
	w.waitText("#list span", "Milk")
	w.waitText("#problem", "")
	w.wait(`document.activeElement === document.querySelector("form input")`)

	p.stop(t)
	w.waitText("#state:not(.open)", "Reconnecting …")
	w.write("form input", "Salt")
	w.waitText("#problem", "The server does not answer.")
	if text := eval[string](w, `document.querySelector("form input").value`); text != "Salt" {
		t.Errorf("the input has %q, want what was written", text)
	}
	w.picture("htmx-offline")
	start(t, "htmx", "-addr", strings.TrimPrefix(p.url, "http://"))
	w.waitText("#state.open", "Live")
}

func TestShoppingListLooksDecent(t *testing.T) {
	p := start(t, "htmx", "-htmx", filepath.Join(npm.Install(t), "htmx.org", "dist"))
	w := open(t, engine.StartChromium(t).Context, p.url)
	w.picture("htmx-empty")
	for _, item := range []string{"Milk", "Six eggs", "Brot & Käse", "茶", "خبز", "A word that is longer than a phone is wide: " + strings.Repeat("Donau", 11)} {
		w.write("form input", item)
		w.waitText("#list span", item)
		w.wait(`document.activeElement === document.querySelector("form input") && document.activeElement.value === ""`) // for the next item
	}
	w.picture("htmx")
	w.fits("form")
}
