package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/alicebob/miniredis/v2"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
	"github.com/seed-29c60982/grouphub/internal/leak"
)

// TestMain fails the suite if a goroutine outlives it.
func TestMain(m *testing.M) { leak.Check(m) }

func newChat(t *testing.T) http.Handler { return newChatOn(t, nil) }

func newChatOn(t *testing.T, layer grouphub.Layer) http.Handler {
	options := newOptions()
	options.Layer = layer
	hub := grouphub.New(options)
	t.Cleanup(func() {
		if err := hub.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return routes(hub)
}

func enter(t *testing.T, chat http.Handler, room, name string) *hubtest.Client {
	t.Helper()
	return hubtest.Dial(t, chat, "/ws?"+url.Values{"room": {room}, "name": {name}}.Encode())
}

// next returns the next thing that a visitor hears of a room, but for comings and
// goings: those are in no order with the rest.
func next(t *testing.T, c *hubtest.Client) (e grouphub.Event) {
	t.Helper()
	for {
		m := c.Next()
		if err := m.Decode(&e); err != nil {
			t.Fatalf("%s: %v", m.Data, err)
		}
		if e.Type != "presence" {
			return e
		}
		e = grouphub.Event{}
	}
}

// expect checks the next thing that a visitor hears, and returns its ID.
func expect(t *testing.T, c *hubtest.Client, event string, want message) string {
	t.Helper()
	e := next(t, c)
	var got message
	if err := e.Decode(&got); err != nil {
		t.Fatal(err)
	}
	if e.Type != event || got != want {
		t.Errorf("%s %s %+v, want %s %+v", e.Type, e.Group, got, event, want)
	}
	return e.ID
}

func announceTo(chat http.Handler, room, text string, header http.Header) *httptest.ResponseRecorder {
	form := url.Values{"room": {room}, "text": {text}}
	r := httptest.NewRequest("POST", "/announce", strings.NewReader(form.Encode()))
	for name, values := range header {
		r.Header[name] = values
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	w := httptest.NewRecorder()
	chat.ServeHTTP(w, r)
	return w
}

func TestVisitorsOfARoomSeeEachOther(t *testing.T) {
	chat := newChat(t)
	ann, bob := enter(t, chat, "lobby", "Ann"), enter(t, chat, "lobby", "Bob")
	eve := enter(t, chat, "cellar", "Eve")

	ann.Send(message{Text: "你好 <b>Bob</b> 🎉"})
	bob.Send(message{Text: "Hello", Name: "Ann"}) // the name is not believed
	for _, visitor := range []*hubtest.Client{ann, bob} {
		got := map[message]bool{}
		for range 2 {
			var m message
			if err := next(t, visitor).Decode(&m); err != nil {
				t.Fatal(err)
			}
			got[m] = true
		}
		if !got[message{"Ann", "你好 <b>Bob</b> 🎉"}] || !got[message{"Bob", "Hello"}] {
			t.Errorf("a visitor of the room heard %v", got)
		}
	}
	// What Eve hears first is her own.
	eve.Send(message{Text: "Anybody here?"})
	expect(t, eve, "chat.message", message{"Eve", "Anybody here?"})
}

func TestVisitorSeesTheLastMessagesAndLaterWhatWasMissed(t *testing.T) {
	chat := newChat(t)
	announce := func(from, to int) {
		for i := from; i < to; i++ {
			if w := announceTo(chat, "lobby", fmt.Sprint(i), nil); w.Code != http.StatusNoContent {
				t.Fatalf("the announcement was answered with %d %s", w.Code, w.Body)
			}
		}
	}
	const all = lastMessages + 10
	announce(0, all)
	bob := enter(t, chat, "lobby", "Bob")
	var id string
	for i := range lastMessages {
		id = expect(t, bob, "chat.announcement", message{Text: fmt.Sprint(all - lastMessages + i)})
	}
	bob.Close()

	announce(all, all+3)
	back := hubtest.Dial(t, chat, "/ws?"+url.Values{"room": {"lobby"}, "name": {"Bob"}, "resume": {"room:lobby@" + id}}.Encode())
	for i := range 3 {
		expect(t, back, "chat.announcement", message{Text: fmt.Sprint(all + i)})
	}
	if e := next(t, back); e.Type != "grouphub.position" {
		t.Errorf("after what was missed comes %+v", e)
	}
}

// expectPresence checks the next coming or going that a visitor hears of, whose names are
// separated by spaces.
func expectPresence(t *testing.T, c *hubtest.Client, joined, left, members string) {
	t.Helper()
	var got struct{ Joined, Left, Members []struct{ User string } }
	if err := c.SkipTo("presence").Decode(&got); err != nil {
		t.Fatal(err)
	}
	for i, people := range [][]struct{ User string }{got.Joined, got.Left, got.Members} {
		var names []string
		for _, person := range people {
			names = append(names, person.User)
		}
		if want := []string{joined, left, members}[i]; strings.Join(names, " ") != want {
			t.Errorf("%s are %q, want %q", []string{"joined", "left", "members"}[i], names, want)
		}
	}
}

func TestEverybodyIsToldWhoComesAndGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := newChat(t)
		ann := enter(t, chat, "lobby", "Ann")
		expectPresence(t, ann, "", "", "Ann")
		bob, again := enter(t, chat, "lobby", "Bob"), enter(t, chat, "lobby", "Bob")
		enter(t, chat, "cellar", "Eve")
		expectPresence(t, ann, "Bob", "", "")
		expectPresence(t, bob, "", "", "Ann Bob")
		bob.Close()
		again.Close()
		enter(t, chat, "lobby", "Cid")
		expectPresence(t, ann, "Cid", "", "")
		expectPresence(t, ann, "", "Bob", "")
	})
}

func TestAnnouncementReachesItsRoomOnly(t *testing.T) {
	chat := newChat(t)
	ann, eve := enter(t, chat, "lobby", "Ann"), enter(t, chat, "cellar", "Eve")

	for _, room := range []string{"lobby", "cellar"} {
		if w := announceTo(chat, room, "Tea in the "+room, nil); w.Code != http.StatusNoContent {
			t.Fatalf("the announcement was answered with %d %s", w.Code, w.Body)
		}
	}
	expect(t, ann, "chat.announcement", message{Text: "Tea in the lobby"})
	expect(t, eve, "chat.announcement", message{Text: "Tea in the cellar"})
}

func TestPageFindsItsClient(t *testing.T) {
	source := regexp.MustCompile(`from "(/[^"]+)"`).FindSubmatch(page)
	if source == nil {
		t.Fatal("the page imports nothing")
	}
	w := httptest.NewRecorder()
	newChat(t).ServeHTTP(w, httptest.NewRequest("GET", string(source[1]), nil))
	if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), "export class GroupHub") {
		t.Errorf("%s: %d with %d bytes", source[1], w.Code, w.Body.Len())
	}
}

func TestAnnouncementOfAnotherSiteIsRefused(t *testing.T) {
	w := announceTo(newChat(t), "lobby", "Buy now", http.Header{"Sec-Fetch-Site": {"cross-site"}})
	if w.Code != http.StatusForbidden {
		t.Errorf("status %d, want %d", w.Code, http.StatusForbidden)
	}
}

func TestAnnouncementNeedsARoomAndAText(t *testing.T) {
	chat := newChat(t)
	for _, form := range [][2]string{{"", "text"}, {"lobby", " "}, {"lobby\n", "text"}, {"lobby", strings.Repeat("x", maxTextLength+1)}} {
		if w := announceTo(chat, form[0], form[1], nil); w.Code != http.StatusBadRequest {
			t.Errorf("%.20q: status %d, want %d", form, w.Code, http.StatusBadRequest)
		}
	}
}

func TestVisitorNeedsARoomAndAName(t *testing.T) {
	chat := newChat(t)
	for _, query := range []string{"", "room=lobby", "name=Ann", "room=lobby&name=%00", "room=lobby&name=%FF", "room=+&name=Ann"} {
		if response := hubtest.DialRefused(t, chat, "/ws?"+query); response.StatusCode != http.StatusForbidden {
			t.Errorf("%q: status %d, want %d", query, response.StatusCode, http.StatusForbidden)
		}
	}
}

func TestServerWaitsForNobodyWhoSendsNothing(t *testing.T) {
	if server := newServer(nil); server.ReadTimeout == 0 || server.IdleTimeout == 0 {
		t.Errorf("reads for %v, idle for %v, want limits", server.ReadTimeout, server.IdleTimeout)
	}
}

func TestTextThatIsEmptyOrTooLongClosesItsConnection(t *testing.T) {
	chat := newChat(t)
	for i, text := range []string{"", " \n", strings.Repeat("长", maxTextLength+1)} {
		ann := enter(t, chat, fmt.Sprint("room ", i), "Ann")
		ann.Send(message{Text: text})
		ann.ExpectClose(1008)
	}
}

func TestFirstLineSaysWhereAndTheEndIsClean(t *testing.T) {
	redis := miniredis.RunT(t)
	for _, redisURL := range []string{"", "redis://" + redis.Addr()} {
		ctx, stop := context.WithCancel(t.Context())
		out, in := io.Pipe()
		ended := make(chan error, 1)
		go func() {
			ended <- run(ctx, "127.0.0.1:0", redisURL, in)
			in.Close()
		}()
		lines := bufio.NewReader(out)
		first, err := lines.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		go io.Copy(io.Discard, lines)

		response, err := http.Get(regexp.MustCompile(`http://\S+`).FindString(first))
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil || string(body) != string(page) {
			t.Errorf("%q leads to %d bytes (error %v), not to the page", first, len(body), err)
		}
		http.DefaultClient.CloseIdleConnections()
		stop()
		if err := <-ended; err != nil {
			t.Errorf("run: %v", err)
		}
	}
	for redis.CurrentConnectionCount() > 0 { // the server hears a little later that they are closed
		runtime.Gosched()
	}
}

func TestRoomIsSharedThroughRedisAndSurvivesItsAbsence(t *testing.T) {
	redis := miniredis.RunT(t)
	var visitors []*hubtest.Client
	for _, name := range []string{"Ann", "Bob"} {
		layer, err := grouphub.NewRedisLayer("redis://"+redis.Addr(), nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { layer.Close() })
		visitors = append(visitors, enter(t, newChatOn(t, layer), "lobby", name))
	}
	ann, bob := visitors[0], visitors[1]
	ann.Send(message{Text: "Hello Bob"})
	expect(t, ann, "chat.message", message{"Ann", "Hello Bob"})
	expect(t, bob, "chat.message", message{"Ann", "Hello Bob"})

	redis.Close()
	bob.Send(message{Text: "Hello Ann"})
	expect(t, bob, "chat.unsent", message{"Bob", "Hello Ann"})
	if err := redis.Restart(); err != nil {
		t.Fatal(err)
	}
	resynced := `{"type":"resync","group":"!user/` // of a group that keeps nothing, so Redis is back
	for _, visitor := range visitors {
		for m := visitor.Next(); !strings.HasPrefix(string(m.Data), resynced); m = visitor.Next() {
			if strings.HasPrefix(string(m.Data), `{"type":"resync","group":"room:`) {
				t.Errorf("what the room keeps was lost: %s", m.Data)
			}
		}
	}
	bob.Send(message{Text: "Hello again"})
	expect(t, ann, "chat.message", message{"Bob", "Hello again"})
	expect(t, bob, "chat.message", message{"Bob", "Hello again"})
}

func TestRedisThatIsNotThereIsAnErrorThatSaysSo(t *testing.T) {
	const absent = "127.0.0.1:1" // a port that nobody is given
	for url, want := range map[string]string{"redis://" + absent: absent, "localhost:6379": "redis://user:password@host:port/db"} {
		err := run(t.Context(), "127.0.0.1:0", url, io.Discard)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("run with redis at %s: %v, want one line with %s", url, err, want)
		}
	}
}

func TestWithoutAnAddressOnlyThisMachineReachesIt(t *testing.T) {
	flags, args := flag.CommandLine, os.Args
	defer func() { flag.CommandLine, os.Args = flags, args }()
	flag.CommandLine, os.Args = flag.NewFlagSet("chat", flag.PanicOnError), []string{"chat", "-help"}
	flag.CommandLine.SetOutput(io.Discard)
	func() {
		defer func() {
			if asked := recover(); asked != flag.ErrHelp {
				t.Errorf("main panicked with %v", asked)
			}
		}()
		main() // as far as flag.Parse
	}()
	const want = "127.0.0.1:8080"
	if addr := flag.CommandLine.Lookup("addr"); addr == nil || addr.DefValue != want {
		t.Errorf("flag %+v, want addr with %s", addr, want)
	}
}

func TestBusyPortIsAnErrorThatNamesIt(t *testing.T) {
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	err = run(t.Context(), busy.Addr().String(), "", io.Discard)
	if err == nil || !strings.Contains(err.Error(), busy.Addr().String()) {
		t.Errorf("run on a busy port: %v", err)
	}
}
