package engine

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A webKit is WebKitGTK's MiniBrowser on a display of its own, driven by WebDriver.
type webKit struct {
	driver  *exec.Cmd
	session string // its URL
	first   string // the window that is there from the start, unless a Tab has it
}

func startWebKit(t *testing.T) Browser {
	t.Helper()
	for _, name := range []string{"WebKitWebDriver", "Xvfb"} {
		if _, err := exec.LookPath(name); err != nil {
			Missing(t, name+" is not installed")
		}
	}
	found, _ := filepath.Glob("/usr/lib/*/webkit2gtk-4.*/MiniBrowser")
	if len(found) == 0 {
		Missing(t, "WebKit's MiniBrowser is not installed")
	}
	port := freePort(t)
	cmd := exec.Command("WebKitWebDriver", "-p", port)
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir(), "DISPLAY="+startDisplay(t), "GDK_BACKEND=x11")
	startGroup(t, cmd)
	w := &webKit{driver: cmd, session: "http://127.0.0.1:" + port + "/session"}
	var created struct{ SessionID string }
	w.call(t, "POST", "", map[string]any{"capabilities": map[string]any{"alwaysMatch": map[string]any{
		"webkitgtk:browserOptions": map[string]any{"binary": found[0], "args": []string{"--automation"}},
		"timeouts":                 map[string]any{"script": (2 * Patience).Milliseconds()},
	}}}, &created)
	w.session += "/" + created.SessionID
	w.call(t, "GET", "/window", nil, &w.first)
	return w
}

// startDisplay starts an X server without a screen, and returns its name.
func startDisplay(t *testing.T) string {
	t.Helper()
	cmd := exec.Command("Xvfb", "-displayfd", "1", "-screen", "0", "1280x1024x24", "-nolisten", "tcp")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	startGroup(t, cmd)
	number, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatalf("Xvfb does not say which display it is: %v", err)
	}
	return ":" + strings.TrimSpace(number)
}

// freePort returns a port that nobody listens on: the driver cannot choose one.
func freePort(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	return port
}

// startGroup starts a program whose children end with it, at the end of the test.
func startGroup(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		signalGroup(cmd, syscall.SIGKILL)
		_ = cmd.Wait()
	})
}

// signalGroup signals a program and its children. One that has ended needs no signal.
func signalGroup(cmd *exec.Cmd, signal syscall.Signal) { _ = syscall.Kill(-cmd.Process.Pid, signal) }

func (w *webKit) Name() string { return "WebKit" }

func (w *webKit) Open(t *testing.T, url string) Tab {
	t.Helper()
	tab := &webKitTab{w, t, w.first}
	if tab.handle != "" { // with its last window the browser would end
		w.first = ""
		t.Cleanup(func() {
			tab.Navigate("about:blank")
			w.first = tab.handle
		})
	} else {
		var created struct{ Handle string }
		w.call(t, "POST", "/window/new", map[string]any{"type": "tab"}, &created)
		tab.handle = created.Handle
		t.Cleanup(func() { tab.call("DELETE", "/window", nil, nil) })
	}
	tab.Navigate(url)
	return tab
}

// call runs a command, and decodes its result unless that is nil.
func (w *webKit) call(t *testing.T, method, path string, params, result any) {
	t.Helper()
	var body []byte
	if params != nil {
		body, _ = json.Marshal(params) // which always marshals
	}
	client := http.Client{Timeout: 2*Patience + 5*time.Second}
	var answer *http.Response
	for deadline := time.Now().Add(Patience); ; {
		request, err := http.NewRequest(method, w.session+path, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		request.Close = true
		answer, err = client.Do(request)
		if err == nil {
			break
		}
		// The driver does not say when it listens.
		if path != "" || time.Now().After(deadline) {
			t.Fatalf("WebKit: %s %s: %v", method, path, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
	defer answer.Body.Close()
	var value struct{ Value json.RawMessage }
	if err := json.NewDecoder(answer.Body).Decode(&value); err != nil || answer.StatusCode != http.StatusOK {
		t.Fatalf("WebKit: %s %s: %s: %v: %s", method, path, answer.Status, err, value.Value)
	}
	if result != nil {
		if err := json.Unmarshal(value.Value, result); err != nil {
			t.Fatalf("WebKit: %s %s: %v: %s", method, path, err, value.Value)
		}
	}
}

type webKitTab struct {
	*webKit
	t      *testing.T
	handle string
}

// call runs a command in this tab.
func (w *webKitTab) call(method, path string, params, result any) {
	w.t.Helper()
	w.webKit.call(w.t, "POST", "/window", map[string]any{"handle": w.handle}, nil)
	w.webKit.call(w.t, method, path, params, result)
}

func (w *webKitTab) Navigate(url string) {
	w.t.Helper()
	w.call("POST", "/url", map[string]any{"url": url}, nil)
}

// Back returns when the other page is there, which the command does not wait for.
func (w *webKitTab) Back() {
	w.t.Helper()
	var before, now string
	w.call("GET", "/url", nil, &before)
	w.call("POST", "/back", map[string]any{}, nil)
	deadline := time.Now().Add(Patience)
	for now = before; now == before; {
		if time.Now().After(deadline) {
			w.t.Fatalf("WebKit: still at %s", before)
		}
		time.Sleep(20 * time.Millisecond)
		w.call("GET", "/url", nil, &now)
	}
}

func (w *webKitTab) Eval(expression string) string {
	w.t.Helper()
	var result struct{ Value, Error string }
	w.call("POST", "/execute/async", map[string]any{
		"script": fmt.Sprintf(`const done = arguments[0];
			(async () => JSON.stringify(await (%s)) ?? "null")().then(value => done({value}), error => done({error: String(error)}))`, expression),
		"args": []any{},
	}, &result)
	if result.Error != "" {
		w.t.Fatalf("%s: %s", expression, result.Error)
	}
	return result.Value
}

func (w *webKitTab) Freeze() {
	w.t.Cleanup(w.Thaw)
	signalGroup(w.driver, syscall.SIGSTOP)
}

func (w *webKitTab) Thaw() { signalGroup(w.driver, syscall.SIGCONT) }
