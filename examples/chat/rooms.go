package main

import (
	"sync"
	"time"
)

const (
	// maxRooms is how many rooms may be in use within roomLife. What a room costs is the
	// history that is kept of it, and a stranger can make up names all day. An application
	// whose rooms are in its database asks that instead.
	maxRooms = 500
	// roomLife is how long the messages of a room are kept.
	roomLife = time.Hour
)

// rooms says which rooms are in use, in this process.
type rooms struct {
	mu   sync.Mutex
	used map[string]time.Time // when each was last entered or written to
}

// use notes that a room is entered or written to. It reports false if that would be one
// room too many.
func (r *rooms) use(room string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	if _, ok := r.used[room]; !ok && len(r.used) >= maxRooms {
		for other, used := range r.used {
			if now.Sub(used) > roomLife {
				delete(r.used, other)
			}
		}
		if len(r.used) >= maxRooms {
			return false
		}
	}
	r.used[room] = now
	return true
}
