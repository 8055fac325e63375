// Package clientjs tries client.js without a browser: on a made-up network, and on a
// real one in the runtimes other than browsers that it is meant for.
package clientjs

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/seed-29c60982/grouphub"
)

func TestClientKeepsWhatItsTypesPromise(t *testing.T) {
	node(t)
	files, err := filepath.Glob("*.test.mjs")
	if err != nil {
		t.Fatal(err)
	}
	output, err := exec.Command("node", append([]string{"--test"}, files...)...).CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, output)
	}
}

// What pages load is client.js, which has 200 bytes of its gzipped ones for choosing between
// WebSockets and streams. What streams need is loaded when they are needed.
func TestClientIsSmallWhenMinified(t *testing.T) {
	folder := install(t, "esbuild@0.28")
	for file, most := range map[string]struct{ minified, gzipped int }{
		"client.js":        {6144, 2765},
		"client.stream.js": {4096, 2048},
	} {
		minify := exec.Command(binary(folder, "esbuild"), "--minify", "--format=esm", file)
		minify.Dir = folder
		minify.Stderr = os.Stderr
		output, err := minify.Output()
		if err != nil {
			t.Fatal(err)
		}
		var packed bytes.Buffer
		w, err := gzip.NewWriterLevel(&packed, gzip.BestCompression)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(output); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %d bytes, %d gzipped", file, len(output), packed.Len())
		if len(output) == 0 || len(output) > most.minified || packed.Len() > most.gzipped {
			t.Errorf("%s has %d bytes, %d gzipped, and may have %d and %d", file, len(output), packed.Len(), most.minified, most.gzipped)
		}
	}
}

// What has to compile, and, marked so, what must not.
const program = `
import {GroupHub, type GroupHubClose, type GroupHubEvent, type GroupHubOptions, type OnOptions} from "./client.js"

const {signal} = new AbortController()
const options: GroupHubOptions = {
	queue: 10, resume: false, protocols: ["chat"], minDelay: 1, maxDelay: 2, timeout: 3, WebSocket,
	positions: {"room:a": "A.1"}, transport: "stream", heartbeat: 0, retry: (code, reason) => code === 4401 || reason === "x" || undefined, signal,
}
const hub: GroupHub = new GroupHub(new URL("wss://example.com/ws"), options)
new GroupHub("/ws")
const off: () => void = hub.on("open", () => {})
hub.on("close", close => { const {code, reason, willReconnect, delay}: GroupHubClose = close })
hub.on("close", ({code}) => { const n: number = code })
hub.on("resync", (group, event) => { const names: string[] = [group, event.type] })
hub.on("message", data => { const n: number = typeof data === "string" ? data.length : data.byteLength })
hub.on("*", (data, event) => { const type: string = event.type })
hub.on<{text: string}>("chat.message", ({text}, event) => { const e: GroupHubEvent<{text: string}> = event; const s: string = text })
hub.on("chat.message", ({text}: {text: string}) => {})
hub.on("position", group => { const s: string = group })
const once: OnOptions = {once: true, signal}
hub.on("open", () => {}, once)
hub.on("tick", () => {}, {once: true})
hub.send({text: "hi"}); hub.send("text"); hub.send(new Uint8Array(1)); off(); hub.reconnect(); hub.close()
const state: "connecting" | "open" | "waiting" | "closed" = hub.state
const transport: "websocket" | "stream" | undefined = hub.transport
new GroupHub("/ws", {positions: hub.positions})
new GroupHub(() => "/ws")
new GroupHub(async () => new URL("wss://example.com"))

interface Message { text: string }
const typed = new GroupHub<{"chat.message": Message, "tick": number}>("/ws")
typed.on("chat.message", ({text}, event) => { const s: string = text; const data: Message | undefined = event.data })
typed.on("tick", (n: number) => {})
typed.on("open", () => {})
typed.on("*", (data, event) => {})
typed.on("another", data => { data.anything })
typed.on<{name: string}>("another", ({name}) => { const s: string = name })
const name: string = "any"
typed.on(name, () => {})

// @ts-expect-error
typed.on("chat.message", ({txt}) => {})
// @ts-expect-error
typed.on("tick", (s: string) => {})
// @ts-expect-error
hub.state = "open"
// @ts-expect-error
new GroupHub("/ws", {transport: "poll"})
// @ts-expect-error
new GroupHub("/ws", {retry: () => "yes"})
// @ts-expect-error
hub.on("tick", () => {}, {passive: true})

// @ts-expect-error
new GroupHub()
// @ts-expect-error
new GroupHub("/ws", {queues: 1})
// @ts-expect-error
hub.on("chat.message")
// @ts-expect-error
hub.on<{text: string}>("chat.message", ({txt}) => {})
// @ts-expect-error
hub.send()
// @ts-expect-error
hub.close(1000)
`

func TestTypesOfTheClientCanBeUsed(t *testing.T) {
	folder := install(t, "typescript@5")
	if err := os.WriteFile(filepath.Join(folder, "program.ts"), []byte(program), 0o644); err != nil {
		t.Fatal(err)
	}
	check := exec.Command(binary(folder, "tsc"), "--strict", "--noEmit", "--target", "es2022",
		"--lib", "es2022,dom", "--module", "esnext", "--moduleResolution", "bundler", "program.ts")
	check.Dir = folder
	if output, err := check.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, output)
	}
}

// talk is refused once, says one, is cut off, comes back, says two, is logged out, and ends.
const talk = `
const hub = new GroupHub(url, {queue: 1, minDelay: 10, WebSocket: Socket})
const seen = []
let opened = 0
hub.on("open", () => { if (opened++) hub.send({Text: "two"}) })
hub.on("note", text => {
	seen.push(text)
	hub.send({Text: text === "one" ? "restart" : "logout"})
})
hub.on("close", ({code, willReconnect}) => {
	seen.push(code, willReconnect)
	if (!willReconnect) console.log(JSON.stringify(seen))
})
hub.send({Text: "one"})
`

func TestClientRunsOutsideOfBrowsers(t *testing.T) {
	for name, runtime := range map[string]struct {
		packages []string
		command  string
		socket   string
	}{
		"Node": {nil, "node --experimental-websocket", `const Socket = undefined`},
		"ws":   {[]string{"ws@8"}, "node", `import Socket from "ws"`},
		"Deno": {[]string{"deno@2"}, binary(".", "deno") + " run --allow-net", `const Socket = undefined`},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "Node" {
				node(t)
				if exec.Command("node", "--experimental-websocket", "-e", "process.exit(typeof WebSocket === 'function' ? 0 : 1)").Run() != nil {
					t.Skip("this Node has no WebSocket")
				}
			}
			folder := install(t, runtime.packages...)
			url, urls := serve(t)
			code := fmt.Sprintf("import {GroupHub} from \"./client.js\"\n%s\nconst url = %q\n%s", runtime.socket, url, talk)
			if err := os.WriteFile(filepath.Join(folder, "talk.mjs"), []byte(code), 0o644); err != nil {
				t.Fatal(err)
			}
			command := strings.Fields(runtime.command + " talk.mjs")
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, command[0], command[1:]...)
			cmd.Dir = folder
			cmd.Stderr = os.Stderr
			output, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			const want = `[1006,true,"one",1012,true,"two",4401,false]`
			if got := strings.TrimSpace(string(output)); got != want {
				t.Errorf("the client saw %s, want %s", got, want)
			}
			const asked = "/ws?room=a+b&heartbeat=25&resume="
			requests := []string{asked, asked, asked}
			if name != "ws" { // whose constructor is not the platform's own: the first refusal is asked about
				requests = append(requests, asked)
			}
			if got := urls(); !slices.Equal(got, requests) {
				t.Errorf("the client asked for %q, want %q", got, requests)
			}
		})
	}
}

// serve is a server that refuses the first connection. urls is what it was asked for.
func serve(t *testing.T) (url string, urls func() []string) {
	t.Helper()
	hub := grouphub.New(nil)
	t.Cleanup(func() {
		if err := hub.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	endpoint := hub.Handler(grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error { return c.Join("notes") },
		Receive: grouphub.ReceiveAs(func(c *grouphub.Conn, m struct{ Text string }) error {
			switch m.Text {
			case "restart":
				return &grouphub.CloseError{Code: 1012, Reason: "restart"}
			case "logout":
				return &grouphub.CloseError{Code: 4401, Reason: "logout"}
			}
			return hub.GroupSend(c.Context(), "notes", "note", m.Text)
		}),
		Events: grouphub.Events{"note": grouphub.Forward()},
	})
	asked := make(chan string, 100)
	var requests atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.RequestURI
		if requests.Add(1) == 1 {
			http.Error(w, "not yet", http.StatusServiceUnavailable)
			return
		}
		endpoint.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	return server.URL + "/ws?room=a+b", func() []string {
		var all []string
		for len(asked) > 0 {
			all = append(all, <-asked)
		}
		return all
	}
}

// install returns a folder with the client and packages of npm.
func install(t *testing.T, packages ...string) string {
	t.Helper()
	folder := t.TempDir()
	for _, file := range []string{"client.js", "client.stream.js", "client.d.ts", "package.json"} {
		data, err := os.ReadFile(filepath.Join("..", "..", file))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(folder, file), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if len(packages) == 0 {
		return folder
	}
	install := exec.Command("npm", append([]string{"install", "--no-save", "--no-audit", "--no-fund"}, packages...)...)
	install.Dir = folder
	if output, err := install.CombinedOutput(); err != nil {
		missing(t, "npm install %v: %v\n%s", packages, err, output)
	}
	return folder
}

// binary is the program of a package that was installed in the folder.
func binary(folder, name string) string { return filepath.Join(folder, "node_modules", ".bin", name) }

func node(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("node"); err != nil {
		missing(t, "%v", err)
	}
}

// missing fails the test in CI, which installs everything, and skips it elsewhere.
func missing(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}
