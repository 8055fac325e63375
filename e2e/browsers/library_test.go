package browsers

import (
	"bufio"
	"bytes"
	"context"
	"html"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/e2e/engine"
	"github.com/seed-29c60982/grouphub/e2e/network"
	"github.com/seed-29c60982/grouphub/e2e/npm"
	"github.com/seed-29c60982/grouphub/internal/eventstream"
)

// What follows is quoted in docs/streams.md.

func news(added grouphub.EventHandler) grouphub.Consumer {
	return grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error { return c.Join("news", grouphub.Last(10)) },
		Events:  grouphub.Events{"news.added": added},
	}
}

func item(e grouphub.Event) ([]byte, error) {
	var text string
	err := e.Decode(&text)
	return []byte("<li>" + html.EscapeString(text) + "</li>"), err
}

// The lines that datastar wants.
func patch(e grouphub.Event) ([]byte, error) {
	li, err := item(e)
	return append([]byte("selector #news\nmode append\nelements "), li...), err
}

func newsRoutes(hub *grouphub.Hub) *http.ServeMux {
	mux := http.NewServeMux()
	mux.Handle("/news", hub.Handler(news(grouphub.Forward())))
	mux.Handle("/news/html", hub.Handler(news(grouphub.Render(item))))
	mux.Handle("/news/named", hub.Handler(news(grouphub.Render(item).Named("item"))))
	mux.Handle("/news/patches", hub.Handler(news(grouphub.Render(patch).Named("datastar-patch-elements"))))
	return mux
}

// The datastar that npm has is a beta, which has other names for the same.
var beta = strings.NewReplacer("data-init", "data-on-load", "/news/patches", "/news/fragments",
	"elements ", "fragments ", "mode ", "mergeMode ")

func fragments(e grouphub.Event) ([]byte, error) {
	lines, err := patch(e)
	return []byte(beta.Replace(string(lines))), err
}

// Libraries are what pages have that consume a stream, as docs/streams.md shows.
var libraries = []struct {
	name           string
	scripts        []string // of npm
	block          string   // a part of the guide's block
	outlivesServer bool     // or begins anew, where the browser gives up
}{
	{"EventSource", nil, "new EventSource(", true},
	{"htmx 4", []string{"htmx.org/dist/htmx.min.js", "htmx.org/dist/ext/hx-sse.min.js"}, "hx-sse:connect", true},
	{"htmx 2", []string{"htmx2/dist/htmx.min.js", "htmx-ext-sse/dist/sse.min.js"}, "sse-connect", false},
	{"datastar", []string{"datastar.js"}, "@get(", true},
}

// newNews returns a hub whose groups keep their events.
func newNews() *grouphub.Hub {
	return grouphub.New(&grouphub.Options{
		Policy: func(string) grouphub.GroupPolicy { return grouphub.GroupPolicy{History: 100} },
		Logger: slog.New(slog.DiscardHandler),
	})
}

// endAfter ends a hub and its server with the test.
func endAfter(t *testing.T, hub *grouphub.Hub, server *httptest.Server) {
	t.Cleanup(func() {
		if err := hub.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		server.CloseClientConnections()
		server.Close()
	})
}

func TestCurlResumesAsTheGuideShows(t *testing.T) {
	for _, name := range []string{"bash", "curl"} {
		if _, err := exec.LookPath(name); err != nil {
			engine.Missing(t, name+" is not installed")
		}
	}
	guide, err := os.ReadFile("../../docs/streams.md")
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile(`curl -N .*\$ID.*`).FindString(string(guide))
	hub := newNews()
	server := httptest.NewServer(newsRoutes(hub))
	endAfter(t, hub, server)
	id := ""
	for _, text := range []string{"one", "two"} { // "one" comes once
		if err := hub.GroupSend(t.Context(), "news", "news.added", text); err != nil {
			t.Fatal(err)
		}
		curl := exec.Command("bash", "-c", "exec "+strings.Replace(block, "http://localhost:8080", server.URL, 1))
		curl.Env = append(os.Environ(), "ID="+id)
		stdout, err := curl.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := curl.Start(); err != nil {
			t.Fatal(err)
		}
		blocks := bufio.NewReader(stdout)
		for b := (eventstream.Block{}); ; {
			if b, err = eventstream.ReadBlock(blocks, b.ID); err != nil {
				t.Fatal(err)
			}
			if b.Name == "" {
				if want := `{"type":"news.added","group":"news","id":`; !strings.HasPrefix(b.Data, want) || !strings.HasSuffix(b.Data, `"data":"`+text+`"}`) {
					t.Errorf("curl got %s, want %s", b.Data, text)
				}
				id = b.ID
				break
			}
		}
		if err := curl.Process.Kill(); err != nil {
			t.Error(err)
		}
		_ = curl.Wait() // it was killed
	}
}

func TestLibrariesResumeAsTheGuideShows(t *testing.T) {
	modules := npm.Install(t)
	bundle := exec.Command(filepath.Join(modules, ".bin", "esbuild"), "--bundle", "--format=iife",
		"--outfile="+filepath.Join(modules, "datastar.js"), filepath.Join(modules, "@starfederation/datastar/dist/bundles/datastar.js"))
	if output, err := bundle.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	guide, err := os.ReadFile("../../docs/streams.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```html\n(.*?)```").FindAllSubmatch(guide, -1)
	engine.Each(t, func(t *testing.T, b engine.Browser) {
		for _, library := range libraries {
			t.Run(library.name, func(t *testing.T) {
				var page bytes.Buffer
				page.WriteString("<!DOCTYPE html><meta charset=utf-8><title>news</title>")
				for _, block := range blocks {
					if bytes.Contains(block[1], []byte(library.block)) {
						page.WriteString("<body>" + beta.Replace(string(block[1])))
					}
				}
				for _, script := range library.scripts {
					page.WriteString(`<script src="/npm/` + script + `"></script>`)
				}
				hub := newNews()
				mux := newsRoutes(hub)
				mux.Handle("/news/fragments", hub.Handler(news(grouphub.Render(fragments).Named("datastar-merge-fragments"))))
				mux.Handle("/npm/", http.StripPrefix("/npm/", http.FileServer(http.Dir(modules))))
				mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Content-Type", "text/html; charset=utf-8")
					w.Write(page.Bytes())
				})
				server := httptest.NewServer(mux)
				proxy := network.NewProxy(t, server.Listener.Addr().String())
				endAfter(t, hub, server)
				var want []string
				add := func(n int) {
					t.Helper()
					for range n {
						text := "<b>" + strconv.Itoa(len(want)+1) + "</b> & so on"
						want = append(want, text)
						if err := hub.GroupSend(t.Context(), "news", "news.added", text); err != nil {
							t.Fatal(err)
						}
					}
				}
				add(1)
				tab := b.Open(t, "http://"+proxy.Address)
				const shown = `[...document.querySelectorAll("li")].map(li => li.textContent)`
				see := func() {
					t.Helper()
					engine.Wait(tab, `document.querySelectorAll("li").length >= `+strconv.Itoa(len(want)), shown)
					if got := tab.Eval(shown + `.join("\n")`); got != strconv.Quote(strings.Join(want, "\n")) {
						t.Errorf("the page shows %s, want %q", got, want)
					}
				}
				see()
				add(10)
				proxy.Cut()
				add(10)
				see()
				if library.outlivesServer {
					proxy.Refuse()
					add(10)
					tab.Eval(`new Promise(resolve => setTimeout(resolve, 4000))`) // an attempt fails
					proxy.Listen()
					see()
				}
			})
		}
	})
}
