package frame

import "sync"

// A Message is a text message that is framed once for all connections that get it. Its
// zero value has no text yet.
type Message struct {
	mu              sync.Mutex
	plain, deflated []byte // nil until they are needed
}

// Frame returns the message as a frame. The text is asked for when it is needed.
func (m *Message) Frame(deflated bool, text func() []byte) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	frame := &m.plain
	if deflated {
		frame = &m.deflated
	}
	if *frame == nil {
		*frame = New(Text, text(), deflated)
	}
	return *frame
}
