package e2e

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/seed-29c60982/grouphub/e2e/engine"
)

// A redisServer is a redis-server of one test.
type redisServer struct {
	port, directory string
	process         *exec.Cmd
}

// startRedis runs a redis-server on a free port until the test ends.
func startRedis(t *testing.T) *redisServer {
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("redis-server is not installed")
		}
		t.Skip("redis-server is not installed")
	}
	s := &redisServer{directory: t.TempDir()}
	t.Cleanup(s.kill)
	var err error
	for range 10 { // somebody else may have the port
		// No kernel hands it out by itself, so that it is free when the server comes back.
		s.port = strconv.Itoa(20_000 + rand.IntN(12_000))
		if err = s.start(); err == nil {
			return s
		}
	}
	t.Fatal(err)
	return nil
}

// start returns when the server accepts connections.
func (s *redisServer) start() error {
	s.process = exec.Command("redis-server", "--port", s.port, "--bind", "127.0.0.1", "--dir", s.directory, "--save", "")
	output, err := s.process.StdoutPipe()
	if err != nil {
		return err
	}
	if err := s.process.Start(); err != nil {
		return err
	}
	lines := bufio.NewScanner(output)
	for lines.Scan() {
		if strings.Contains(lines.Text(), "Ready to accept connections") {
			go func() {
				for lines.Scan() {
				}
			}()
			return nil
		}
	}
	return fmt.Errorf("redis-server on port %s: %w", s.port, s.process.Wait())
}

// kill ends the server as a crash would.
func (s *redisServer) kill() {
	if s.process != nil && s.process.ProcessState == nil {
		s.process.Process.Kill()
		s.process.Wait()
	}
}

func (s *redisServer) url() string { return "redis://127.0.0.1:" + s.port }

func TestTwoProcessesShareARoomAndSurviveTheDeathOfRedis(t *testing.T) {
	redis := startRedis(t)
	browser := engine.StartChromium(t).Context
	enter := func(name string) *window {
		p := start(t, "chat", "-redis", redis.url())
		w := open(t, browser, p.url+"/?room=lobby&name="+name)
		w.wait(connected)
		w.do(chromedp.Evaluate[chromedp.Void](`
			window.everLeft = false
			new MutationObserver(() => window.everLeft ||= !(` + connected + `))
				.observe(document.querySelector("#state"), {attributes: true})`))
		return w
	}
	ann, bob := enter("Ann"), enter("Bob")
	both := []*window{ann, bob}
	talk := func(when string) {
		t.Helper()
		ann.write("#say input", "Hello Bob, "+when)
		for _, w := range both {
			w.waitText(".message p", "Hello Bob, "+when)
		}
		bob.write("#say input", "Hello Ann, "+when)
		for _, w := range both {
			w.waitText(".message p", "Hello Ann, "+when)
		}
	}
	talk("before")

	redis.kill()
	ann.write("#say input", "into the void")
	ann.waitText(".note", "Perhaps not sent: into the void")
	if err := redis.start(); err != nil {
		t.Fatal(err)
	}
	for _, w := range both {
		w.waitText(".note", "Messages may be missing here.")
	}
	talk("after")
	for _, w := range both {
		if eval[bool](w, "everLeft") {
			t.Error("a page lost its connection because Redis went away")
		}
		if n := eval[int](w, `document.querySelectorAll(".message").length`); n != 4 {
			t.Errorf("the page shows %d messages, want each of 4 once:\n%s", n, w.text("#log"))
		}
	}
}

func TestServerThatRestartsWithRedisBehindItLosesNothing(t *testing.T) {
	redis := startRedis(t)
	first, second := start(t, "chat", "-redis", redis.url()), start(t, "chat", "-redis", redis.url())
	browser := engine.StartChromium(t).Context
	ann := open(t, browser, first.url+"/?room=lobby&name=Ann")
	bob := open(t, browser, second.url+"/?room=lobby&name=Bob")
	both := []*window{ann, bob}
	var want []string
	say := func(from *window, text string) {
		want = append(want, text)
		from.write("#say input", text)
		from.waitText(".message p", text)
	}
	for _, w := range both {
		w.wait(connected)
	}
	for _, w := range both {
		w.here("Ann", "Bob")
	}
	say(ann, "before")
	say(bob, "before, too")

	for round := range 2 {
		first.stop(t)
		ann.wait(disconnected)
		bob.here("Bob")
		for i := range 5 {
			say(bob, fmt.Sprintf("while Ann's server is down, %d.%d", round, i))
		}
		first = start(t, "chat", "-redis", redis.url(), "-addr", strings.TrimPrefix(first.url, "http://"))
		ann.wait(connected)
		say(ann, fmt.Sprintf("after, %d", round))
		for _, w := range both {
			w.messages(want...)
			w.here("Ann", "Bob")
		}
	}
	for _, w := range both {
		if n := eval[int](w, `document.querySelectorAll(".note").length`); n != 0 {
			t.Errorf("the page has %d notes, and nothing was lost:\n%s", n, w.text("#log"))
		}
	}
}

func TestChatWithoutItsRedisIsOneClearLine(t *testing.T) {
	const absent = "127.0.0.1:1" // a port that nobody is given
	for _, c := range []struct{ url, want string }{
		{"redis://" + absent, absent},
		{"localhost", "redis://user:password@host:port/db"},
		{"redis://:hunter2@localhost:port", "redis://user:password@host:port/db"},
	} {
		var stdout, stderr strings.Builder
		cmd := exec.Command(filepath.Join(programs, "chat"), "-addr", "127.0.0.1:0", "-redis", c.url)
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		if cmd.Run() == nil || cmd.ProcessState.ExitCode() != 1 {
			t.Errorf("-redis %s: ended with %v, want exit status 1", c.url, cmd.ProcessState)
		}
		line := stderr.String()
		if strings.Count(line, "\n") != 1 || !strings.Contains(line, c.want) || strings.Contains(line, "hunter2") || stdout.Len() > 0 {
			t.Errorf("-redis %s: says %q%q, want one line with %s", c.url, stdout.String(), line, c.want)
		}
	}
}
