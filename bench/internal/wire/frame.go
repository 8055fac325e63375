// Package wire has what load generators send and read: events that say when they were due, and the
// frames and blocks around them.
package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// An event is JSON of EventSize bytes: when it was due, on the machine's
// monotonic clock in nanoseconds, and its number in its group, from 1, both in
// hexadecimal of a fixed width, so that the load generator finds and reads them
// without parsing JSON, in whatever envelope a contender puts around it.
const (
	EventSize   = 128
	eventMarker = `{"at":"`
	numberAt    = len(eventMarker) + 16 + len(`","n":"`)
	eventPad    = numberAt + 8 + len(`","pad":"`)
)

var eventTail = strings.Repeat("x", EventSize-eventPad-len(`"}`)) + `"}`

// NewEvent returns an event that was due at that time.
func NewEvent(at int64, number uint32) []byte {
	return fmt.Appendf(make([]byte, 0, EventSize), `%s%016x","n":"%08x","pad":"%s`, eventMarker, at, number, eventTail)
}

// EachEvent calls fn for every event in a message. It is more than one where a
// contender sends several in a message.
func EachEvent(message []byte, fn func(at int64, number uint32)) {
	for {
		i := bytes.Index(message, []byte(eventMarker))
		if i < 0 || len(message)-i < EventSize {
			return
		}
		e := message[i : i+EventSize]
		fn(int64(hexadecimal(e[len(eventMarker):len(eventMarker)+16])), uint32(hexadecimal(e[numberAt:numberAt+8])))
		message = message[i+EventSize:]
	}
}

func hexadecimal(digits []byte) (v uint64) {
	for _, d := range digits {
		if d >= 'a' {
			d -= 'a' - 10 - '0'
		}
		v = v<<4 | uint64(d-'0')
	}
	return v
}

// WebSocket opcodes.
const (
	OpText  = 1
	OpClose = 8
	OpPing  = 9
	OpPong  = 10
)

var errFrame = errors.New("not an unmasked, unfragmented WebSocket frame")

// NextFrame reads the frame at the head of b. Its size is zero while b holds only a
// part of it.
func NextFrame(b []byte) (opcode byte, payload []byte, size int, err error) {
	if len(b) < 2 {
		return 0, nil, 0, nil
	}
	if b[0]&0xf0 != 0x80 || b[1]&0x80 != 0 {
		return 0, nil, 0, errFrame
	}
	head, length := 2, uint64(b[1])
	switch {
	case length == 126 && len(b) >= 4:
		head, length = 4, uint64(binary.BigEndian.Uint16(b[2:]))
	case length == 127 && len(b) >= 10:
		head, length = 10, binary.BigEndian.Uint64(b[2:])
	case length >= 126:
		return 0, nil, 0, nil
	}
	if length > 1<<30 {
		return 0, nil, 0, errFrame
	}
	if uint64(len(b)-head) < length {
		return 0, nil, 0, nil
	}
	size = head + int(length)
	return b[0] & 0x0f, b[head:size], size, nil
}

// NextBlock reads the block of an event stream at the head of b, as NextFrame reads a frame.
// Whether it is an event of the scenario is seen by what it contains.
func NextBlock(b []byte) (opcode byte, payload []byte, size int, err error) {
	i := bytes.Index(b, []byte("\n\n"))
	if i < 0 {
		return 0, nil, 0, nil
	}
	return OpText, b[:i], i + 2, nil
}

// AppendFrame appends a server's text frame.
func AppendFrame(dst, payload []byte) []byte {
	switch n := len(payload); {
	case n < 126:
		dst = append(dst, 0x80|OpText, byte(n))
	case n < 1<<16:
		dst = append(dst, 0x80|OpText, 126)
		dst = binary.BigEndian.AppendUint16(dst, uint16(n))
	default:
		dst = append(dst, 0x80|OpText, 127)
		dst = binary.BigEndian.AppendUint64(dst, uint64(n))
	}
	return append(dst, payload...)
}

// MaskedFrame returns a client's frame of less than 126 bytes, masked with zeros.
func MaskedFrame(opcode byte, payload []byte) []byte {
	return append([]byte{0x80 | opcode, 0x80 | byte(len(payload)), 0, 0, 0, 0}, payload...)
}
