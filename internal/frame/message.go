package frame

import "sync"

// A Message is a message that is framed once for all connections that get it. Its zero value
// is a text message, and has no text yet.
type Message struct {
	Binary bool // static

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
		opcode := byte(Text)
		if m.Binary {
			opcode = Binary
		}
		*frame = New(opcode, text(), deflated)
	}
	return *frame
}
