package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
	"github.com/seed-29c60982/grouphub/internal/leak"
)

// TestMain fails the suite if a goroutine outlives it.
func TestMain(m *testing.M) { leak.Check(m) }

// runProgram runs the command with arguments, and returns what it printed and its status.
func runProgram(t *testing.T, stdin string, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	var out, err bytes.Buffer
	p := &program{stdin: strings.NewReader(stdin), stdout: &out, stderr: &err}
	status = p.run(t.Context(), args)
	return out.String(), err.String(), status
}

// want runs the command and checks what it prints.
func want(t *testing.T, stdout string, args ...string) {
	t.Helper()
	if got, stderr, status := runProgram(t, "", args...); got != stdout || status != 0 {
		t.Errorf("%q: %q, %q, status %d, want %q", args, got, stderr, status, stdout)
	}
}

// newApplication returns the hub of an application whose groups called kept have history.
func newApplication(t *testing.T, url string) *grouphub.Hub {
	layer, err := grouphub.NewRedisLayer(url, nil)
	if err != nil {
		t.Fatal(err)
	}
	hub := grouphub.New(&grouphub.Options{Layer: layer,
		Policy: func(group string) grouphub.GroupPolicy {
			policy := grouphub.GroupPolicy{Presence: true}
			if group == "kept" {
				policy.History, policy.HistoryTTL = 20, time.Hour
			}
			return policy
		},
		Consumer: grouphub.Consumer{
			Connect: func(c *grouphub.Conn) error { return errors.Join(c.Join("g"), c.Join("kept", grouphub.Last(20))) },
			Events:  grouphub.Events{"*": grouphub.Forward()},
		}})
	t.Cleanup(func() {
		hub.Shutdown(context.Background())
		layer.Close()
	})
	return hub
}

func TestCommandsReachAnApplicationsHubs(t *testing.T) {
	url := "redis://" + miniredis.RunT(t).Addr()
	hub := newApplication(t, url)
	ann := hubtest.Dial(t, hub, "/")
	do := func(args ...string) []string { return append([]string{"-redis", url}, args...) }

	want(t, "", do("ping")...)
	want(t, "", do("send", "jobs", "work", `{"n":1}`)...)
	want(t, "", do("send", "jobs", "work")...)
	want(t, `{"type":"work","data":{"n":1}}`+"\n"+`{"type":"work"}`+"\n", do("receive", "-n", "2", "jobs")...)

	want(t, "", do("publish", "g", "note", `"hello"`)...)
	ann.Expect(`{"type":"note","group":"g","data":"hello"}`)
	if _, stderr, status := runProgram(t, ` {"from": "stdin"} `, do("publish", "g", "note", "-")...); status != 0 {
		t.Error(stderr)
	}
	ann.Expect(`{"type":"note","group":"g","data":{"from":"stdin"}}`)

	stdout, stderr, status := runProgram(t, "", do("members", "g")...)
	var member struct {
		Channel string
		Since   time.Time
	}
	if err := json.Unmarshal([]byte(stdout), &member); err != nil || status != 0 || member.Channel == "" || member.Since.IsZero() {
		t.Errorf("members: %q, %q, %v", stdout, stderr, err)
	}
	want(t, "", do("send", member.Channel, "direct", "7")...)
	ann.Expect(`{"type":"direct","data":7}`)
	want(t, "", do("close", "g", "4000", "enough")...)
	ann.ExpectClose(4000)
	want(t, "", do("members", "nobody")...)
}

func TestPublishKeepsToTheHistoryThatIsInRedis(t *testing.T) {
	url := "redis://" + miniredis.RunT(t).Addr()
	hub := newApplication(t, url)
	ann := hubtest.Dial(t, hub, "/")
	for range 3 {
		if err := hub.GroupSend(t.Context(), "kept", "note", "application"); err != nil {
			t.Fatal(err)
		}
		ann.ExpectEvent("note")
	}
	for range 2 {
		want(t, "", "-redis", url, "publish", "-once", "key", "kept", "note", `"command"`)
	}
	if e := ann.ExpectEvent("note"); e.ID == "" || string(e.Data) != `"command"` {
		t.Errorf("%+v, want an event with a position", e)
	}
	bob := hubtest.Dial(t, hub, "/")
	for _, data := range []string{`"application"`, `"application"`, `"application"`, `"command"`} {
		if e := bob.ExpectEvent("note"); string(e.Data) != data {
			t.Errorf("replayed %s, want %s", e.Data, data)
		}
	}
	if stats := hub.Stats(); stats.PolicyMismatch > 0 {
		t.Errorf("%d events without a number", stats.PolicyMismatch)
	}
	if _, stderr, status := runProgram(t, "", "-redis", url, "publish", "-once", "key", "g", "note"); status != 1 || !strings.Contains(stderr, "history") {
		t.Errorf("-once for a group without history: %q, status %d", stderr, status)
	}
}

func TestWatchPrintsEventsUntilItIsInterrupted(t *testing.T) {
	url := "redis://" + miniredis.RunT(t).Addr()
	hub := newApplication(t, url)
	ctx, interrupt := context.WithCancel(t.Context())
	out, outWriter := io.Pipe()
	joined, errWriter := io.Pipe()
	p := &program{stdout: outWriter, stderr: errWriter}
	status := make(chan int)
	go func() { status <- p.run(ctx, []string{"-redis", url, "watch", "g", "other"}) }()
	if line, err := bufio.NewReader(joined).ReadString('\n'); err != nil || !strings.Contains(line, `"g" "other"`) {
		t.Errorf("%q, %v", line, err)
	}
	if err := hub.GroupSend(t.Context(), "other", "note", 1); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != `{"type":"note","group":"other","data":1}`+"\n" {
		t.Errorf("%q, %v", line, err)
	}
	interrupt()
	if n := <-status; n != 0 {
		t.Errorf("status %d", n)
	}
}

func TestWrongArgumentsAndFailuresAreOneLine(t *testing.T) {
	m := miniredis.RunT(t)
	url := "redis://" + m.Addr()
	for _, test := range []struct {
		status int
		part   string
		args   []string
	}{
		{2, "no command", nil},
		{2, "shout", []string{"-redis", url, "shout"}},
		{2, "-loud", []string{"-redis", url, "-loud", "ping"}},
		{2, "REDIS_URL", []string{"-redis", "", "ping"}},
		{2, "arguments", []string{"-redis", url, "ping", "twice"}},
		{2, "arguments", []string{"-redis", url, "send", "jobs"}},
		{2, "not JSON", []string{"-redis", url, "send", "jobs", "work", "text"}},
		{2, "no group", []string{"-redis", url, "watch"}},
		{2, "-n 0", []string{"-redis", url, "receive", "-n", "0", "jobs"}},
		{2, "no number", []string{"-redis", url, "close", "g", "soon", "enough"}},
		{1, "1005", []string{"-redis", url, "close", "g", "1005", "enough"}},
		{1, "invalid", []string{"-redis", "127.0.0.1:6379", "ping"}},
		{1, "nothing came", []string{"-redis", url, "receive", "-timeout", "10ms", "jobs"}},
		{1, "control character", []string{"-redis", url, "publish", "a\nb", "note"}},
		{1, "no connection's", []string{"-redis", url, "send", "!x", "note"}},
	} {
		stdout, stderr, status := runProgram(t, "", test.args...)
		if status != test.status || stdout != "" || !strings.Contains(stderr, test.part) || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%q: %q, %q, status %d, want %q and %d", test.args, stdout, stderr, status, test.part, test.status)
		}
	}
	if _, stderr, status := runProgram(t, "", "-help"); status != 0 || !strings.Contains(stderr, "-redis") {
		t.Errorf("-help: %q, status %d", stderr, status)
	}
}
