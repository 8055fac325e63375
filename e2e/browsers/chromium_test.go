package browsers

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

// A chromium is a Chromium that is driven by its own protocol.
type chromium struct {
	t   *testing.T
	ctx context.Context
}

func startChromium(t *testing.T) browser {
	t.Helper()
	var path string
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if found, err := exec.LookPath(name); err == nil {
			path = found
			break
		}
	}
	if path == "" {
		missing(t, "chromium is not installed")
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
		chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-dev-shm-usage", true),
		chromedp.Flag("disable-background-timer-throttling", true),
		chromedp.Flag("disable-backgrounding-occluded-windows", true),
		chromedp.Flag("disable-renderer-backgrounding", true),
		chromedp.WSURLReadTimeout(patience),
	)
	t.Cleanup(cancel)
	ctx, cancel := chromedp.NewContext(allocator)
	t.Cleanup(cancel)
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("start %s: %v", path, err)
	}
	return &chromium{t, ctx}
}

func (c *chromium) open(url string) tab {
	c.t.Helper()
	ctx, cancel := chromedp.NewContext(c.ctx)
	c.t.Cleanup(cancel)
	if err := chromedp.Do(ctx); err != nil { // or the tab would end with the context of its first action
		c.t.Fatal(err)
	}
	tab := &chromiumTab{c.t, ctx}
	tab.navigate(url)
	return tab
}

type chromiumTab struct {
	t   *testing.T
	ctx context.Context
}

func runIn[T any](c *chromiumTab, action chromedp.Action[T]) T {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.ctx, 2*patience)
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

func (c *chromiumTab) navigate(url string) {
	c.t.Helper()
	runIn(c, chromedp.Navigate(url))
}

func (c *chromiumTab) back() {
	c.t.Helper()
	runIn(c, chromedp.Evaluate[chromedp.Void]("void history.back()"))
}

func (c *chromiumTab) eval(expression string) string {
	c.t.Helper()
	return runIn(c, chromedp.Evaluate[string](
		fmt.Sprintf("(async () => JSON.stringify(await (%s)) ?? 'null')()", expression), chromedp.EvalAwaitPromise))
}

func (c *chromiumTab) offline(offline bool) {
	c.t.Helper()
	command(c, network.Enable, network.EnableParams{})
	command(c, network.OverrideNetworkState, network.OverrideNetworkStateParams{
		Offline: offline, DownloadThroughput: -1, UploadThroughput: -1,
	})
}

// freeze stops the page's timers and callbacks, as the browser does with tabs that nobody looks at.
func (c *chromiumTab) freeze(state string) {
	c.t.Helper()
	command(c, page.SetWebLifecycleState, page.SetWebLifecycleStateParams{State: page.SetWebLifecycleStateState(state)})
}
