// Package clientjs tries client.js without a browser: on a made-up network, and on a
// real one in the runtimes other than browsers that it is meant for.
package clientjs

import (
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
	output, err := exec.Command("node", "--test", "client.test.mjs").CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, output)
	}
}

func TestClientIsUnder4KilobytesMinified(t *testing.T) {
	folder := install(t, "esbuild@0.28")
	minify := exec.Command(binary(folder, "esbuild"), "--minify", "--format=esm", "client.js")
	minify.Dir = folder
	minify.Stderr = os.Stderr
	output, err := minify.Output()
	if err != nil {
		t.Fatal(err)
	}
	if n := len(output); n == 0 || n >= 4096 {
		t.Errorf("%d bytes", n)
	} else {
		t.Logf("%d bytes", n)
	}
}

// What has to compile, and, marked so, what must not.
const program = `
import {GroupHub, type GroupHubClose, type GroupHubEvent, type GroupHubOptions} from "./client.js"

const options: GroupHubOptions = {queue: 10, resume: false, protocols: ["chat"], minDelay: 1, maxDelay: 2, timeout: 3, WebSocket}
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
hub.send({text: "hi"}); hub.send("text"); hub.send(new Uint8Array(1)); off(); hub.close()

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
			code := fmt.Sprintf("import {GroupHub} from \"./client.mjs\"\n%s\nconst url = %q\n%s", runtime.socket, url, talk)
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
			const asked = "/ws?room=a+b&resume="
			if got, want := urls(), []string{asked, asked, asked}; !slices.Equal(got, want) {
				t.Errorf("the client asked for %q, want %q", got, want)
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
	for file, name := range map[string]string{"client.js": "client.mjs", "client.d.ts": "client.d.ts"} {
		data, err := os.ReadFile(filepath.Join("..", "..", file))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{file, name} {
			if err := os.WriteFile(filepath.Join(folder, name), data, 0o644); err != nil {
				t.Fatal(err)
			}
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
