// Package latest has a queue in which a value takes the place of an earlier one that it makes
// superfluous.
package latest

import "iter"

// A Queue is first in, first out, but that a value with a key removes the one with the same
// key that is still there. The new one goes to the end: what comes out is what went in, in
// order, without what was replaced.
//
// Its zero value is empty, and takes no more memory than a pointer. It is not safe for
// concurrent use.
type Queue[K comparable, V any] struct {
	*content[K, V] // nil if it is empty, and nothing is left of it
}

type content[K comparable, V any] struct {
	slots []slot[K, V]
	first uint64       // the number of the first slot; later ones count up
	keys  map[K]uint64 // the numbers of the slots that can be replaced; nil if there were none
	gaps  int          // slots whose value was replaced; never the first one

	room [2]slot[K, V] // for the first ones, so that a short queue is one allocation
}

type slot[K comparable, V any] struct {
	value V
	key   K
	state state
}

type state uint8

const (
	plain    state = iota // it stays until it is removed
	keyed                 // it may be replaced
	replaced              // there is no value any more
)

// Add appends a value that nothing replaces.
func (q *Queue[K, V]) Add(v V) {
	q.make()
	q.append(slot[K, V]{value: v})
}

func (q *Queue[K, V]) append(s slot[K, V]) {
	grows := len(q.slots) == cap(q.slots)
	if q.slots = append(q.slots, s); grows {
		clear(q.room[:]) // or it would keep the values that have moved
	}
}

func (q *Queue[K, V]) make() {
	if q.content == nil {
		q.content = new(content[K, V])
		q.slots = q.room[:0]
	}
}

// Replace appends a value with a key. It returns the value that was removed, if one was.
func (q *Queue[K, V]) Replace(key K, v V) (old V, removed bool) {
	q.make()
	if number, ok := q.keys[key]; ok {
		s := &q.slots[number-q.first]
		old, removed = s.value, true
		*s = slot[K, V]{state: replaced}
		delete(q.keys, key)
		q.gaps++
		q.dropGaps()
	}
	if q.keys == nil {
		q.keys = make(map[K]uint64)
	}
	q.keys[key] = q.first + uint64(len(q.slots))
	q.append(slot[K, V]{v, key, keyed})
	return old, removed
}

// Get returns the value that a Replace with the key would remove, if there is one.
func (q *Queue[K, V]) Get(key K) (v V, ok bool) {
	if q.content == nil {
		return v, false
	}
	number, ok := q.keys[key]
	if !ok {
		return v, false
	}
	return q.slots[number-q.first].value, true
}

// Front returns the first value, nil if the queue is empty. It is valid until the queue
// changes.
func (q *Queue[K, V]) Front() *V {
	if q.content == nil || len(q.slots) == 0 {
		return nil
	}
	return &q.slots[0].value
}

// Pin keeps the first value from being replaced any more.
func (q *Queue[K, V]) Pin() {
	if s := &q.slots[0]; s.state == keyed {
		delete(q.keys, s.key)
		s.state = plain
	}
}

// Remove takes the first value out. The queue must not be empty.
func (q *Queue[K, V]) Remove() V {
	v := q.slots[0].value
	q.Pin()
	q.removeFirst()
	q.dropGaps()
	return v
}

func (q *Queue[K, V]) removeFirst() {
	q.slots[0] = slot[K, V]{} // or the array would keep the value until it is replaced
	q.slots = q.slots[1:]
	q.first++
}

// dropGaps removes the gaps at the front, and all of them once they are more than the values.
func (q *Queue[K, V]) dropGaps() {
	for len(q.slots) > 0 && q.slots[0].state == replaced {
		q.removeFirst()
		q.gaps--
	}
	if q.gaps > len(q.slots)/2 {
		q.Filter(func(V) bool { return true })
	}
}

// Filter removes all values but those that keep wants.
func (q *Queue[K, V]) Filter(keep func(V) bool) {
	if q.content == nil {
		return
	}
	rest := q.slots[:0]
	for _, s := range q.slots {
		wanted := s.state != replaced && keep(s.value)
		switch {
		case wanted && s.state == keyed:
			q.keys[s.key] = q.first + uint64(len(rest))
		case !wanted && s.state == keyed:
			delete(q.keys, s.key)
		}
		if wanted {
			rest = append(rest, s)
		}
	}
	clear(q.slots[len(rest):])
	q.slots, q.gaps = rest, 0
}

// All yields the values in order. The queue may not be changed meanwhile.
func (q *Queue[K, V]) All() iter.Seq[V] {
	return func(yield func(V) bool) {
		if q.content == nil {
			return
		}
		for _, s := range q.slots {
			if s.state != replaced && !yield(s.value) {
				return
			}
		}
	}
}

// Clear empties the queue, and gives its memory back.
func (q *Queue[K, V]) Clear() { *q = Queue[K, V]{} }
