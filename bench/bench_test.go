//go:build linux

package main

import (
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/seed-29c60982/grouphub/bench/internal/measure"
	"github.com/seed-29c60982/grouphub/bench/internal/wire"
)

// The driver starts its own program again, which in a test is the test's.
func TestMain(m *testing.M) {
	if runChild(os.Args[1:]) {
		return
	}
	os.Exit(m.Run())
}

func TestEveryContenderDeliversEverythingInOrder(t *testing.T) {
	t.Setenv("GORACE", "atexit_sleep_ms=0") // or each process of a -race run sleeps a second at its end
	everything := regexp.MustCompile("")
	d := choose(everything, everything)
	d.rounds, d.length, d.conns = 1, 50*time.Millisecond, 20
	res, err := d.measure(t.Context(), t.Output())
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range res.Scenarios {
		for _, c := range r.Contenders {
			if remarks := c.remarks(); remarks != "" {
				t.Errorf("%s, %s: %s", r.Scenario.Name, c.Name, remarks)
			}
			if r.Scenario.Kind == idle {
				continue // twenty connections can fit into what the server had anyway
			}
			for _, col := range columnsOf[r.Scenario.Kind] {
				if _, ok := c.spread(col.value); !ok {
					t.Errorf("%s, %s: no %s", r.Scenario.Name, c.Name, col.title)
				}
			}
		}
	}
}

func TestAStoredResultIsPlottedWithoutARun(t *testing.T) {
	dir := t.TempDir()
	stored, picture := filepath.Join(dir, "result.json"), filepath.Join(dir, "plot.svg")
	if err := exampleResults().store(stored); err != nil {
		t.Fatal(err)
	}
	if err := command(t.Context(), []string{"-from", stored, "-plot", picture}, io.Discard); err != nil {
		t.Fatal(err)
	}
	if svg, err := os.ReadFile(picture); err != nil || !strings.HasPrefix(string(svg), "<svg ") {
		t.Errorf("the plot is %.40q, %v", svg, err)
	}
	if err := command(t.Context(), []string{"-from", stored, "-run", "nothing"}, io.Discard); err == nil {
		t.Error("no error though nothing was chosen")
	}
}

func TestTheLoadGeneratorReadsFramesThatArriveInPieces(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[1])
	l, err := newLane(new(job), nil)
	if err != nil {
		t.Fatal(err)
	}
	c := &client{fd: pair[0]}
	l.clients = []*client{c}
	l.published[0] = 5
	stream := []byte("HTTP/1.1 101 Switching Protocols\r\nA: b\r\n\r\n")
	for _, number := range []uint32{1, 2, 4} {
		stream = wire.AppendFrame(stream, wire.NewEvent(measure.Now(), number))
	}
	for len(stream) > 0 {
		n := min(7, len(stream))
		if _, err := unix.Write(pair[1], stream[:n]); err != nil {
			t.Fatal(err)
		}
		if err := l.read(c); err != nil {
			t.Fatal(err)
		}
		stream = stream[n:]
	}
	if l.open != 1 || l.received != 3 || l.latency.Total != 3 {
		t.Errorf("%d open, %d events, %d latencies; want 1, 3 and 3", l.open, l.received, l.latency.Total)
	}
	if got, want := l.tally(), (faults{Missing: 2}); got != want {
		t.Errorf("faults are %+v, want %+v: one skipped, one that never came", got, want)
	}
	unix.Shutdown(pair[1], unix.SHUT_WR)
	if err := l.read(c); err != nil || l.faults.Closed != 1 {
		t.Errorf("a server that closes is not noticed: %v", err)
	}
}

func TestARosterKnowsItsMembers(t *testing.T) {
	r := newRoster[string]()
	for _, name := range []string{"a", "b", "c"} {
		r.join("g", name)
	}
	r.leave("g", "a")
	members := ""
	r.each("g", func(name string) { members += name })
	if members != "cb" {
		t.Errorf("the members are %q, want c, who took a's place, and b", members)
	}
	r.leave("g", "b")
	r.leave("g", "c")
	if len(r.groups) != 0 || len(r.places) != 0 {
		t.Errorf("an empty group is kept: %v, %v", r.groups, r.places)
	}
}
