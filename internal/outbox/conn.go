package outbox

import (
	"bytes"
	"time"
)

// What follows, and Read, is the net.Conn that gorilla and melody see.

// Write is called by gorilla alone: first with the handshake's response, then with
// one control frame at a time. It does not wait for the peer, except for the
// response.
func (o *Outbox) Write(p []byte) (int, error) {
	o.mu.Lock()
	if o.phase == handshaking {
		o.phase = open
		o.mu.Unlock() // nobody else has the outbox yet
		return o.answer(p)
	}
	control := bytes.Clone(p) // gorilla uses its buffer again
	if err := o.controlAndUnlock(control); err != nil {
		return 0, err
	}
	return len(p), nil
}

// answer writes the response to the handshake.
func (o *Outbox) answer(response []byte) (int, error) {
	o.deflated = bytes.Contains(response, []byte("\r\nSec-WebSocket-Extensions: permessage-deflate"))
	o.Conn.SetWriteDeadline(time.Now().Add(o.limits.WriteTimeout))
	n, err := o.Conn.Write(response)
	o.Conn.SetWriteDeadline(time.Time{})
	return n, err
}

// Close is called by melody when its read loop has ended. After a close frame the
// socket stays open for Linger: a close with unread input would lose the frame.
func (o *Outbox) Close() error {
	o.mu.Lock()
	if o.phase == closing {
		o.mu.Unlock()
		return nil
	}
	o.dropAndUnlock(0)
	return nil
}

// The outbox owns the deadlines: gorilla and melody would set them for one write
// or read and leave them on the socket.

func (o *Outbox) SetDeadline(time.Time) error      { return nil }
func (o *Outbox) SetReadDeadline(time.Time) error  { return nil }
func (o *Outbox) SetWriteDeadline(time.Time) error { return nil }
