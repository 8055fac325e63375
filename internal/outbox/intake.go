package outbox

import (
	"golang.org/x/time/rate"

	"github.com/seed-29c60982/grouphub/internal/frame"
)

// readAhead is how many bytes may be read while the reader waits, before they are asked for.
const readAhead = 64 << 10

// An intake is what comes in between the socket and gorilla. It finds the frames, so that each
// of them can cost its sender a token before anything is worked on, and keeps what was read
// too early. It is owned by the reader's goroutine.
type intake struct {
	frames  frame.Scanner // at the end of what gorilla has had
	limiter *rate.Limiter // a token is for a frame; nil: no limit
	unread  *unread       // nil if everything that was read went to gorilla
	packed  bool          // the message that gorilla reads is compressed
}

// An unread is what was read from the socket before gorilla has asked for it.
type unread struct {
	bytes  []byte
	frames frame.Scanner // at the end of bytes
	broken bool          // frames has found a fault, which gorilla is still to come to
	closed bool          // there is a whole close frame in bytes
	err    error         // how reading ended, behind bytes; nil while it goes on
	told   bool          // the owner knows that the peer has left
}

// Packed reports whether the message that is being read is compressed. gorilla is not told.
func (o *Outbox) Packed() bool { return o.intake.packed }

// Read is called by gorilla alone, or by whoever waits for the end of a stream. It returns
// bytes of one frame at the most. A frame that its sender has no token for has to wait, and
// what follows waits in the network.
func (o *Outbox) Read(p []byte) (int, error) {
	if o.format == EventStream { // whose client has nothing to say
		return o.readSocket(p)
	}
	in := o.intake
	if in.unread == nil {
		n, err := o.readSocket(p)
		if n == 0 {
			return 0, err
		}
		if !in.frames.AtStart() || in.isFree(p[0]) || in.limiter.Allow() {
			k, err := o.scan(p[:n])
			if k < n {
				in.keep(p[k:n])
			}
			return k, err
		}
		in.keep(p[:n])
	}
	u := in.unread
	if len(u.bytes) == 0 {
		return 0, u.err
	}
	if in.frames.AtStart() && !in.isFree(u.bytes[0]) {
		o.awaitToken()
	}
	n, err := o.scan(p[:copy(p, u.bytes)])
	if u.bytes = u.bytes[n:]; len(u.bytes) == 0 {
		if u.bytes = nil; u.err == nil {
			in.unread = nil
		}
	}
	return n, err
}

// keep keeps bytes for the next Read.
func (in *intake) keep(b []byte) {
	if in.unread == nil {
		in.unread = &unread{frames: in.frames}
	}
	in.unread.add(b)
}

func (u *unread) add(b []byte) {
	u.bytes = append(u.bytes, b...)
	for len(b) > 0 && !u.broken {
		n, err := u.frames.Scan(b)
		u.broken = err != nil
		u.closed = u.closed || u.frames.AtStart() && u.frames.Opcode() == frame.Close
		b = b[n:]
	}
}

// scan looks at bytes that gorilla is to have, and returns how many of them belong to the
// frame. A frame that the RFC forbids ends the connection with 1002.
func (o *Outbox) scan(b []byte) (int, error) {
	in := o.intake
	if in.frames.AtStart() && len(b) > 0 && frame.BeginsMessage(b[0]) {
		// The owner inflates: gorilla would take a final block for the end of the message.
		in.packed = o.deflated && frame.IsCompressed(b[0])
		if in.packed {
			b[0] = frame.WithoutCompressed(b[0])
		}
	}
	n, err := in.frames.Scan(b)
	if err != nil {
		o.mu.Lock()
		o.controlAndUnlock(frame.NewClose(protocolError, err.Error()))
		return 0, err
	}
	return n, nil
}

// isFree reports whether a frame with this first byte needs no token. Nobody has to wait to
// leave.
func (in *intake) isFree(first byte) bool {
	return in.limiter == nil || first&0x0f == frame.Close
}

// awaitToken waits until there is a token for the frame that is next. What somebody has sent
// who has left since, and that is not much, is not worth a wait.
func (o *Outbox) awaitToken() {
	if in := o.intake; !in.unread.told && !o.isOver() {
		o.wait(in.limiter.Reserve().Delay(), nil)
	}
}
