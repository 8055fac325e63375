package frame

import (
	"sync"
	"sync/atomic"
)

// A Rendering is a Message whose text takes a call that may block, or fail. Its zero value
// is that of a text message, and has not been called for.
type Rendering struct {
	once    sync.Once
	done    atomic.Bool
	text    []byte // once done; nil if it failed
	message Message
}

// Do calls f for the text, once; others wait for it. Nil means that there is none, as does
// a call that does not return. Binary says that it is no text, but the data of a binary message.
func (r *Rendering) Do(binary bool, f func() []byte) {
	r.once.Do(func() {
		defer r.done.Store(true)
		r.message.Binary = binary
		r.text = f()
	})
}

// Done reports whether Do has returned.
func (r *Rendering) Done() bool { return r.done.Load() }

// Text returns the text, nil if there is none (yet). The receiver may be nil.
func (r *Rendering) Text() []byte {
	if r == nil || !r.Done() {
		return nil
	}
	return r.text
}

// Frame returns the text as a frame, nil if there is none (yet). The receiver may be nil.
func (r *Rendering) Frame(deflated bool) []byte {
	if r.Text() == nil {
		return nil
	}
	return r.message.Frame(deflated, func() []byte { return r.text })
}
