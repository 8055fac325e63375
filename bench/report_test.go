package main

import (
	"encoding/xml"
	"errors"
	"io"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/seed-29c60982/grouphub/bench/internal/measure"
)

func exampleResults() *results {
	return &results{
		Machine: measure.Machine{CPU: "A & B", Cores: 2, Go: "go1", System: "linux", Date: "2026-01-02"},
		Rounds:  2,
		Length:  "1s",
		Scenarios: []scenarioResult{
			{Scenario: scenario{Name: "single", Title: "Single <events>", Kind: fanout}, Contenders: []contenderResult{
				{"grouphub", []sample{{CPU: 3, Rate: 1234567, P50: 500, P99: 900}, {CPU: 6, Rate: 1000, P50: 1, P99: 1}}},
				{"loser", []sample{{CPU: 300, Faults: faults{Missing: 3}}, {Error: "it | broke"}}},
				{limitName, []sample{{CPU: 2}, {CPU: 3}}},
			}},
			{Scenario: scenario{Name: "idle", Title: "Idle", Kind: idle}, Contenders: []contenderResult{
				{"grouphub", []sample{{Resident: 9216, Heap: 4096, Stacks: 2048}}},
			}},
		},
	}
}

func TestTheTableShowsMediansRatiosAndFaults(t *testing.T) {
	table := exampleResults().table()
	for _, want := range []string{
		"A & B, 2 cores, linux, go1, 2026-01-02",
		"### Single <events> (single)",
		"4.50 (3.00–6.00)",
		"1.75 (1.50–2.00)", // of ratios of one round, not of medians
		"3 missing, failed in 1 rounds (it / broke)",
		"resident, KiB per connection",
		"| 9.00 ",
	} {
		if !strings.Contains(table, want) {
			t.Errorf("the table lacks %q:\n%s", want, table)
		}
	}
}

func TestFiguresHaveThreeDigits(t *testing.T) {
	for v, want := range map[float64]string{
		0: "0.00", 0.04567: "0.0457", 0.5: "0.500", 1.234: "1.23", 45.67: "45.7", 999: "999", 1234: "1,230", 11_440_000: "11,400,000",
	} {
		if got := measure.Figure(v); got != want {
			t.Errorf("%v is written %s, want %s", v, got, want)
		}
	}
}

func TestAStoredResultIsReadBackAndChosenFrom(t *testing.T) {
	file := filepath.Join(t.TempDir(), "result.json")
	want := exampleResults()
	if err := want.store(file); err != nil {
		t.Fatal(err)
	}
	got, err := readResults(file)
	if err != nil {
		t.Fatal(err)
	}
	if got.table() != want.table() {
		t.Errorf("read back:\n%s\nwant:\n%s", got.table(), want.table())
	}
	got.keep(regexp.MustCompile("single"), regexp.MustCompile("grouphub"))
	if len(got.Scenarios) != 1 || len(got.Scenarios[0].Contenders) != 2 {
		t.Errorf("kept %+v, want grouphub and the limit in one scenario", got.Scenarios)
	}
}

func TestThePictureIsXMLThatNamesEverything(t *testing.T) {
	picture := drawPlot(exampleResults())
	var text strings.Builder
	for d := xml.NewDecoder(strings.NewReader(string(picture))); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, picture)
		}
		if chars, ok := token.(xml.CharData); ok {
			text.Write(chars)
		}
	}
	for _, want := range []string{
		"Single <events>", "CPU per delivery, µs (log)", "grouphub", "loser", limitName, "4.50", "Idle", "9.00", "prefers-color-scheme: dark", "A & B",
	} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("the picture lacks %q", want)
		}
	}
	for _, bad := range []string{"NaN", "Inf", "%!"} {
		if strings.Contains(string(picture), bad) {
			t.Errorf("the picture has a %s", bad)
		}
	}
}
