package e2e

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/e2e/engine"
	"github.com/seed-29c60982/grouphub/e2e/network"
)

// A visitor is a page of the chat, in any browser.
type visitor struct {
	t *testing.T
	engine.Tab
}

// visit opens a room of the chat at this address and waits until it is connected.
func visit(t *testing.T, b engine.Browser, address, room, name string) visitor {
	t.Helper()
	query := url.Values{"room": {room}, "name": {name}}
	v := visitor{t, b.Open(t, "http://"+address+"/?"+query.Encode())}
	v.wait(connected)
	return v
}

func (v visitor) wait(expression string) {
	v.t.Helper()
	engine.Wait(v, expression, `document.body.innerText`)
}

// check fails the test unless the expression is true now.
func (v visitor) check(expression string) {
	v.t.Helper()
	if got := v.Eval(expression); got != "true" {
		v.t.Errorf("%s is %s; the page says:\n%s", expression, got, v.Eval(`document.body.innerText`))
	}
}

// say writes a text and presses the button.
func (v visitor) say(text string) {
	v.t.Helper()
	v.Eval(fmt.Sprintf(`(() => {
		document.querySelector("#say input").value = %q
		document.querySelector("#say button").focus()
		document.querySelector("#say button").click()
	})()`, text))
}

const (
	maxTextLength = 1000 // the chat's

	texts      = `[...document.querySelectorAll(".message p")].map(p => p.textContent)`
	readyToSay = `document.activeElement === document.querySelector("#say input")`
)

// said is whether these are the messages in the log, as a JavaScript expression.
func said(messages ...string) string {
	return fmt.Sprintf(`%s.join() === %q`, texts, strings.Join(messages, ","))
}

// A script is a server with the chat's page and a room in which the test says everything.
type script struct {
	t       *testing.T
	hub     *grouphub.Hub
	address string
}

func newScript(t *testing.T) *script {
	t.Helper()
	hub := grouphub.New(nil)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		http.ServeFile(w, r, filepath.Join("..", "examples", "chat", "index.html"))
	})
	mux.Handle("GET /client.js", grouphub.ClientJS())
	mux.Handle("/ws", hub.Handler(grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error { return c.Join("room") },
		Events:  grouphub.Events{"*": grouphub.Forward()},
	}))
	server := httptest.NewServer(mux)
	t.Cleanup(func() {
		if err := hub.Shutdown(t.Context()); err != nil && t.Context().Err() == nil {
			t.Error(err)
		}
		server.Close()
	})
	return &script{t, hub, strings.TrimPrefix(server.URL, "http://")}
}

func (s *script) send(event string, data any) {
	s.t.Helper()
	if err := s.hub.GroupSend(s.t.Context(), "room", event, data); err != nil {
		s.t.Fatal(err)
	}
}

func (s *script) message(name, text string, sent time.Time) {
	s.t.Helper()
	s.send("chat.message", map[string]any{"name": name, "text": text, "sent": sent})
}

func TestChatPageInEachBrowser(t *testing.T) {
	engine.Each(t, func(t *testing.T, b engine.Browser) {
		for _, test := range []struct {
			name string
			run  func(*testing.T, engine.Browser)
		}{
			{"reconnects after a final close when it is told to", testReconnectButton},
			{"shows a message as pending while the server is frozen, and then once", testPendingMessage},
			{"keeps the text while there is no connection", testTextWithoutConnection},
			{"takes leave of the room", testLeave},
			{"says of which day messages are", testDays},
			{"holds long words, long texts and texts from right to left", testLongAndForeignTexts},
			{"does not move a reader among 500 messages", testReaderOf500Messages},
			{"does not have the last messages read out", testLiveRegion},
		} {
			t.Run(test.name, func(t *testing.T) { test.run(t, b) })
		}
	})
}

func testReconnectButton(t *testing.T, b engine.Browser) {
	p := start(t, "chat")
	ann := visit(t, b, strings.TrimPrefix(p.url, "http://"), "lobby", "Ann")
	ann.say("before")
	ann.wait(said("before"))
	ann.say(strings.Repeat("x", maxTextLength+1)) // which the input allows to a script only
	ann.wait(`!document.querySelector("#reconnect").hidden`)
	ann.check(`document.querySelector("#banner").innerText.startsWith("The connection was closed: a text is empty or too long.")`)
	ann.check(`document.querySelector(".note").textContent.startsWith("Perhaps not sent: xxx")`)
	ann.check(`!document.querySelector(".pending")`)

	ann.Eval(`(() => { document.querySelector("#reconnect").focus(); document.querySelector("#reconnect").click() })()`)
	ann.wait(connected)
	ann.check(`document.querySelector("#banner").hidden && ` + readyToSay)
	ann.say("after")
	ann.wait(said("before", "after"))
}

func testPendingMessage(t *testing.T, b engine.Browser) {
	p := start(t, "chat")
	ann := visit(t, b, strings.TrimPrefix(p.url, "http://"), "lobby", "Ann")
	t.Cleanup(func() { p.process.Process.Signal(syscall.SIGCONT) }) // or it would not stop
	p.process.Process.Signal(syscall.SIGSTOP)
	ann.say("Is anybody there?")
	ann.wait(`document.querySelector(".pending p")?.textContent === "Is anybody there?"`)
	ann.check(`document.querySelector(".pending small").textContent === "sending …"`)
	ann.check(`document.querySelector(".pending").ariaHidden === "true"`) // it is read once, when it has come back
	ann.check(readyToSay + ` && document.activeElement.value === ""`)
	ann.check(said())
	p.process.Process.Signal(syscall.SIGCONT)
	ann.wait(said("Is anybody there?"))
	ann.check(`!document.querySelector(".pending, .note")`)
}

func testTextWithoutConnection(t *testing.T, b engine.Browser) {
	proxy := network.NewProxy(t, strings.TrimPrefix(start(t, "chat").url, "http://"))
	ann := visit(t, b, proxy.Address, "lobby", "Ann")
	ann.say("before")
	ann.wait(said("before"))
	proxy.Refuse()
	ann.wait(disconnected)
	ann.say("meanwhile")
	ann.check(`document.querySelector("#say input").value === "meanwhile" && ` + said("before"))
	ann.check(`document.querySelector("#banner").innerText.includes("what you write stays in the input")`)
	proxy.Listen()
	ann.wait(connected)
	ann.check(`document.querySelector("#say input").value === "meanwhile"`)
	ann.say("meanwhile")
	ann.wait(said("before", "meanwhile"))
	ann.say("after")
	ann.wait(said("before", "meanwhile", "after"))
}

func testLeave(t *testing.T, b engine.Browser) {
	address := strings.TrimPrefix(start(t, "chat").url, "http://")
	bob := visit(t, b, address, "lobby", "Bob")
	ann := visit(t, b, address, "lobby", "Ann")
	const who = `[...document.querySelectorAll("#who b")].map(b => b.textContent).sort().join()`
	bob.wait(who + ` === "Ann,Bob"`)
	ann.Eval(`setTimeout(() => document.querySelector("header a[href='/']").click()) && true`)
	bob.wait(who + ` === "Bob"`)
	ann.wait(`document.querySelector("#chat").hidden && document.activeElement === document.querySelector("#enter [name=name]")`)
}

func testDays(t *testing.T, b engine.Browser) {
	s := newScript(t)
	ann := visit(t, b, s.address, "lobby", "Ann")
	now := time.Now()
	today := time.Date(now.Year(), now.Month(), now.Day(), 0, 1, 0, 0, time.Local)
	days := []time.Time{today.AddDate(0, 0, -2), today.Add(-2 * time.Minute), today}
	s.message("Bob", "two days ago", days[0])
	s.message("Bob", "just before midnight", days[1])
	s.send("chat.announcement", map[string]string{"text": "It is midnight"})
	s.message("Bob", "just after midnight", days[2])
	s.message("Bob", "and again", days[2].Add(time.Minute))
	ann.wait(said("two days ago", "just before midnight", "just after midnight", "and again"))
	ann.check(`[...document.querySelectorAll("#messages > li")].map(li => li.className).join() ===
		"day,message,day,message,announcement,day,message,message again"`)
	for i, day := range days {
		ann.check(fmt.Sprintf(`document.querySelectorAll(".day")[%d].textContent ===
			new Date(%d).toLocaleDateString([], {dateStyle: "full"})`, i, day.UnixMilli()))
		ann.check(fmt.Sprintf(`document.querySelectorAll(".message time")[%d].dateTime === new Date(%d).toISOString()`, i, day.UnixMilli()))
	}
}

func testLongAndForeignTexts(t *testing.T, b engine.Browser) {
	s := newScript(t)
	ann := visit(t, b, s.address, "lobby", "Ann")
	s.send("presence", map[string]any{
		"members": []map[string]string{{"user": strings.Repeat("W", 40)}, {"user": "نور"}},
		"joined":  []any{}, "left": []any{},
	})
	s.message(strings.Repeat("W", 40), strings.Repeat("W", maxTextLength), time.Now())
	s.message("Bob", strings.Repeat("Many words make a text. ", 41), time.Now())
	s.message("نور", "صباح الخير، كيف كان النشر؟", time.Now())
	s.message("Ann", strings.Repeat("W", maxTextLength), time.Now())
	ann.wait(texts + `.length === 4`)
	ann.check(`(log => log.scrollWidth <= log.clientWidth)(document.querySelector("#log"))`)
	ann.check(`document.documentElement.scrollWidth <= innerWidth`)
	ann.check(`[...document.querySelectorAll(".message")].every(li => {
		const frame = document.querySelector("#log").getBoundingClientRect()
		return [...li.children].every(child => {
			const box = child.getBoundingClientRect()
			return box.left >= frame.left && box.right <= frame.right
		})
	})`)
	// A name that is too long leaves the time in its place, and one from right to left is where the others are.
	ann.check(`document.querySelector(".message time").getBoundingClientRect().width > 20`)
	ann.check(`getComputedStyle(document.querySelectorAll(".message p")[2]).direction === "rtl"`)
	ann.check(`getComputedStyle(document.querySelectorAll(".message p")[1]).direction === "ltr"`)
	ann.check(`[...document.querySelectorAll("#who b")].every(b => getComputedStyle(b).textAlign === "left")`)
}

func testReaderOf500Messages(t *testing.T, b engine.Browser) {
	const distance = `(log => log.scrollHeight - log.scrollTop - log.clientHeight)(document.querySelector("#log"))`
	s := newScript(t)
	ann := visit(t, b, s.address, "lobby", "Ann")
	lines := 0
	say := func(n int) {
		t.Helper()
		for range n {
			lines++
			s.message("Bob", "line "+strconv.Itoa(lines), time.Now())
		}
		ann.wait(fmt.Sprintf(`%s.at(-1) === "line %d"`, texts, lines))
	}
	for range 4 { // with a wait for each, since browsers need seconds
		say(130)
	}
	ann.check(`document.querySelectorAll("#messages > li").length === 500`)
	ann.check(`document.querySelector("#messages").firstChild.className === "day"`) // which is still the day of what follows
	ann.wait(distance + ` < 2`)

	ann.Eval(`new Promise(scrolled => {
		const log = document.querySelector("#log")
		log.addEventListener("scroll", () => scrolled(), {once: true}) // after the page's own listener
		log.scrollTop = 3000
	})`)
	const read = `[...document.querySelectorAll(".message p")].find(p => p.textContent === "line 150").getBoundingClientRect().top`
	say(1)
	ann.wait(`!document.querySelector("#newer").hidden`)
	before := ann.Eval(read)
	say(40)
	if after := ann.Eval(read); after != before {
		t.Errorf("what was read has moved from %s to %s", before, after)
	}
	ann.Eval(`document.querySelector("#newer").click()`)
	ann.wait(distance + ` < 2 && document.querySelector("#newer").hidden`)
	ann.check(`document.activeElement === document.querySelector("#log")`)
	say(1)
	ann.wait(distance + ` < 2`)
	ann.check(`document.querySelectorAll("#messages > li").length === 500`)
}

func testLiveRegion(t *testing.T, b engine.Browser) {
	s := newScript(t)
	ann := visit(t, b, s.address, "lobby", "Ann")
	s.message("Bob", "long ago", time.Now())
	ann.wait(said("long ago"))
	ann.check(`document.querySelector("#log").ariaLive === "off"`)
	s.send("presence", map[string]any{"joined": []any{}, "left": []any{}})
	ann.wait(`document.querySelector("#log").ariaLive === "polite"`)
}
