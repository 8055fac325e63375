package main

import (
	"fmt"
	"strings"
)

// faults counts what a contender did wrong.
type faults struct {
	Missing int `json:",omitempty"` // numbers that a connection had not seen when a later one came, or at the end
	Late    int `json:",omitempty"` // numbers out of order, or repeated
	Closed  int `json:",omitempty"` // connections that ended too early
}

func (f *faults) add(g faults) {
	f.Missing += g.Missing
	f.Late += g.Late
	f.Closed += g.Closed
}

func (f faults) String() string {
	var parts []string
	for _, p := range []struct {
		n    int
		what string
	}{{f.Missing, "missing"}, {f.Late, "late or repeated"}, {f.Closed, "connections closed"}} {
		if p.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", p.n, p.what))
		}
	}
	return strings.Join(parts, ", ")
}

// A sequence follows the numbers that one connection receives.
type sequence struct{ last uint32 }

func (s *sequence) check(number uint32, f *faults) {
	if number <= s.last {
		f.Late++
		return
	}
	f.Missing += int(number - s.last - 1)
	s.last = number
}
