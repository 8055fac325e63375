package engine

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
)

// A Chromium is driven by its own protocol.
type Chromium struct {
	Context context.Context // for chromedp
}

// StartChromium starts a Chromium without a window.
func StartChromium(t *testing.T) *Chromium {
	t.Helper()
	var path string
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if found, err := exec.LookPath(name); err == nil {
			path = found
			break
		}
	}
	if path == "" {
		Missing(t, "chromium is not installed")
	}
	profile, err := os.MkdirTemp("", "grouphub-chromium-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(profile) })
	allocator, cancel := chromedp.NewExecAllocator(context.Background(),
		chromedp.ExecPath(path),
		chromedp.UserDataDir(profile),
		chromedp.Headless,
		chromedp.NoSandbox,
		chromedp.DisableGPU,
		chromedp.NoFirstRun,
		chromedp.Flag("disable-quic", true),
		chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-sync", true),
		chromedp.Flag("disable-dev-shm-usage", true),
		// A tab that is not in front must not be slower than the one that is.
		chromedp.Flag("disable-background-timer-throttling", true),
		chromedp.Flag("disable-backgrounding-occluded-windows", true),
		chromedp.Flag("disable-renderer-backgrounding", true),
		chromedp.WSURLReadTimeout(Patience),
	)
	t.Cleanup(cancel)
	ctx, cancel := chromedp.NewContext(allocator)
	t.Cleanup(cancel)
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("start %s: %v", path, err)
	}
	return &Chromium{ctx}
}

// Name returns "Chromium".
func (c *Chromium) Name() string { return "Chromium" }

// Open opens a tab.
func (c *Chromium) Open(t *testing.T, url string) Tab {
	t.Helper()
	ctx, cancel := chromedp.NewContext(c.Context)
	t.Cleanup(cancel)
	if err := chromedp.Do(ctx); err != nil { // or the tab would end with the context of its first action
		t.Fatal(err)
	}
	tab := &chromiumTab{t, ctx}
	tab.Navigate(url)
	return tab
}

type chromiumTab struct {
	t   *testing.T
	ctx context.Context
}

func runIn[T any](c *chromiumTab, action chromedp.Action[T]) T {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.ctx, 2*Patience)
	defer cancel()
	result, err := chromedp.Run(ctx, action)
	if err != nil {
		c.t.Fatal(err)
	}
	return result
}

// command is a command of the browser's protocol that chromedp has no action for.
func command[P, R any](c *chromiumTab, command cdp.Command[P, R], params P) {
	c.t.Helper()
	runIn(c, chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, command, params)
		return err
	}))
}

func (c *chromiumTab) Navigate(url string) {
	c.t.Helper()
	runIn(c, chromedp.Navigate(url))
}

func (c *chromiumTab) Back() {
	c.t.Helper()
	runIn(c, chromedp.Evaluate[chromedp.Void]("void history.back()"))
}

func (c *chromiumTab) Eval(expression string) string {
	c.t.Helper()
	return runIn(c, chromedp.Evaluate[string](
		fmt.Sprintf("(async () => JSON.stringify(await (%s)) ?? 'null')()", expression), chromedp.EvalAwaitPromise))
}

func (c *chromiumTab) Offline(offline bool) {
	c.t.Helper()
	command(c, network.Enable, network.EnableParams{})
	command(c, network.OverrideNetworkState, network.OverrideNetworkStateParams{
		Offline: offline, DownloadThroughput: -1, UploadThroughput: -1,
	})
}

func (c *chromiumTab) Freeze() { c.lifecycle("frozen") }

func (c *chromiumTab) Thaw() { c.lifecycle("active") }

func (c *chromiumTab) lifecycle(state page.SetWebLifecycleStateState) {
	c.t.Helper()
	command(c, page.SetWebLifecycleState, page.SetWebLifecycleStateParams{State: state})
}
