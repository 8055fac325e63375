package main

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/seed-29c60982/grouphub/bench/internal/measure"
)

// A report is what is stored as JSON.
type report struct {
	Machine  measure.Machine
	Sections []section
}

// A section is what one scenario has found.
type section struct {
	Name, Title string
	Notes       []string
	Head        []string
	Rows        [][]string
	Charts      []chart
	Failures    []string // what should not have been
}

// A chart is one picture of lines.
type chart struct {
	Title, X, Y string
	Series      []series
}

type series struct {
	Name   string
	Points [][2]float64
}

// add adds a point to the series of this name.
func (c *chart) add(name string, x, y float64) {
	i := slices.IndexFunc(c.Series, func(s series) bool { return s.Name == name })
	if i < 0 {
		i = len(c.Series)
		c.Series = append(c.Series, series{Name: name})
	}
	c.Series[i].Points = append(c.Series[i].Points, [2]float64{x, y})
}

// table is Markdown that can be read as it is.
func (r *report) table() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s.\n", r.Machine)
	for _, s := range r.Sections {
		fmt.Fprintf(&b, "\n### %s (%s)\n\n", s.Title, s.Name)
		if len(s.Rows) > 0 {
			measure.WriteMarkdown(&b, append([][]string{s.Head}, s.Rows...))
		}
		for _, note := range s.Notes {
			fmt.Fprintf(&b, "\n%s\n", note)
		}
		for _, failure := range s.Failures {
			fmt.Fprintf(&b, "\n**%s**\n", failure)
		}
	}
	return b.String()
}

// failures are those of all sections.
func (r *report) failures() (all []string) {
	for _, s := range r.Sections {
		for _, failure := range s.Failures {
			all = append(all, s.Name+": "+failure)
		}
	}
	return all
}

func readReport(file string) (*report, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	r := new(report)
	if err := json.Unmarshal(text, r); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return r, nil
}

func (r *report) store(file string) error {
	text, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(text, '\n'), 0o644)
}

// median returns the middle of the values, 0 of none.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	v := slices.Sorted(slices.Values(values))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}
