// Package few keeps values by name where there are few of them nearly always, and sometimes
// very many.
package few

import (
	"iter"
	"slices"
)

// most is how many values are kept without a map, whose smallest size is for eight.
const most = 8

// A Value knows the name that it is kept by.
type Value interface {
	Name() string
}

// A Map keeps values by their names. Its zero value is empty. It is not safe for concurrent
// use.
type Map[V Value] struct {
	few  []V
	many map[string]V // nil until there are more than a few
}

// Get returns the value of a name, the zero value if there is none.
func (m *Map[V]) Get(name string) (v V) {
	if m.many != nil {
		return m.many[name]
	}
	if i := m.index(name); i >= 0 {
		v = m.few[i]
	}
	return v
}

// Set keeps a value, in place of another one of its name.
func (m *Map[V]) Set(v V) {
	if m.many == nil {
		if i := m.index(v.Name()); i >= 0 {
			m.few[i] = v
			return
		}
		if len(m.few) < most {
			m.few = append(m.few, v)
			return
		}
		m.many = make(map[string]V)
		for _, old := range m.few {
			m.many[old.Name()] = old
		}
		m.few = nil
	}
	m.many[v.Name()] = v
}

// Delete forgets the value of a name.
func (m *Map[V]) Delete(name string) {
	if m.many != nil {
		delete(m.many, name)
	} else if i := m.index(name); i >= 0 {
		m.few = slices.Delete(m.few, i, i+1)
	}
}

// All returns the values, in no order. While it is used, the map is not to be changed.
func (m *Map[V]) All() iter.Seq[V] {
	return func(yield func(V) bool) {
		for _, v := range m.few {
			if !yield(v) {
				return
			}
		}
		for _, v := range m.many {
			if !yield(v) {
				return
			}
		}
	}
}

func (m *Map[V]) index(name string) int {
	return slices.IndexFunc(m.few, func(v V) bool { return v.Name() == name })
}
