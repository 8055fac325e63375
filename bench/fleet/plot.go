package main

import (
	"bytes"
	"fmt"
	"html"
	"math"
	"strconv"
	"strings"

	"github.com/seed-29c60982/grouphub/bench/internal/measure"
)

// Measures of the picture, in pixels.
const (
	plotWidth   = 1000
	chartWidth  = 480
	chartHeight = 300
	chartLeft   = 64 // of the axis
	chartRight  = 16
	chartTop    = 40
	chartBottom = 84            // of the axis: its numbers, its name, and the legend
	dashes      = ", predicted" // is the end of the name of a line that was not measured
)

// The picture brings its own background, so that it is readable wherever it is shown, and
// follows the reader's choice of light or dark.
const plotStyle = `
	.back { fill: #ffffff; stroke: #d0d7de }
	text { font: 11px system-ui, sans-serif; fill: #59636e }
	.title { font-weight: 600; font-size: 13px; fill: #1f2328 }
	line { stroke: #d0d7de }
	polyline { fill: none; stroke-width: 2 }
	.dashed { stroke-dasharray: 4 4; stroke-width: 1.5 }
	.s0 { stroke: #0969da } .s1 { stroke: #bc4c00 } .s2 { stroke: #1a7f37 } .s3 { stroke: #8250df }
	@media (prefers-color-scheme: dark) {
		.back { fill: #0d1117; stroke: #30363d }
		text { fill: #9198a1 }
		.title { fill: #e6edf3 }
		line { stroke: #30363d }
		.s0 { stroke: #58a6ff } .s1 { stroke: #f0883e } .s2 { stroke: #3fb950 } .s3 { stroke: #bc8cff }
	}
`

// drawCharts draws the charts of all sections, two in a row.
func drawCharts(r *report) []byte {
	var charts []chart
	for _, s := range r.Sections {
		charts = append(charts, s.Charts...)
	}
	height := 20 + (len(charts)+1)/2*chartHeight + 30
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="0 0 %d %d" width="%[1]d" height="%[2]d">`+"\n", plotWidth, height)
	fmt.Fprintf(&b, "<title>What a fleet of hubs costs and survives</title>\n<style>%s</style>\n", plotStyle)
	fmt.Fprintf(&b, `<rect class="back" x=".5" y=".5" width="%d" height="%d" rx="8"/>`+"\n", plotWidth-1, height-1)
	for i, c := range charts {
		c.draw(&b, 10+i%2*(chartWidth+20), 10+i/2*chartHeight)
	}
	writeText(&b, 20, height-14, "", "start", r.Machine.String())
	b.WriteString("</svg>\n")
	return b.Bytes()
}

// draw draws a chart whose upper left corner is there.
func (c *chart) draw(b *bytes.Buffer, left, top int) {
	writeText(b, left+chartLeft, top+20, "title", "start", c.Title)
	x0, x1 := left+chartLeft, left+chartWidth-chartRight
	y0, y1 := top+chartHeight-chartBottom, top+chartTop
	var right, highest float64
	for _, s := range c.Series {
		for _, p := range s.Points {
			right, highest = max(right, p[0]), max(highest, p[1])
		}
	}
	stepX, stepY := niceStep(right/6), niceStep(highest/4)
	highest = max(math.Ceil(highest/stepY), 1) * stepY
	atX := func(v float64) float64 { return float64(x0) + v/max(right, 1e-9)*float64(x1-x0) }
	atY := func(v float64) float64 { return float64(y0) - v/highest*float64(y0-y1) }
	for v := 0.0; v <= highest*1.001; v += stepY {
		fmt.Fprintf(b, `<line x1="%d" y1="%.1f" x2="%d" y2="%.1f"/>`+"\n", x0, atY(v), x1, atY(v))
		writeText(b, x0-6, int(atY(v))+4, "", "end", axis(v))
	}
	for v := 0.0; v <= right*1.001; v += stepX {
		writeText(b, int(atX(v)), y0+16, "", "middle", axis(v))
	}
	writeText(b, x1, y0+32, "", "end", c.X)
	writeText(b, x0-50, y1-8, "", "start", c.Y)
	legend, color := x0, -1
	for _, s := range c.Series {
		predicted := strings.HasSuffix(s.Name, dashes)
		if !predicted {
			color++
		}
		class := fmt.Sprintf("s%d", color%4)
		if predicted { // in the colour of what was measured, which is the one before
			class += " dashed"
		}
		var points strings.Builder
		for _, p := range s.Points {
			fmt.Fprintf(&points, "%.1f,%.1f ", atX(p[0]), atY(p[1]))
		}
		fmt.Fprintf(b, `<polyline class="%s" points="%s"/>`+"\n", class, strings.TrimSpace(points.String()))
		if predicted {
			continue
		}
		fmt.Fprintf(b, `<polyline class="%s" points="%d,%d %d,%d"/>`+"\n", class, legend, y0+48, legend+18, y0+48)
		writeText(b, legend+23, y0+52, "", "start", s.Name)
		legend += 36 + 7*len(s.Name)
	}
}

// niceStep returns a step of 1, 2 or 5 times a power of ten that is no smaller.
func niceStep(v float64) float64 {
	if v <= 0 {
		return 1
	}
	power := math.Pow(10, math.Floor(math.Log10(v)))
	for _, factor := range []float64{1, 2, 5} {
		if factor*power >= v {
			return factor * power
		}
	}
	return 10 * power
}

// axis writes a number of an axis.
func axis(v float64) string {
	if v < 1000 {
		return strconv.FormatFloat(v, 'g', 3, 64)
	}
	return measure.Figure(v)
}

func writeText(b *bytes.Buffer, x, y int, class, anchor, text string) {
	fmt.Fprintf(b, `<text class="%s" x="%d" y="%d" text-anchor="%s">%s</text>`+"\n", class, x, y, anchor, html.EscapeString(text))
}
