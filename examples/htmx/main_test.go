package main

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
	"github.com/seed-29c60982/grouphub/internal/leak"
)

// TestMain fails the suite if a goroutine outlives it.
func TestMain(m *testing.M) { leak.Check(m) }

func newList(t *testing.T, htmx string) http.Handler {
	hub := grouphub.New(newOptions())
	t.Cleanup(func() {
		if err := hub.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return routes(hub, htmx)
}

func post(list http.Handler, path string, form url.Values, header http.Header) *httptest.ResponseRecorder {
	r := httptest.NewRequest("POST", path, strings.NewReader(form.Encode()))
	for name, values := range header {
		r.Header[name] = values
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	w := httptest.NewRecorder()
	list.ServeHTTP(w, r)
	return w
}

func add(t *testing.T, list http.Handler, text string) {
	t.Helper()
	w := post(list, "/items", url.Values{"text": {text}}, nil)
	if w.Code != http.StatusOK || !strings.HasPrefix(w.Body.String(), `<form hx-post="/items"`) {
		t.Fatalf("%q was answered with %d %s, want an empty form", text, w.Code, w.Body)
	}
}

// expectItem returns the id of the item that a page is told of next.
func expectItem(t *testing.T, page *hubtest.Client, html string) (id string) {
	t.Helper()
	got := string(page.Next().Data)
	found := regexp.MustCompile(`^<li id="item-([A-Z2-7]{26})"><span dir="auto">(.*)</span>`).FindStringSubmatch(got)
	if found == nil || found[2] != html {
		t.Fatalf("the page got %s, want the item %s", got, html)
	}
	return found[1]
}

func TestEveryChangeComesAsHTML(t *testing.T) {
	list := newList(t, "")
	ann := hubtest.Dial(t, list, "/list", hubtest.AsStream())
	add(t, list, " milk & <b>honey</b> ")
	add(t, list, "茶")
	milk := expectItem(t, ann, "milk &amp; &lt;b&gt;honey&lt;/b&gt;")
	expectItem(t, ann, "茶")
	if w := post(list, "/items/"+milk+"/done", nil, nil); w.Code != http.StatusNoContent {
		t.Errorf("answered with %d %s", w.Code, w.Body)
	}
	const done = `<li id="item-%" hx-swap-oob="delete"></li>`
	if got, want := string(ann.Next().Data), strings.Replace(done, "%", milk, 1); got != want {
		t.Errorf("the page got %s, want %s", got, want)
	}
	// Whoever comes later gets the same changes.
	bob := hubtest.Dial(t, list, "/list", hubtest.AsStream())
	expectItem(t, bob, "milk &amp; &lt;b&gt;honey&lt;/b&gt;")
	expectItem(t, bob, "茶")
	if got, want := string(bob.Next().Data), strings.Replace(done, "%", milk, 1); got != want {
		t.Errorf("the page got %s, want %s", got, want)
	}
}

func TestPageThatCannotBeToldWhatItMissedBeginsAnew(t *testing.T) {
	list := newList(t, "")
	add(t, list, "tea")
	page := hubtest.Dial(t, list, "/list?lastEventId=from-before", hubtest.AsStream())
	for got := string(page.Next().Data); ; got = string(page.Next().Data) {
		if got == `<ul id="list" hx-swap-oob="innerHTML"></ul>` {
			break
		}
	}
	expectItem(t, page, "tea")
	add(t, list, "milk")
	expectItem(t, page, "milk")
}

func TestFormsAreBoundedAndOurOwn(t *testing.T) {
	list := newList(t, "")
	for _, text := range []string{"", "  ", "\xff", strings.Repeat("x", maxTextLength+1), strings.Repeat("x", 5000)} {
		if w := post(list, "/items", url.Values{"text": {text}}, nil); w.Code != http.StatusBadRequest {
			t.Errorf("%.10q was answered with %d", text, w.Code)
		}
	}
	for _, id := range []string{"x", strings.Repeat("%ff", idLength)} {
		if w := post(list, "/items/"+id+"/done", nil, nil); w.Code != http.StatusNotFound {
			t.Errorf("the item %s was answered with %d", id, w.Code)
		}
	}
	other := http.Header{"Sec-Fetch-Site": {"cross-site"}}
	if w := post(list, "/items", url.Values{"text": {"tea"}}, other); w.Code != http.StatusForbidden {
		t.Errorf("another site was answered with %d", w.Code)
	}
}

func TestPageHasHtmxFromACDNOrFromAFolder(t *testing.T) {
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "htmx.min.js"), []byte("// htmx"), 0o600); err != nil {
		t.Fatal(err)
	}
	for folder, wanted := range map[string]string{"": `src="https://cdn.`, folder: `src="/htmx/htmx.min.js"`} {
		list := newList(t, folder)
		for path, want := range map[string]string{"/": wanted, "/htmx/htmx.min.js": "// htmx"} {
			if folder == "" && path != "/" {
				continue
			}
			w := httptest.NewRecorder()
			list.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
			if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), want) {
				t.Errorf("with the folder %q %s was answered with %d %s", folder, path, w.Code, w.Body)
			}
		}
	}
}

func TestFirstLineSaysWhereAndTheEndIsClean(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	out, in := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, "127.0.0.1:0", "", "", in)
		in.Close()
	}()
	lines := bufio.NewReader(out)
	first, err := lines.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	go io.Copy(io.Discard, lines)
	response, err := http.Get(regexp.MustCompile(`http://[^\s/]+`).FindString(first))
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(response.Body)
	response.Body.Close()
	if err != nil || !strings.Contains(string(body), "<title>Shopping list</title>") {
		t.Errorf("%q leads to %q (error %v), not to the page", first, body, err)
	}
	http.DefaultClient.CloseIdleConnections()
	stop()
	if err := <-ended; err != nil {
		t.Errorf("run: %v", err)
	}
}
