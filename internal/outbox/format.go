package outbox

import (
	"github.com/seed-29c60982/grouphub/internal/eventstream"
	"github.com/seed-29c60982/grouphub/internal/frame"
)

// A Format is what a connection's bytes are made of. Where this package speaks of frames, it
// means the blocks of an event stream, too.
type Format uint8

const (
	WebSocket   Format = iota // frames of RFC 6455
	EventStream               // blocks of text/event-stream
)

// length returns the length of the frame that b begins with.
func (f Format) length(b []byte) int {
	if f == EventStream {
		return eventstream.FirstBlock(b)
	}
	return frame.Len(b)
}

// whole returns the length of the longest run of whole frames at the start of b that has at
// most limit bytes.
func (f Format) whole(b []byte, limit int) int {
	n := 0
	for n < len(b) {
		next := n + f.length(b[n:])
		if next > limit {
			break
		}
		n = next
	}
	return n
}

// countData counts the data frames in b that end after its first sent bytes: those that have
// not been sent to their end.
func (f Format) countData(b []byte, sent int) (count int) {
	for n := 0; n < len(b); {
		isData := f.isData(b[n:])
		n += f.length(b[n:])
		if n > sent && isData {
			count++
		}
	}
	return count
}

// isData reports whether b begins with a frame that is neither about the connection nor
// its end.
func (f Format) isData(b []byte) bool {
	if f == EventStream {
		return eventstream.IsEvent(b)
	}
	return frame.Opcode(b) < frame.Close
}

// newClose returns a frame that closes the connection.
func (f Format) newClose(code int, reason string) []byte {
	if f == EventStream {
		return eventstream.NewClose(code, reason)
	}
	return frame.NewClose(code, reason)
}

var (
	pingFrame    = frame.NewPing()
	commentBlock = []byte(eventstream.Comment)
)

// ping returns a frame that proves that the path is alive. The client of a WebSocket
// answers it, that of an event stream does not.
func (f Format) ping() []byte {
	if f == EventStream {
		return commentBlock
	}
	return pingFrame
}

// urgentPlace returns the place in which a control frame waits: that of pings or that of
// pongs.
func (f Format) urgentPlace(control []byte) int {
	if f == EventStream { // which has comments alone
		return 0
	}
	return int(frame.Opcode(control) - frame.Ping)
}
