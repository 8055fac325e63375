package few_test

import (
	"maps"
	"math/rand/v2"
	"strconv"
	"testing"

	"github.com/seed-29c60982/grouphub/internal/few"
)

type value struct {
	name    string
	version int
}

func (v *value) Name() string { return v.name }

func TestMapKeepsWhatAMapKeeps(t *testing.T) {
	for _, names := range []int{1, 3, 8, 9, 100} {
		r := rand.New(rand.NewPCG(uint64(names), 0))
		var m few.Map[*value]
		want := make(map[string]*value)
		for step := range 2000 {
			name := strconv.Itoa(r.IntN(names))
			if r.IntN(3) > 0 {
				v := &value{name, step}
				m.Set(v)
				want[name] = v
			} else {
				m.Delete(name)
				delete(want, name)
			}
			if got := m.Get(name); got != want[name] {
				t.Fatalf("of %d names, step %d: Get(%q) = %v, want %v", names, step, name, got, want[name])
			}
			got := make(map[string]*value)
			for v := range m.All() {
				got[v.name] = v
				if step%2 == 0 {
					break // which All must allow
				}
			}
			if step%2 == 1 && !maps.Equal(got, want) {
				t.Fatalf("of %d names, step %d: All has %d values, want %d", names, step, len(got), len(want))
			}
		}
	}
}
