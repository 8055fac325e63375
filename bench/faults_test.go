package main

import "testing"

func TestNumbersThatAreMissingOrLateAreCounted(t *testing.T) {
	for _, c := range []struct {
		numbers []uint32
		want    faults
		says    string
	}{
		{[]uint32{1, 2, 3}, faults{}, ""},
		{[]uint32{2, 5}, faults{Missing: 3}, "3 missing"},
		{[]uint32{1, 1}, faults{Late: 1}, "1 late or repeated"},
		{[]uint32{1, 3, 2, 4}, faults{Missing: 1, Late: 1}, "1 missing, 1 late or repeated"},
	} {
		var s sequence
		var got faults
		for _, n := range c.numbers {
			s.check(n, &got)
		}
		if got != c.want || got.String() != c.says {
			t.Errorf("%d: %+v, %q", c.numbers, got, got)
		}
	}
}
