package grouphub

import (
	"maps"
	"math/rand/v2"
	"strconv"
	"testing"
)

func TestMembershipsKeepWhatAMapKeeps(t *testing.T) {
	for _, names := range []int{1, 3, maxWithoutMap, maxWithoutMap + 1, 100} {
		r := rand.New(rand.NewPCG(uint64(names), 0))
		var m memberships
		want := make(map[string]*membership)
		for step := range 2000 {
			name := strconv.Itoa(r.IntN(names))
			if r.IntN(3) > 0 {
				one := &membership{group: &group{name: name}}
				m.set(one)
				want[name] = one
			} else {
				m.delete(name)
				delete(want, name)
			}
			if got := m.get(name); got != want[name] {
				t.Fatalf("of %d groups, step %d: get(%q) = %v, want %v", names, step, name, got, want[name])
			}
			got := make(map[string]*membership)
			for one := range m.all() {
				got[one.group.name] = one
				if step%2 == 0 {
					break // which all must allow
				}
			}
			if step%2 == 1 && !maps.Equal(got, want) {
				t.Fatalf("of %d groups, step %d: all yields %d memberships, want %d", names, step, len(got), len(want))
			}
		}
	}
}
