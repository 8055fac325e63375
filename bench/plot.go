package main

import (
	"bytes"
	"fmt"
	"html"
	"math"

	"github.com/seed-29c60982/grouphub/bench/internal/measure"
)

// Measures of the picture, in pixels.
const (
	plotWidth  = 1000
	plotMargin = 20
	nameWidth  = 92
	panelGap   = 14
	valueWidth = 76 // room for the number behind the longest line
	rowHeight  = 19
	headHeight = 52 // a scenario's title and its panels'
)

// The picture brings its own background, so that it is readable wherever it is shown,
// and follows the reader's choice of light or dark.
const plotStyle = `
	.back { fill: #ffffff; stroke: #d0d7de }
	text { font: 12px system-ui, sans-serif; fill: #1f2328; stroke: #ffffff; stroke-width: 3px; paint-order: stroke }
	.title { font-weight: 600; font-size: 14px }
	.small { font-size: 11px; fill: #59636e }
	.own { fill: #0550ae; font-weight: 600 }
	line { stroke: #8c959f; stroke-width: 1.5 }
	line.own { stroke: #0969da; stroke-width: 3 }
	line.range { stroke-width: 6; stroke-opacity: .35 }
	line.limit { stroke: #bc4c00; stroke-width: 1; stroke-dasharray: 3 3 }
	circle { fill: #6e7781 }
	circle.own { fill: #0969da }
	@media (prefers-color-scheme: dark) {
		.back { fill: #0d1117; stroke: #30363d }
		text { fill: #e6edf3; stroke: #0d1117 }
		.small { fill: #9198a1 }
		.own { fill: #79c0ff }
		line { stroke: #7d8590 }
		line.own { stroke: #58a6ff }
		line.limit { stroke: #f0883e }
		circle { fill: #9198a1 }
		circle.own { fill: #58a6ff }
	}
`

// drawPlot draws a row of panels for each scenario, a panel for each figure.
func drawPlot(res *results) []byte {
	var b bytes.Buffer
	y := 56
	for _, r := range res.Scenarios {
		drawScenario(&b, r, y)
		y += headHeight + rowHeight*len(r.Contenders) + 22
	}
	m := res.Machine
	var svg bytes.Buffer
	fmt.Fprintf(&svg, `<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="0 0 %d %d" width="%[1]d" height="%[2]d">`+"\n",
		plotWidth, y+plotMargin)
	fmt.Fprintf(&svg, "<title>Cost of WebSocket fan-out, contenders side by side</title>\n<style>%s</style>\n", plotStyle)
	fmt.Fprintf(&svg, `<rect class="back" x=".5" y=".5" width="%d" height="%d" rx="8"/>`+"\n", plotWidth-1, y+plotMargin-1)
	writeText(&svg, plotMargin, 30, "small", fmt.Sprintf(
		"Dot: median of %d rounds. Band: minimum to maximum. Dashed: the limit, a bare write(2) loop. Smaller is better, except per second.", res.Rounds))
	svg.Write(b.Bytes())
	writeText(&svg, plotMargin, y+4, "small", fmt.Sprintf("%s, %d cores, %s, %s, %s", m.CPU, m.Cores, m.System, m.Go, m.Date))
	svg.WriteString("</svg>\n")
	return svg.Bytes()
}

func drawScenario(b *bytes.Buffer, r scenarioResult, y int) {
	writeText(b, plotMargin, y+14, "title", r.Scenario.Title)
	columns := columnsOf[r.Scenario.Kind]
	top := y + headHeight
	for i, c := range r.Contenders {
		writeText(b, plotMargin, top+i*rowHeight+4, ownClass(c.Name), c.Name)
	}
	width := (plotWidth - 2*plotMargin - nameWidth - panelGap*(len(columns)-1)) / len(columns)
	for i, col := range columns {
		drawPanel(b, r, col, plotMargin+nameWidth+i*(width+panelGap), top, width-valueWidth)
	}
}

func drawPanel(b *bytes.Buffer, r scenarioResult, col column, x, y, width int) {
	lowest, lowestPeer, highest := math.Inf(1), math.Inf(1), 0.0
	for _, c := range r.Contenders {
		if s, ok := c.spread(col.value); ok {
			lowest, highest = min(lowest, s.min), max(highest, s.max)
			if c.Name != limitName {
				lowestPeer = min(lowestPeer, s.min)
			}
		}
	}
	// The limit may vanish at the left edge; the contenders have to be told apart.
	logarithmic := highest > 20*lowestPeer
	place := scale(lowest, highest, float64(width), logarithmic)
	title := col.title
	if logarithmic {
		title += " (log)"
	}
	writeText(b, x, y-16, "small", title)
	for i, c := range r.Contenders {
		s, ok := c.spread(col.value)
		middle := y + i*rowHeight
		if !ok {
			writeText(b, x, middle+4, "small", "–")
			continue
		}
		at := func(v float64) float64 { return float64(x) + place(v) }
		if c.Name == limitName {
			fmt.Fprintf(b, `<line class="limit" x1="%.1f" y1="%d" x2="%.1f" y2="%d"/>`+"\n",
				at(s.median), y-9, at(s.median), y+len(r.Contenders)*rowHeight-9)
		}
		class := ownClass(c.Name)
		fmt.Fprintf(b, `<line class="%s" x1="%d" y1="%d" x2="%.1f" y2="%d"/>`+"\n", class, x, middle, at(s.median), middle)
		fmt.Fprintf(b, `<line class="%s range" x1="%.1f" y1="%d" x2="%.1f" y2="%d"/>`+"\n", class, at(s.min), middle, at(s.max), middle)
		fmt.Fprintf(b, `<circle class="%s" cx="%.1f" cy="%d" r="4"/>`+"\n", class, at(s.median), middle)
		writeText(b, int(at(s.max))+8, middle+4, class, measure.Figure(s.median))
	}
}

// scale maps values to pixels: linearly from zero, or logarithmically from half the lowest
// value.
func scale(lowest, highest, width float64, logarithmic bool) func(float64) float64 {
	if !logarithmic {
		return func(v float64) float64 { return v / highest * width }
	}
	from := math.Log(lowest / 2)
	return func(v float64) float64 { return (math.Log(v) - from) / (math.Log(highest) - from) * width }
}

func ownClass(contender string) string {
	if contender == "grouphub" {
		return "own"
	}
	return "other"
}

func writeText(b *bytes.Buffer, x, y int, class, text string) {
	fmt.Fprintf(b, `<text class="%s" x="%d" y="%d">%s</text>`+"\n", class, x, y, html.EscapeString(text))
}
