package main

import (
	"math"
	"math/bits"
	"slices"
)

// A histogram counts durations in nanoseconds, in buckets that are at most 1/32 of
// their value wide.
type histogram struct {
	counts [64 * histogramSteps]uint64
	total  uint64
}

const histogramSteps = 32 // buckets per power of two

func (h *histogram) record(ns int64) {
	h.counts[bucket(uint64(max(ns, 0)))]++
	h.total++
}

// quantile returns the upper edge of the bucket that holds the q-th part of all.
func (h *histogram) quantile(q float64) int64 {
	if h.total == 0 {
		return 0
	}
	rank := uint64(math.Ceil(q * float64(h.total)))
	for i, n := range h.counts {
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

// A spread is what several rounds gave for one figure.
type spread struct{ median, min, max float64 }

func spreadOf(values []float64) spread {
	if len(values) == 0 {
		return spread{}
	}
	v := slices.Sorted(slices.Values(values))
	middle := v[len(v)/2]
	if len(v)%2 == 0 {
		middle = (v[len(v)/2-1] + middle) / 2
	}
	return spread{middle, v[0], v[len(v)-1]}
}
