package main

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/seed-29c60982/grouphub/bench/internal/measure"
)

// These types are what is stored as JSON.
type (
	results struct {
		Machine   measure.Machine
		Rounds    int
		Length    string // of one measurement
		Scenarios []scenarioResult
	}
	scenarioResult struct {
		Scenario   scenario
		Contenders []contenderResult
	}
	contenderResult struct {
		Name    string
		Samples []sample // one per round
	}
	// A scenario is a load. Redis means two server processes with Redis between them.
	scenario struct {
		Name, Title string
		Kind        kind
		Conns       int
		GroupSize   int
		Burst       int `json:",omitempty"` // events in a row
		Turn        int `json:",omitempty"` // groups that get a burst in a row; 0: one
		Redis       bool
		History     bool `json:",omitempty"` // groups keep history
		Latest      int  `json:",omitempty"` // keys that the events have in turn
		Groups      int  `json:",omitempty"` // that a connection is in besides, in which nothing happens
	}
	kind string
	// A sample is one measurement. Which figures it has depends on the scenario's kind.
	sample struct {
		CPU      float64 `json:",omitempty"` // µs of server CPU per delivery, or per connection
		Rate     float64 `json:",omitempty"` // deliveries, or connections, per second
		P50      float64 `json:",omitempty"` // µs
		P99      float64 `json:",omitempty"` // µs
		Loads    float64 `json:",omitempty"` // of a Snapshot, per connection
		Resident float64 `json:",omitempty"` // bytes per connection, as the next two
		Heap     float64 `json:",omitempty"`
		Stacks   float64 `json:",omitempty"`
		Faults   faults
		Error    string `json:",omitempty"` // it could not be measured
	}
)

// limitName is the contender that the others are compared with.
const limitName = "limit"

const (
	fanout   kind = "fanout"
	fairness kind = "fairness"
	idle     kind = "idle"
	churn    kind = "churn"
	// snapshots is churn in groups with a Snapshot, which is what a connection waits for.
	snapshots kind = "snapshots"
)

func (s sample) String() string {
	if s.Error != "" {
		return "failed: " + s.Error
	}
	figures := fmt.Sprintf("%s µs, %s/s, p99 %s ms", measure.Figure(s.CPU), measure.Figure(s.Rate), measure.Figure(s.P99/1e3))
	if s.Resident != 0 {
		figures = fmt.Sprintf("%s KiB", measure.Figure(s.Resident/1024))
	}
	if f := s.Faults.String(); f != "" {
		figures += ", " + f
	}
	return figures
}

// A column of a table is also a panel of the picture.
type column struct {
	title string
	value func(sample) float64
}

var (
	columnP50  = column{"p50, ms", func(s sample) float64 { return s.P50 / 1e3 }}
	columnP99  = column{"p99, ms", func(s sample) float64 { return s.P99 / 1e3 }}
	columnRate = column{"deliveries/s", func(s sample) float64 { return s.Rate }}
	columnsOf  = map[kind][]column{
		fanout: {{"CPU per delivery, µs", cpuOf}, columnRate, columnP50, columnP99},
		fairness: {{"p50 of the small group, ms", columnP50.value}, {"p99 of the small group, ms", columnP99.value},
			{"CPU per delivery, µs", cpuOf}, columnRate},
		idle: {
			{"resident, KiB per connection", func(s sample) float64 { return s.Resident / 1024 }},
			{"live heap, KiB", func(s sample) float64 { return s.Heap / 1024 }},
			{"stacks, KiB", func(s sample) float64 { return s.Stacks / 1024 }},
		},
		churn: {{"CPU per connection, µs", cpuOf}, {"connections/s", func(s sample) float64 { return s.Rate }}, columnP50, columnP99},
		snapshots: {{"CPU per connection, µs", cpuOf}, {"connections/s", func(s sample) float64 { return s.Rate }},
			{"loads per connection", func(s sample) float64 { return s.Loads }}, columnP50, columnP99},
	}
)

func cpuOf(s sample) float64 { return s.CPU }

// spread returns the spread of a figure over the rounds that could be measured, and whether
// there are any.
func (c contenderResult) spread(value func(sample) float64) (spread, bool) {
	var values []float64
	for _, s := range c.Samples {
		if v := value(s); s.Error == "" && v > 0 {
			values = append(values, v)
		}
	}
	return spreadOf(values), len(values) > 0
}

// ratios returns the spread of the ratios between a contender's CPU and the limit's, where
// each ratio is of two figures of one round.
func (r scenarioResult) ratios(c contenderResult) (spread, bool) {
	i := slices.IndexFunc(r.Contenders, func(c contenderResult) bool { return c.Name == limitName })
	if i < 0 {
		return spread{}, false
	}
	var values []float64
	for round, s := range c.Samples {
		if base := r.Contenders[i].Samples[round].CPU; base > 0 && s.CPU > 0 {
			values = append(values, s.CPU/base)
		}
	}
	return spreadOf(values), len(values) > 0
}

func (c contenderResult) remarks() string {
	var f faults
	failed, reason := 0, ""
	for _, s := range c.Samples {
		f.add(s.Faults)
		if s.Error != "" {
			failed, reason = failed+1, s.Error
		}
	}
	remarks := f.String()
	if failed > 0 {
		remarks = strings.TrimPrefix(fmt.Sprintf("%s, failed in %d rounds (%s)", remarks, failed, reason), ", ")
	}
	return strings.NewReplacer("|", "/", "\n", " ").Replace(remarks)
}

// table is Markdown that can be read as it is.
func (res *results) table() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s. Medians (minimum–maximum) of measurements of %s, rounds: %d.\n", res.Machine, res.Length, res.Rounds)
	for _, r := range res.Scenarios {
		columns := columnsOf[r.Scenario.Kind]
		head := []string{"contender"}
		for _, c := range columns {
			head = append(head, c.title)
		}
		hasRatio := r.Scenario.Kind != idle && !r.Scenario.Redis
		if hasRatio {
			head = append(head, "CPU, × limit")
		}
		rows, remarked := [][]string{append(head, "remarks")}, false
		for _, c := range r.Contenders {
			row := []string{c.Name}
			for _, col := range columns {
				row = append(row, cell(c.spread(col.value)))
			}
			if hasRatio {
				row = append(row, cell(r.ratios(c)))
			}
			row = append(row, c.remarks())
			remarked = remarked || c.remarks() != ""
			rows = append(rows, row)
		}
		if !remarked {
			for i, row := range rows {
				rows[i] = row[:len(row)-1]
			}
		}
		fmt.Fprintf(&b, "\n### %s (%s)\n\n", r.Scenario.Title, r.Scenario.Name)
		measure.WriteMarkdown(&b, rows)
	}
	return b.String()
}

func cell(s spread, ok bool) string {
	if !ok {
		return "–"
	}
	if s.min == s.max {
		return measure.Figure(s.median)
	}
	return fmt.Sprintf("%s (%s–%s)", measure.Figure(s.median), measure.Figure(s.min), measure.Figure(s.max))
}

func readResults(file string) (*results, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	res := new(results)
	if err := json.Unmarshal(text, res); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return res, nil
}

func (res *results) store(file string) error {
	text, err := json.MarshalIndent(res, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(text, '\n'), 0o644)
}

// keep drops the scenarios and contenders that are not wanted.
func (res *results) keep(scenario, contender *regexp.Regexp) {
	res.Scenarios = slices.DeleteFunc(res.Scenarios, func(r scenarioResult) bool { return !scenario.MatchString(r.Scenario.Name) })
	for i, r := range res.Scenarios {
		res.Scenarios[i].Contenders = slices.DeleteFunc(r.Contenders, func(c contenderResult) bool {
			return c.Name != limitName && !contender.MatchString(c.Name)
		})
	}
}
