// Package frame writes the frames of RFC 6455 as a server sends them: unmasked, and one frame
// for each message. It is separate from the socket, so that a frame can be built once and
// shared by all connections that get it: its bytes are never changed after they were built.
//
// The functions that walk a buffer (Len, Whole, CountData) trust it: it holds whole frames
// that this package or gorilla's server side has built.
package frame

import (
	"encoding/binary"
	"math"
)

// The opcodes of RFC 6455, but for the continuation of a message, which no server here sends.
const (
	Text   = 1
	Binary = 2
	Close  = 8
	Ping   = 9
	Pong   = 10
)

const (
	bitFinal = 0x80
	bitRSV1  = 0x40 // permessage-deflate: the message is compressed
)

// MaxHeader is how many bytes a frame's header has at the most.
const MaxHeader = 10

// New returns a message as one frame. It is compressed if deflated says that this was
// negotiated, and only if that makes it smaller.
func New(opcode byte, payload []byte, deflated bool) []byte {
	if deflated {
		if packed := deflate(payload); len(packed) < len(payload) {
			payload, opcode = packed, opcode|bitRSV1
		}
	}
	return appendFrame(make([]byte, 0, len(payload)+MaxHeader), opcode, payload)
}

// NewPing returns a ping without a payload.
func NewPing() []byte { return appendFrame(nil, Ping, nil) }

// appendFrame appends a whole, final frame. The first byte is the opcode, with the bits that
// are reserved for extensions.
func appendFrame(dst []byte, first byte, payload []byte) []byte {
	return append(AppendHeader(dst, first, len(payload)), payload...)
}

// AppendHeader appends the header of a final frame whose payload has n bytes.
func AppendHeader(dst []byte, opcode byte, n int) []byte {
	dst = append(dst, opcode|bitFinal)
	switch {
	case n <= 125:
		dst = append(dst, byte(n))
	case n <= math.MaxUint16:
		dst = append(dst, 126)
		dst = binary.BigEndian.AppendUint16(dst, uint16(n))
	default:
		dst = append(dst, 127)
		dst = binary.BigEndian.AppendUint64(dst, uint64(n))
	}
	return dst
}

// Opcode returns the opcode of the frame that b begins with.
func Opcode(b []byte) byte { return b[0] & 0x0f }

// Len returns the length of the frame that b begins with, header included.
func Len(b []byte) int {
	switch b[1] {
	case 126:
		return 4 + int(binary.BigEndian.Uint16(b[2:]))
	case 127:
		return 10 + int(binary.BigEndian.Uint64(b[2:]))
	}
	return 2 + int(b[1])
}

// Whole returns the length of the longest run of whole frames at the start of b that has at
// most limit bytes.
func Whole(b []byte, limit int) int {
	n := 0
	for n < len(b) {
		next := n + Len(b[n:])
		if next > limit {
			break
		}
		n = next
	}
	return n
}

// CountData counts the text and binary frames in b that end after its first sent bytes: those
// that have not been sent to their end.
func CountData(b []byte, sent int) int {
	count := 0
	for n := 0; n < len(b); {
		opcode := Opcode(b[n:])
		n += Len(b[n:])
		if n > sent && opcode < Close {
			count++
		}
	}
	return count
}
