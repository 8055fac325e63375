package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/seed-29c60982/grouphub/e2e/engine"
)

const (
	connected    = `document.querySelector("#state").dataset.state === "open"`
	disconnected = `document.querySelector("#state").dataset.state !== "open"`
)

// messages waits until the page shows exactly these, each once and in this order.
func (w *window) messages(want ...string) {
	w.t.Helper()
	const shown = `[...document.querySelectorAll(".message p")].map(p => p.textContent)`
	w.wait(fmt.Sprintf(`document.querySelectorAll(".message").length >= %d`, len(want)))
	if got := eval[[]string](w, shown); !slices.Equal(got, want) {
		w.t.Errorf("the page shows\n%q, want\n%q", got, want)
	}
}

// here waits until the page says that these are in the room.
func (w *window) here(names ...string) {
	w.t.Helper()
	slices.Sort(names)
	w.wait(fmt.Sprintf(`[...document.querySelectorAll("#who b")].map(b => b.textContent).sort().join() === %q`, strings.Join(names, ",")))
}

// enter opens a room of the chat and waits until it is connected.
func enter(t *testing.T, p *program, room, name string) (*window, func(room, name string) *window) {
	t.Helper()
	browser := engine.StartChromium(t).Context
	another := func(room, name string) *window {
		t.Helper()
		query := url.Values{"room": {room}, "name": {name}}
		w := open(t, browser, p.url+"/?"+query.Encode())
		w.wait(connected)
		return w
	}
	return another(room, name), another
}

func TestTwoBrowserWindowsSeeEachOtherAtOnce(t *testing.T) {
	ann, enter := enter(t, start(t, "chat"), "lobby", "Ann")
	bob := enter("lobby", "Bob")
	elsewhere := enter("cellar", "Eve")

	ann.write("#say input", "Hello Bob")
	for _, w := range []*window{ann, bob} {
		w.waitText(".message p", "Hello Bob")
		w.waitText("#who b", "Ann")
	}
	bob.write("#say input", "Hello Ann")
	for _, w := range []*window{ann, bob} {
		w.waitText(".message p", "Hello Ann")
		w.waitText("#who b", "Bob")
	}
	// The other room is still empty once something that came later is there.
	elsewhere.write("#say input", "Anybody here?")
	elsewhere.waitText(".message p", "Anybody here?")
	if n := eval[int](elsewhere, `document.querySelectorAll("#log .message").length`); n != 1 {
		t.Errorf("the other room shows %d entries, want its own only:\n%s", n, elsewhere.text("#log"))
	}
}

func TestTextIsShownAsItWasWritten(t *testing.T) {
	const name = `<u>Zoë</u> "&amp;"`
	ann, enter := enter(t, start(t, "chat"), "<i>lobby</i> & 大厅", name)
	bob := enter("<i>lobby</i> & 大厅", "鲍勃")

	for _, text := range []string{
		"👩🏽‍🚀 says hi 🎉",
		"你好,世界",
		"مرحبا بالعالم",
		`<img src=x onerror="document.title='owned'"><b>bold</b><script>document.title='owned'</script>`,
		"&lt;b&gt; {\"text\":\"no\"} \\n ' \" `",
	} {
		ann.write("#say input", text)
		for _, w := range []*window{ann, bob} {
			w.waitText(".message p", text)
			w.waitText("#who b", name)
		}
	}
	for _, w := range []*window{ann, bob} {
		if n := eval[int](w, `document.querySelectorAll("#log :is(img, script, u, p *, b *), #who b *, h1 *").length`); n != 0 {
			t.Errorf("%d elements came out of what was written: %s", n, eval[string](w, `document.querySelector("#log").innerHTML`))
		}
		if title := eval[string](w, "document.title"); title == "owned" {
			t.Error("a script in a message was run")
		}
	}
}

func TestAnnouncementOfTheBackendReachesARoom(t *testing.T) {
	p := start(t, "chat")
	ann, enter := enter(t, p, "lobby", "Ann")
	bob := enter("lobby", "Bob")

	response, err := http.PostForm(p.url+"/announce", url.Values{"room": {"lobby"}, "text": {"Deploy in <5> minutes"}})
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusNoContent {
		t.Fatalf("the announcement was answered with %s", response.Status)
	}
	for _, w := range []*window{ann, bob} {
		w.waitText(".announcement span", "Deploy in <5> minutes")
	}

	// The form on the page does the same, and leaves the page where it is.
	ann.do(chromedp.Evaluate[chromedp.Void](`window.samePage = true; document.querySelector("details").open = true`))
	ann.write("#announce [name=text]", "Tea is ready ☕")
	for _, w := range []*window{ann, bob} {
		w.waitText(".announcement span", "Tea is ready ☕")
	}
	if !eval[bool](ann, "window.samePage === true") {
		t.Error("the page was loaded anew")
	}

	// What goes wrong is said beside the form, which keeps the text.
	ann.offline(true) // and not without a server: another program might get its port
	ann.write("#announce [name=text]", "Is anybody there?")
	ann.waitText("#announce [role=alert]", "Not announced: the server does not answer")
	if text := eval[string](ann, `document.querySelector("#announce [name=text]").value`); text != "Is anybody there?" {
		t.Errorf("the form has %q, want what was written", text)
	}
}

func TestRefusedNameIsSaidAndCanBeChanged(t *testing.T) {
	w := open(t, engine.StartChromium(t).Context, start(t, "chat").url+"/?room=lobby&name="+strings.Repeat("long", 20))
	enter := func(name string) {
		t.Helper()
		w.do(chromedp.SetValue(chromedp.CSS("#enter [name=name]"), name))
		if _, err := chromedp.RunResponse(w.ctx, chromedp.Submit(chromedp.CSS("#enter"))); err != nil {
			t.Fatal(err)
		}
		w.waitText("#state", "Connected as "+name)
	}
	w.waitText("#refused", "room and name must have 1 to 40 characters")
	w.picture("refused")
	enter("Ann")
	if _, err := chromedp.RunResponse(w.ctx, chromedp.Click(chromedp.CSS("#rename"))); err != nil {
		t.Fatal(err)
	}
	if name := eval[string](w, `document.querySelector("#enter [name=name]").value`); name != "Ann" {
		t.Errorf("who renames is offered %q, want the old name", name)
	}
	enter("Anna")
	w.waitText("#room", "lobby")
}

func TestLogStaysAtItsEndUnlessSomebodyReads(t *testing.T) {
	const distance = `(e => e.scrollHeight - e.scrollTop - e.clientHeight)(document.querySelector("#log"))`
	settles := func(w *window, expression string) { // scrolling changes nothing in the page
		t.Helper()
		w.do(chromedp.Poll[chromedp.Void](expression, chromedp.WithPollingInterval(10*time.Millisecond)))
	}
	bob, enter := enter(t, start(t, "chat"), "lobby", "Bob")
	ann := enter("lobby", "Ann") // in front: other tabs are not painted, nor told of sizes
	for i := range 30 {
		bob.write("#say input", fmt.Sprint("line ", i))
		bob.waitText(".message p", fmt.Sprint("line ", i))
	}
	ann.waitText(".message p", "line 29")
	// As when a keyboard opens.
	for _, height := range []int64{844, 480, 844, 400} {
		ann.do(chromedp.EmulateViewport(390, height))
		settles(ann, distance+" < 2")
	}
	if n := eval[int](ann, `document.querySelectorAll(".message:not(.again)").length`); n != 1 {
		t.Errorf("the name stands above %d of Bob's messages in a row, want the first", n)
	}

	ann.do(chromedp.Evaluate[chromedp.Void](`document.querySelector("#log").scrollTop = 0`))
	settles(ann, distance+" > 100")
	bob.write("#say input", "news")
	ann.waitText(".message p", "news")
	ann.wait(`!document.querySelector("#newer").hidden`)
	if top := eval[float64](ann, `document.querySelector("#log").scrollTop`); top != 0 {
		t.Errorf("the log was moved by %v while somebody read", top)
	}
	ann.picture("chat-newer")
	ann.do(chromedp.Evaluate[chromedp.Void](`document.querySelector("#newer").click()`))
	settles(ann, distance+` < 2 && document.querySelector("#newer").hidden`)
}

func TestVisitorWithoutANameIsAskedForIt(t *testing.T) {
	browser := engine.StartChromium(t).Context
	w := open(t, browser, start(t, "chat").url+"/?room=attic")
	w.wait(`!document.querySelector("#enter").hidden`)
	w.picture("enter")
	w.do(chromedp.SendKeys(chromedp.CSS("#enter [name=name]"), "Ann"))
	if _, err := chromedp.RunResponse(w.ctx, chromedp.Submit(chromedp.CSS("#enter"))); err != nil {
		t.Fatal(err)
	}
	w.wait(connected)
	w.waitText("#room", "attic")
	w.waitText("#state", "Connected as Ann")
}

func TestPageShowsWhoIsInTheRoom(t *testing.T) {
	ann, enter := enter(t, start(t, "chat"), "lobby", "Ann")
	ann.here("Ann")
	bob := enter("lobby", "Bob")
	enter("cellar", "Eve")
	for _, w := range []*window{ann, bob} {
		w.here("Ann", "Bob")
	}
	// Browsers keep a page for the way back to it; its visitor is gone all the same.
	ann.do(chromedp.Navigate("about:blank"))
	bob.here("Bob")
	bob.write("#say input", "Where is Ann?")
	bob.messages("Where is Ann?")
	ann.do(chromedp.Evaluate[chromedp.Void]("setTimeout(() => history.back())"))
	bob.here("Ann", "Bob")
}

func TestVisitorSeesWhatWasWrittenBefore(t *testing.T) {
	ann, enter := enter(t, start(t, "chat"), "lobby", "Ann")
	ann.write("#say input", "one")
	ann.write("#say input", "two")
	ann.messages("one", "two")
	bob := enter("lobby", "Bob")
	bob.messages("one", "two")
	ann.write("#say input", "three")
	for _, w := range []*window{ann, bob} {
		w.messages("one", "two", "three")
	}
}

func TestPageThatWasOfflineShowsEachMessageOnceAndInOrder(t *testing.T) {
	ann, enter := enter(t, start(t, "chat"), "lobby", "Ann")
	bob := enter("lobby", "Bob")
	var want []string
	say := func(from *window, text string) {
		want = append(want, text)
		from.write("#say input", text)
		from.waitText(".message p", text)
	}
	say(ann, "before")
	bob.messages(want...)
	for round := range 3 {
		bob.offline(true)
		bob.wait(disconnected)
		for i := range 5 {
			say(ann, fmt.Sprintf("while Bob is away, %d.%d", round, i))
		}
		bob.offline(false)
		bob.wait(connected)
		say(ann, fmt.Sprintf("after, %d", round))
		bob.messages(want...)
		say(bob, fmt.Sprintf("from Bob, %d", round))
		for _, w := range []*window{ann, bob} {
			w.messages(want...)
		}
	}
	if n := eval[int](bob, `document.querySelectorAll(".note").length`); n != 0 {
		t.Errorf("the page has %d notes, and nothing was lost:\n%s", n, bob.text("#log"))
	}
}

func TestPageComesBackWhenTheServerDoes(t *testing.T) {
	p := start(t, "chat")
	ann, enter := enter(t, p, "lobby", "Ann")
	bob := enter("lobby", "Bob")
	both := []*window{ann, bob}
	ann.write("#say input", "before")
	bob.waitText(".message p", "before")

	p.stop(t)
	for _, w := range both {
		w.wait(disconnected)
	}
	ann.write("#say input", "meanwhile") // stays in the input: there is nobody to take it
	start(t, "chat", "-addr", strings.TrimPrefix(p.url, "http://"))
	for _, w := range both {
		w.wait(connected)
		// What was kept was in the server's memory.
		w.waitText(".note", "Messages may be missing here.")
		w.here("Ann", "Bob")
	}
	if text := eval[string](ann, `document.querySelector("#say input").value`); text != "meanwhile" {
		t.Errorf("the input has %q, want what was written without a connection", text)
	}
	for i := range 3 {
		ann.write("#say input", fmt.Sprint("after ", i))
	}
	for _, w := range both {
		w.messages("before", "after 0", "after 1", "after 2")
	}
}

func TestChatLooksDecent(t *testing.T) {
	p := start(t, "chat")
	ann, enter := enter(t, p, "lobby", "Ann")
	bob, grace := enter("lobby", "Bob"), enter("lobby", "Grace Brewster Murray Hopper")
	for _, line := range []struct {
		from *window
		text string
	}{
		{bob, "Good morning! Did last night's deployment go through?"},
		{ann, "It did. The migration took eleven minutes, everything else was quick."},
		{grace, "你好! 🎉"},
		{grace, "A word that is longer than a phone is wide: " + strings.Repeat("Donaudampfschiff", 8)},
		{ann, "👍"},
	} {
		line.from.write("#say input", line.text)
		ann.waitText(".message p", line.text)
	}
	response, err := http.PostForm(p.url+"/announce", url.Values{"room": {"lobby"}, "text": {"Deploy in 5 minutes"}})
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	ann.waitText(".announcement span", "Deploy in 5 minutes")
	ann.picture("chat")
	ann.fits("#say")

	p.stop(t)
	ann.wait(`!document.querySelector("#banner").hidden`)
	ann.picture("chat-offline")
}

func TestBusyPortIsOneClearLine(t *testing.T) {
	for _, example := range []string{"chat", "tasks", "htmx", "dashboard"} {
		address := strings.TrimPrefix(start(t, example).url, "http://")
		var stdout, stderr strings.Builder
		cmd := exec.Command(filepath.Join(programs, example), "-addr", address)
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		err := cmd.Run()
		if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != 1 {
			t.Errorf("%s on a busy port ended with %v, want exit status 1", example, err)
		}
		if line := stderr.String(); strings.Count(line, "\n") != 1 || !strings.Contains(line, address) || stdout.Len() > 0 {
			t.Errorf("%s on a busy port says %q%q, want one line that names %s", example, stdout.String(), line, address)
		}
	}
}
