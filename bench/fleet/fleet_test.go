//go:build linux

package main

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/seed-29c60982/grouphub/bench/internal/wire"
)

// The driver starts its own program again, which in a test is the test's.
func TestMain(m *testing.M) {
	if runChild(os.Args[1:]) {
		return
	}
	os.Setenv("GORACE", "atexit_sleep_ms=0") // or each process of a -race run sleeps a second at its end
	flag.Parse()
	flag.Set("test.parallel", "6") // most of the time is waiting, so that more can run than there are cores
	os.Exit(m.Run())
}

func TestATinyFleetKeepsEveryPromise(t *testing.T) {
	for _, one := range append(scenarios[:len(scenarios):len(scenarios)], soaking(6*time.Second, 3*time.Second)) {
		t.Run(one.name, func(t *testing.T) {
			t.Parallel()
			if err := one.store.missing(); err != nil {
				if os.Getenv("CI") == "true" {
					t.Fatal(err)
				}
				t.Skip(err)
			}
			d := &driver{ctx: t.Context(), size: tinySize, scenarios: []scenario{one}}
			r, err := d.measure(regexp.MustCompile(""), t.Output())
			if err != nil {
				t.Fatal(err)
			}
			for _, failure := range r.failures() {
				t.Error(failure)
			}
			s := r.Sections[0]
			if len(s.Rows) == 0 {
				t.Error("it has found nothing")
			}
			if i := slices.IndexFunc(s.Rows, func(row []string) bool { return len(row) != len(s.Head) }); i >= 0 {
				t.Errorf("row %q does not fit under %q", s.Rows[i], s.Head)
			}
		})
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
		{"14", tally{Received: 2, Missing: []Missing{{Event{7, 2}, 5, 0}, {Event{7, 3}, 5, 0}}}},
		{"1R4", tally{Received: 2, Told: 2, Resyncs: 1}},
		{"1R24", tally{Received: 3, Resyncs: 1, Missing: []Missing{{Event{7, 3}, 5, 1}}}},
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

func TestWhatAClientLacksForAWhileIsFound(t *testing.T) {
	const began = 5
	past := Past{At: 10, Rooms: map[int]uint32{7: 2}, Boards: [][]uint32{{0, 3}}, Members: map[int]int{7: 4}}
	for name, c := range map[string]struct {
		heard []string
		since int64
		want  Behind
	}{
		"nothing":  {[]string{"1", "2", "snapshot [0,2]", "value [1,3]", "presence 4"}, began, Behind{}},
		"later":    {[]string{"1"}, past.At + 1, Behind{}},
		"event":    {[]string{"1", "snapshot [1,3]", "presence 4"}, began, Behind{Events: 1}},
		"value":    {[]string{"1", "2", "snapshot [0,2]", "presence 4"}, began, Behind{Values: 1}},
		"page":     {[]string{"1", "2", "presence 4"}, began, Behind{Values: 1}},
		"count":    {[]string{"1", "2", "snapshot [0,3]", "presence 4", "presence 3"}, began, Behind{Members: 1}},
		"answer":   {[]string{"1", "2", "snapshot [0,3]", "presence 4", "ask"}, began, Behind{Answers: 1}},
		"answered": {[]string{"1", "2", "snapshot [0,3]", "presence 4", "ask", "answer"}, began, Behind{}},
	} {
		page := &client{Place: Place{First: 7, Count: 1, Board: 1}, rooms: []room{{known: true}}, stage: live, since: c.since}
		for _, heard := range c.heard {
			what, data, _ := strings.Cut(heard, " ")
			message := []byte(`{"type":"` + what + `","group":"board:1","data":` + data + `}`)
			switch what {
			case "1", "2":
				message = append([]byte(`{"type":"event","group":"room:7","id":"a","data":`), event(1, uint32(what[0]-'0'))...)
			case "presence":
				message = []byte(`{"type":"presence","group":"room:7","data":{"joined":[],"left":[],"count":` + data + `}}`)
			case "ask":
				page.asked, page.askedAt = 1, began
				continue
			case "answer":
				message = []byte(`{"type":"answer","data":1}`)
			}
			if _, err := page.hear(message, 0, new(tally)); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		var got Behind
		if err := (&Load{clients: []*client{page}}).Behind(past, &got); err != nil || got != c.want {
			t.Errorf("%s: %+v, %v, want %+v", name, got, err, c.want)
		}
	}
}

func TestABlockOfAStreamIsReadAsAFrame(t *testing.T) {
	stream := "event: grouphub.open\nretry: 3000\ndata: ABC\n\ndata: {\"type\":\"event\"}\nid: x\n\n:\n\nevent: grouphub.close\nretry: 5083\ndata: {\"code\":4401,\"reason\":\"x\"}\nid: !4401\n\ndata: half"
	var got []string
	b := []byte(stream)
	for {
		opcode, payload, size, err := nextBlock(b)
		if err != nil {
			t.Fatal(err)
		}
		if size == 0 {
			break
		}
		b = b[size:]
		switch opcode {
		case wire.OpText:
			got = append(got, string(payload))
		case wire.OpClose:
			got = append(got, strconv.Itoa(streamCode(payload)))
		}
	}
	if want := []string{`{"type":"event"}`, "4401"}; !slices.Equal(got, want) || string(b) != "data: half" {
		t.Errorf("read %q, and %q is left; want %q", got, b, want)
	}
}
