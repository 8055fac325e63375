// Package measure has what measurements share: a clock for all processes of a machine, what the kernel
// says that a process has used, histograms, and tables.
package measure

import (
	"math"
	"math/bits"
)

// A Histogram counts durations in nanoseconds, in buckets that are at most 1/32 of
// their value wide.
type Histogram struct {
	Counts [64 * histogramSteps]uint64
	Total  uint64 // how many there are
}

const histogramSteps = 32 // buckets per power of two

// Record counts one duration. A negative one counts as none.
func (h *Histogram) Record(ns int64) {
	h.Counts[bucket(uint64(max(ns, 0)))]++
	h.Total++
}

// Quantile returns the upper edge of the bucket that holds the q-th part of all.
func (h *Histogram) Quantile(q float64) int64 {
	if h.Total == 0 {
		return 0
	}
	rank := uint64(math.Ceil(q * float64(h.Total)))
	for i, n := range h.Counts {
		if n >= rank {
			return upperEdge(i)
		}
		rank -= n
	}
	return math.MaxInt64
}

func bucket(v uint64) int {
	if v < histogramSteps {
		return int(v)
	}
	shift := bits.Len64(v) - 6 // leaves six bits, the first of them set
	return (shift+1)*histogramSteps + int(v>>shift) - histogramSteps
}

func upperEdge(i int) int64 {
	if i < histogramSteps {
		return int64(i)
	}
	shift := i/histogramSteps - 1
	return int64((uint64(i%histogramSteps+histogramSteps)+1)<<shift) - 1
}

// Add counts what another histogram has counted.
func (h *Histogram) Add(other *Histogram) {
	h.Total += other.Total
	for i, n := range other.Counts {
		h.Counts[i] += n
	}
}
