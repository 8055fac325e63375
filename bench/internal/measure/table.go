package measure

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

// WriteMarkdown writes a table that can be read as it is. The first row is its head.
func WriteMarkdown(b *strings.Builder, rows [][]string) {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, c := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(c))
		}
	}
	for n, row := range rows {
		for i, c := range row {
			fmt.Fprintf(b, "| %-*s ", widths[i], c)
		}
		b.WriteString("|\n")
		if n == 0 {
			for _, w := range widths {
				b.WriteString("|" + strings.Repeat("-", w+2))
			}
			b.WriteString("|\n")
		}
	}
}

// Figure writes three digits, and thousands with commas.
func Figure(v float64) string {
	if v < 1000 {
		digits := 2
		if v > 0 {
			digits = min(max(2-int(math.Floor(math.Log10(v))), 0), 4)
		}
		return strconv.FormatFloat(v, 'f', digits, 64)
	}
	step := math.Pow(10, math.Floor(math.Log10(v))-2)
	text := strconv.FormatFloat(math.Round(v/step)*step, 'f', 0, 64)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}
