// Package e2e drives the example programs as their users do: a real Chromium opens
// their pages, types, and looks at what is there.
//
// With GROUPHUB_SCREENSHOTS set to a directory, the tests leave pictures of the pages
// in it.
package e2e

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/seed-29c60982/grouphub/e2e/engine"
)

// patience is how long the page may take for anything; a test only waits that long
// when it fails.
const patience = engine.Patience

// programs is where the examples' binaries are.
var programs string

func TestMain(m *testing.M) { os.Exit(runTests(m)) }

func runTests(m *testing.M) int {
	engine.AtTheSameTime()
	var err error
	if programs, err = os.MkdirTemp("", "grouphub-e2e-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(programs)
	// With the race detector: a program that saw a race does not exit with 0.
	build := exec.Command("go", "build", "-race", "-o", programs+"/", "./examples/...")
	build.Dir = ".."
	if output, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the examples: %v\n%s", err, output)
		return 1
	}
	return m.Run()
}

// A program is an example that runs.
type program struct {
	url     string // without a slash at its end
	process *exec.Cmd
	stopped bool
}

// start runs an example on a free port, unless args say otherwise, until the test ends.
func start(t *testing.T, example string, args ...string) *program {
	t.Helper()
	cmd := exec.Command(filepath.Join(programs, example), append([]string{"-addr", "127.0.0.1:0"}, args...)...)
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &program{process: cmd}
	t.Cleanup(func() { p.stop(t) })
	first, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatalf("%s ended before it said where it is: %v", example, err)
	}
	url := regexp.MustCompile(`http://[^\s/]+`).FindString(first)
	if url == "" {
		t.Fatalf("%s does not say in its first line where it is: %q", example, first)
	}
	p.url = url
	return p
}

// stop ends the program as Ctrl-C does; it must end in good order, whoever is connected.
func (p *program) stop(t *testing.T) {
	t.Helper()
	if p.stopped {
		return
	}
	p.stopped = true
	// Best effort: a program that has ended by itself is reported by Wait.
	_ = p.process.Process.Signal(syscall.SIGINT)
	overdue := time.AfterFunc(patience, func() { _ = p.process.Process.Kill() })
	defer overdue.Stop()
	if err := p.process.Wait(); err != nil {
		t.Errorf("%s: %v", filepath.Base(p.process.Path), err)
	}
}

// A window is a tab with a page in it.
type window struct {
	t   *testing.T
	ctx context.Context
}

// open shows url in a new tab. A script error in it fails the test.
func open(t *testing.T, browser context.Context, url string) *window {
	t.Helper()
	ctx, cancel := chromedp.NewContext(browser)
	t.Cleanup(cancel)
	err := chromedp.Listen(ctx, func(event any) {
		if e, ok := event.(*runtime.EventExceptionThrown); ok {
			t.Errorf("script error in %s: %s %s", url, e.ExceptionDetails.Text, e.ExceptionDetails.Exception.Description)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	w := &window{t, ctx}
	w.do(chromedp.Navigate(url))
	return w
}

// run does something in the window, and fails the test when it cannot.
func run[T any](w *window, action chromedp.Action[T]) T {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.ctx, patience)
	defer cancel()
	result, err := chromedp.Run(ctx, action)
	if err != nil {
		w.t.Fatal(err)
	}
	return result
}

func (w *window) do(steps ...chromedp.Action[chromedp.Void]) {
	w.t.Helper()
	run(w, chromedp.Steps(steps...))
}

// eval is for what is on the page now.
func eval[T any](w *window, expression string) T {
	w.t.Helper()
	return run(w, chromedp.Evaluate[T](expression))
}

func (w *window) text(selector string) string {
	w.t.Helper()
	return eval[string](w, fmt.Sprintf(`document.querySelector(%q).innerText`, selector))
}

// wait returns once the JavaScript expression is true; it is tried at each change of the page.
func (w *window) wait(expression string) {
	w.t.Helper()
	_, err := chromedp.Run(w.ctx, chromedp.Poll[chromedp.Void](expression,
		chromedp.WithPollingMutation(), chromedp.WithPollingTimeout(patience)))
	if err != nil {
		w.t.Fatalf("%s: %v; the page says:\n%s", expression, err, w.text("body"))
	}
}

// waitText waits until an element that matches the selector has exactly this text.
func (w *window) waitText(selector, text string) {
	w.t.Helper()
	w.wait(fmt.Sprintf(`[...document.querySelectorAll(%q)].some(e => e.textContent === %q)`, selector, text))
}

// write puts text into an input, as a keyboard or an input method does, and hits Enter.
func (w *window) write(selector, text string) {
	w.t.Helper()
	w.do(
		chromedp.Focus(chromedp.CSS(selector)),
		chromedp.Evaluate[chromedp.Void](`document.activeElement.select()`),
		call(input.InsertText, input.InsertTextParams{Text: text}),
		chromedp.KeyEvent(kb.Enter),
	)
}

// call is a command of the browser's protocol that chromedp has no action for.
func call[P, R any](command cdp.Command[P, R], params P) chromedp.Action[chromedp.Void] {
	return chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, command, params)
		return err
	})
}

// offline takes the window's network away, or gives it back, as a phone in a tunnel has it:
// open WebSockets just fall silent, and the browser tells the page.
func (w *window) offline(offline bool) {
	w.t.Helper()
	w.do(
		call(network.Enable, network.EnableParams{}),
		call(network.EmulateNetworkConditionsByRule, network.EmulateNetworkConditionsByRuleParams{
			MatchedNetworkConditions: []*network.Conditions{{Offline: offline, DownloadThroughput: -1, UploadThroughput: -1}},
		}),
		call(network.OverrideNetworkState, network.OverrideNetworkStateParams{
			Offline: offline, DownloadThroughput: -1, UploadThroughput: -1,
		}),
	)
}

// fits checks on phones and on a desktop that nothing is wider than the screen, and that
// the element can be seen without scrolling.
func (w *window) fits(selector string) {
	w.t.Helper()
	for _, width := range []int64{320, 390, 1280} {
		w.do(chromedp.EmulateViewport(width, 844))
		if excess := eval[int](w, `document.documentElement.scrollWidth - innerWidth`); excess > 0 {
			w.t.Errorf("at a width of %d the page is %d too wide", width, excess)
		}
		if !eval[bool](w, fmt.Sprintf(`document.querySelector(%q).getBoundingClientRect().bottom <= innerHeight`, selector)) {
			w.t.Errorf("at a width of %d %s is not on the screen", width, selector)
		}
	}
}

// picture leaves screenshots of the page on a phone and on a desktop, light and dark.
func (w *window) picture(name string) {
	w.t.Helper()
	directory := os.Getenv("GROUPHUB_SCREENSHOTS")
	if directory == "" {
		return
	}
	for _, size := range []struct {
		name          string
		width, height int64
	}{{"phone", 390, 844}, {"desktop", 1280, 800}} {
		for _, scheme := range []string{"light", "dark"} {
			w.do(
				chromedp.EmulateViewport(size.width, size.height),
				call(emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
					Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
				}),
			)
			png := run(w, chromedp.CaptureScreenshot())
			file := filepath.Join(directory, strings.Join([]string{name, size.name, scheme}, "-")+".png")
			if err := os.WriteFile(file, png, 0o644); err != nil {
				w.t.Fatal(err)
			}
		}
	}
}
