package engine

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// Settings with which Firefox is quiet, and as its users have it: a headless one keeps pages
// for the way back only if it is told to.
const firefoxSettings = `
user_pref("browser.sessionhistory.max_total_viewers", 5);
user_pref("datareporting.policy.dataSubmissionEnabled", false);
user_pref("toolkit.telemetry.enabled", false);
user_pref("app.normandy.enabled", false);
user_pref("network.captive-portal-service.enabled", false);
user_pref("network.connectivity-service.enabled", false);
user_pref("browser.safebrowsing.malware.enabled", false);
user_pref("browser.safebrowsing.phishing.enabled", false);
user_pref("services.settings.server", "data:,");
`

// A firefox is a Firefox that is driven by WebDriver BiDi.
type firefox struct {
	process *exec.Cmd
	conn    *websocket.Conn

	mu      sync.Mutex
	last    int
	answers map[int]chan bidiAnswer
	broken  error // why there are no more answers
}

type bidiAnswer struct {
	ID      int             `json:"id"`
	Type    string          `json:"type"`
	Result  json.RawMessage `json:"result"`
	Error   string          `json:"error"`
	Message string          `json:"message"`
}

func startFirefox(t *testing.T) Browser {
	t.Helper()
	path, err := exec.LookPath("firefox-esr")
	if err != nil {
		path, err = exec.LookPath("firefox")
	}
	if err != nil {
		Missing(t, "firefox is not installed")
	}
	home := t.TempDir()
	if err := os.WriteFile(filepath.Join(home, "user.js"), []byte(firefoxSettings), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, "--headless", "--no-remote", "--profile", home, "--remote-debugging-port", "0")
	cmd.Env = append(os.Environ(), "HOME="+home, "MOZ_CRASHREPORTER_DISABLE=1")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	startGroup(t, cmd)
	address := make(chan string, 1)
	go func() {
		lines := bufio.NewScanner(stderr)
		for lines.Scan() {
			if found := regexp.MustCompile(`ws://\S+`).FindString(lines.Text()); found != "" {
				address <- found
			}
		}
	}()
	f := &firefox{process: cmd, answers: make(map[int]chan bidiAnswer)}
	select {
	case found := <-address:
		if f.conn, _, err = websocket.DefaultDialer.Dial(found+"/session", nil); err != nil {
			t.Fatal(err)
		}
	case <-time.After(Patience):
		t.Fatal("firefox does not say where it listens")
	}
	go f.read()
	f.call(t, "session.new", map[string]any{"capabilities": map[string]any{}}, nil)
	return f
}

func (f *firefox) read() {
	for {
		var a bidiAnswer
		err := f.conn.ReadJSON(&a)
		f.mu.Lock()
		if err != nil {
			f.broken = err
			for _, answer := range f.answers {
				close(answer)
			}
			f.mu.Unlock()
			return
		}
		if answer := f.answers[a.ID]; answer != nil && a.Type != "event" {
			answer <- a
			delete(f.answers, a.ID)
		}
		f.mu.Unlock()
	}
}

// call runs a command, and decodes its result unless that is nil.
func (f *firefox) call(t *testing.T, method string, params, result any) {
	t.Helper()
	answer := make(chan bidiAnswer, 1)
	f.mu.Lock()
	if f.broken != nil {
		f.mu.Unlock()
		t.Fatalf("%s: %v", method, f.broken)
	}
	f.last++
	f.answers[f.last] = answer
	err := f.conn.WriteJSON(map[string]any{"id": f.last, "method": method, "params": params})
	f.mu.Unlock()
	if err != nil {
		t.Fatalf("%s: %v", method, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*Patience)
	defer cancel()
	select {
	case a, ok := <-answer:
		if !ok || a.Type == "error" {
			t.Fatalf("%s: %s: %s", method, a.Error, a.Message)
		}
		if result != nil {
			if err := json.Unmarshal(a.Result, result); err != nil {
				t.Fatalf("%s: %v: %s", method, err, a.Result)
			}
		}
	case <-ctx.Done():
		t.Fatalf("%s: no answer", method)
	}
}

func (f *firefox) Name() string { return "Firefox" }

func (f *firefox) Open(t *testing.T, url string) Tab {
	t.Helper()
	var created struct{ Context string }
	f.call(t, "browsingContext.create", map[string]any{"type": "tab"}, &created)
	tab := &firefoxTab{f, t, created.Context}
	t.Cleanup(func() { f.call(t, "browsingContext.close", map[string]any{"context": created.Context}, nil) })
	tab.Navigate(url)
	return tab
}

type firefoxTab struct {
	*firefox
	t       *testing.T
	context string
}

func (f *firefoxTab) Navigate(url string) {
	f.t.Helper()
	f.call(f.t, "browsingContext.navigate", map[string]any{"context": f.context, "url": url, "wait": "complete"}, nil)
}

func (f *firefoxTab) Back() {
	f.t.Helper()
	f.call(f.t, "browsingContext.traverseHistory", map[string]any{"context": f.context, "delta": -1}, nil)
}

func (f *firefoxTab) Eval(expression string) string {
	f.t.Helper()
	var evaluated struct {
		Type             string
		Result           struct{ Value string }
		ExceptionDetails struct{ Text string }
	}
	f.call(f.t, "script.evaluate", map[string]any{
		"expression":   fmt.Sprintf("(async () => JSON.stringify(await (%s)) ?? 'null')()", expression),
		"target":       map[string]any{"context": f.context},
		"awaitPromise": true,
	}, &evaluated)
	if evaluated.Type != "success" {
		f.t.Fatalf("%s: %s", expression, evaluated.ExceptionDetails.Text)
	}
	return evaluated.Result.Value
}

func (f *firefoxTab) Offline(offline bool) {
	f.t.Helper()
	var conditions any
	if offline {
		conditions = map[string]any{"type": "offline"}
	}
	f.call(f.t, "emulation.setNetworkConditions", map[string]any{"contexts": []string{f.context}, "networkConditions": conditions}, nil)
}

func (f *firefoxTab) Freeze() {
	f.t.Cleanup(f.Thaw)
	signalGroup(f.process, syscall.SIGSTOP)
}

func (f *firefoxTab) Thaw() { signalGroup(f.process, syscall.SIGCONT) }
