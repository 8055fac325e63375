package outbox

import (
	"bytes"
	"time"
)

// What follows, and Read, is the net.Conn that gorilla and melody see.

// Write is called by gorilla alone: first with the handshake's response, which is held until
// Release, then with one control frame at a time. It does not wait for the peer.
func (o *Outbox) Write(p []byte) (int, error) {
	b := bytes.Clone(p) // gorilla uses its buffer again
	o.mu.Lock()
	if o.phase == handshaking {
		o.phase, o.writing = open, held
		o.deflated = bytes.Contains(b, []byte("\r\nSec-WebSocket-Extensions: permessage-deflate"))
		o.extraLocked().answer = b
		o.mu.Unlock()
		return len(p), nil
	}
	if err := o.controlAndUnlock(b); err != nil {
		return 0, err
	}
	return len(p), nil
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
