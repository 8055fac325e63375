package latest

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// A model is the queue as its documentation describes it.
type model struct {
	values []int
	keys   []string // of the values, "" where nothing replaces one
}

func (m *model) add(key string, v int) (old int, removed bool) {
	if i := slices.Index(m.keys, key); key != "" && i >= 0 {
		old, removed = m.values[i], true
		m.values, m.keys = slices.Delete(m.values, i, i+1), slices.Delete(m.keys, i, i+1)
	}
	m.values, m.keys = append(m.values, v), append(m.keys, key)
	return old, removed
}

func TestQueueIsWhatWentInWithoutWhatWasReplaced(t *testing.T) {
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 0))
		var q Queue[string, int]
		var m model
		for v := range 2000 {
			switch op := r.IntN(20); {
			case op < 4:
				q.Add(v)
				m.add("", v)
			case op < 12:
				key := fmt.Sprint(r.IntN(1 + int(seed)))
				had, ok := q.Get(key)
				old, removed := q.Replace(key, v)
				wantOld, want := m.add(key, v)
				if old != wantOld || removed != want || had != wantOld || ok != want {
					t.Fatalf("seed %d: Replace: %d, %v after Get: %d, %v; want %d, %v", seed, old, removed, had, ok, wantOld, want)
				}
			case op < 17 && len(m.values) > 0:
				if got := *q.Front(); got != m.values[0] || q.Remove() != got {
					t.Fatalf("seed %d: the first is %d, want %d", seed, got, m.values[0])
				}
				m.values, m.keys = m.values[1:], m.keys[1:]
			case op == 17 && len(m.values) > 0:
				q.Pin()
				m.keys[0] = ""
			case op == 18 && r.IntN(10) == 0:
				odd := func(v int) bool { return v%2 == 1 }
				q.Filter(odd)
				var rest model
				for i, v := range m.values {
					if odd(v) {
						rest.values, rest.keys = append(rest.values, v), append(rest.keys, m.keys[i])
					}
				}
				m = rest
			case op == 19 && r.IntN(100) == 0:
				q.Clear()
				m = model{}
			}
			if got := slices.Collect(q.All()); !slices.Equal(got, m.values) {
				t.Fatalf("seed %d: the queue is %v, want %v", seed, got, m.values)
			}
			if (q.Front() == nil) != (len(m.values) == 0) {
				t.Fatalf("seed %d: Front of %d values is %v", seed, len(m.values), q.Front())
			}
		}
	}
}

func TestQueueGrowsWithItsKeysAndNotWithItsReplacements(t *testing.T) {
	var q Queue[int, int]
	q.Add(0)
	for v := range 100_000 {
		q.Replace(v%10, v)
	}
	if n := cap(q.slots); n > 1000 {
		t.Errorf("11 values have %d slots", n)
	}
}
