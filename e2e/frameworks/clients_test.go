package frameworks

import (
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/seed-29c60982/grouphub"
)

// The programs send a note, long enough for a frame with a 16-bit length, wait for it
// to come back, and print its text once the connection was closed in good order.
const (
	nodeClient = `
const socket = new Socket(process.argv[1])
let text
socket.onopen = () => socket.send(JSON.stringify({Text: "你好 🎉 ".repeat(1000)}))
socket.onmessage = ({data}) => {
	text = JSON.parse(data).data.Text
	socket.close(1000, "enough")
}
socket.onclose = ({code, wasClean}) => {
	if (code !== 1000 || !wasClean) throw new Error("closed with " + code)
	process.stdout.write(text)
}
`
	pythonClient = `
import asyncio, json, sys, websockets

async def talk():
    async with websockets.connect(sys.argv[1]) as socket:
        await socket.send(json.dumps({"Text": "你好 🎉 " * 1000}))
        text = json.loads(await socket.recv())["data"]["Text"]
        await socket.close(1000, "enough")
        assert socket.close_code == 1000, socket.close_code
        sys.stdout.buffer.write(text.encode())

asyncio.run(talk())
`
)

func TestClientsOfOthersAreUnderstood(t *testing.T) {
	for name, find := range map[string]func(t *testing.T) *exec.Cmd{"Node": builtin, "ws": ws, "Python": python} {
		t.Run(name, func(t *testing.T) {
			for _, compression := range []bool{false, true} {
				client := find(t)
				router := http.NewServeMux()
				router.Handle("/ws/{room}", newHub(t, &grouphub.Options{Compression: compression}))
				server := httptest.NewServer(router)
				defer server.Close()

				client.Args = append(client.Args, strings.Replace(server.URL, "http", "ws", 1)+"/ws/lobby")
				client.Stderr = os.Stderr
				output, err := client.Output()
				if err != nil {
					t.Fatalf("compression %v: %v", compression, err)
				}
				if want := strings.Repeat("你好 🎉 ", 1000); string(output) != want {
					t.Errorf("compression %v: what came back is %d bytes, want %d: %.60q", compression, len(output), len(want), output)
				}
			}
		})
	}
}

// builtin is the WebSocket that newer versions of Node have themselves. Older ones are
// no reason to fail: the package is tried with every version.
func builtin(t *testing.T) *exec.Cmd {
	t.Helper()
	if exec.Command("node", "--experimental-websocket", "-e", "process.exit(typeof WebSocket === 'function' ? 0 : 1)").Run() != nil {
		t.Skip("this Node has no WebSocket, or there is no Node")
	}
	return exec.Command("node", "--experimental-websocket", "-e", "const Socket = WebSocket;"+nodeClient, "--")
}

// ws is the package that most programs for Node use.
func ws(t *testing.T) *exec.Cmd {
	t.Helper()
	folder := t.TempDir()
	install := exec.Command("npm", "install", "--no-save", "--no-audit", "--no-fund", "ws@8")
	install.Dir = folder
	if output, err := install.CombinedOutput(); err != nil {
		missing(t, "npm install ws: %v\n%s", err, output)
	}
	client := exec.Command("node", "-e", `const Socket = require("ws");`+nodeClient, "--")
	client.Dir = folder
	return client
}

func python(t *testing.T) *exec.Cmd {
	t.Helper()
	for _, name := range []string{"python3", "/usr/bin/python3"} { // the second is Debian's, with Debian's packages
		if exec.Command(name, "-c", "import websockets").Run() == nil {
			return exec.Command(name, "-c", pythonClient)
		}
	}
	missing(t, "Python's websockets is not installed")
	return nil
}

// missing fails the test in CI, which installs everything, and skips it elsewhere.
func missing(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}
