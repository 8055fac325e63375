//go:build linux

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// The driver starts its own program again, which in a test is the test's.
func TestMain(m *testing.M) {
	if runChild(os.Args[1:]) {
		return
	}
	os.Exit(m.Run())
}

func TestATinyFleetKeepsEveryPromise(t *testing.T) {
	t.Setenv("GORACE", "atexit_sleep_ms=0") // or each process of a -race run sleeps a second at its end
	if _, err := exec.LookPath("redis-server"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("redis-server is not installed")
		}
		t.Skip("redis-server is not installed")
	}
	d := &driver{ctx: t.Context(), size: tinySize, scenarios: append(scenarios[:len(scenarios):len(scenarios)], soaking(3*time.Second))}
	r, err := d.measure(regexp.MustCompile(""), t.Output())
	if err != nil {
		t.Fatal(err)
	}
	for _, failure := range r.failures() {
		t.Error(failure)
	}
	for _, s := range r.Sections {
		if len(s.Rows) == 0 {
			t.Errorf("%s has found nothing", s.Name)
		}
		if i := slices.IndexFunc(s.Rows, func(row []string) bool { return len(row) != len(s.Head) }); i >= 0 {
			t.Errorf("%s: row %q does not fit under %q", s.Name, s.Rows[i], s.Head)
		}
	}
}

func TestAStoredReportIsDrawnWithoutARun(t *testing.T) {
	dir := t.TempDir()
	stored, picture := filepath.Join(dir, "report.json"), filepath.Join(dir, "plot.svg")
	example := &report{Sections: []section{{Name: "one", Charts: []chart{{Series: []series{{"a", [][2]float64{{0, 1}, {2, 3}}}}}, {}}}}}
	if err := example.store(stored); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := command(t.Context(), []string{"-from", stored, "-plot", picture}, &out); err != nil {
		t.Fatal(err)
	}
	svg, err := os.ReadFile(picture)
	if err != nil || !strings.HasPrefix(string(svg), "<svg ") || strings.Contains(string(svg), "NaN") {
		t.Errorf("the plot is %.40q, %v", svg, err)
	}
	if !strings.Contains(out.String(), "(one)") {
		t.Errorf("the table is %q", out.String())
	}
}

func TestAFitFindsTheConstantsItsFiguresWereMadeOf(t *testing.T) {
	want := []float64{40, 25, 7}
	var xs [][]float64
	var ys []float64
	for hubs := 1.0; hubs <= 8; hubs *= 2 {
		for _, members := range []float64{1, 10} {
			x := []float64{1, hubs, hubs * members}
			xs, ys = append(xs, x), append(ys, predict(want, x))
		}
	}
	for k, got := range fit(xs, ys) {
		if got < want[k]*0.999 || got > want[k]*1.001 {
			t.Errorf("constant %d is %v, want %v", k, got, want[k])
		}
	}
}

func TestAClientFindsWhatIsLostDoubledOrToldByAResync(t *testing.T) {
	for _, c := range []struct {
		events string // numbers; R is a Resync
		want   tally
	}{
		{"123", tally{Received: 3}},
		{"122", tally{Received: 3, Doubled: 1}},
		{"14", tally{Received: 2, Missing: []Missing{{Event{7, 2}, 5}, {Event{7, 3}, 5}}}},
		{"1R4", tally{Received: 2, Told: 2, Resyncs: 1}},
		{"1R24", tally{Received: 3, Resyncs: 1, Missing: []Missing{{Event{7, 3}, 5}}}},
	} {
		client := &client{Place: Place{First: 7, Count: 1}, rooms: []room{{known: true}}}
		var got tally
		for _, e := range c.events {
			message := []byte(`{"type":"resync","group":"room:7"}`)
			if e != 'R' {
				message = append([]byte(`{"type":"event","group":"room:7","id":"a","data":`), event(1, uint32(e-'0'))...)
			}
			if _, err := client.hear(message, 5, &got); err != nil {
				t.Fatal(err)
			}
		}
		if got.Received != c.want.Received || got.Doubled != c.want.Doubled || got.Told != c.want.Told || got.Resyncs != c.want.Resyncs || !slices.Equal(got.Missing, c.want.Missing) {
			t.Errorf("%s: %+v, want %+v", c.events, got, c.want)
		}
	}
}
