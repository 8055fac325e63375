package outbox

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"fmt"
	"math"
	"sync"
	"unicode/utf8"
)

// The opcodes of RFC 6455 for messages.
const (
	Text   = 1
	Binary = 2
)

const (
	opClose = 8
	opPing  = 9

	noStatus      = 1005 // stands for a close frame without a code
	tryAgainLater = 1013

	bitFinal = 0x80
	bitRSV1  = 0x40 // permessage-deflate: the message is compressed
)

var pingFrame = []byte{bitFinal | opPing, 0}

// MaxHeader is how many bytes a frame's header has at the most.
const MaxHeader = 10

// appendFrame appends a whole, final, unmasked frame, as a server sends it.
func appendFrame(dst []byte, first byte, payload []byte) []byte {
	return append(AppendHeader(dst, first, len(payload)), payload...)
}

// AppendHeader appends such a frame's header, for a payload of n bytes.
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

// NewFrame returns a message as one frame, compressed where that was negotiated
// and makes it smaller.
func NewFrame(opcode byte, payload []byte, deflated bool) []byte {
	if deflated {
		if packed := deflate(payload); len(packed) < len(payload) {
			payload, opcode = packed, opcode|bitRSV1
		}
	}
	return appendFrame(make([]byte, 0, len(payload)+MaxHeader), opcode, payload)
}

// frameLen returns the length of the frame that b begins with, header included.
// The frame is one of ours or of gorilla's server side: whole and unmasked.
func frameLen(b []byte) int {
	switch b[1] {
	case 126:
		return 4 + int(binary.BigEndian.Uint16(b[2:]))
	case 127:
		return 10 + int(binary.BigEndian.Uint64(b[2:]))
	}
	return 2 + int(b[1])
}

// wholeFrames returns the length of the longest run of whole frames at the start
// of b that has at most limit bytes.
func wholeFrames(b []byte, limit int) int {
	n := 0
	for n < len(b) {
		next := n + frameLen(b[n:])
		if next > limit {
			break
		}
		n = next
	}
	return n
}

// dataFrames counts the text and binary frames in b that end after its first sent
// bytes.
func dataFrames(b []byte, sent int) int {
	count := 0
	for n := 0; n < len(b); {
		opcode := b[n] & 0x0f
		n += frameLen(b[n:])
		if n > sent && opcode < opClose {
			count++
		}
	}
	return count
}

// closeFrame returns a close frame. A reason that is too long for one is cut at a
// rune's boundary.
func closeFrame(code int, reason string) []byte {
	payload := binary.BigEndian.AppendUint16(make([]byte, 0, 125), uint16(code))
	for _, r := range reason {
		if len(payload)+len(string(r)) > 125 {
			break
		}
		payload = append(payload, string(r)...)
	}
	return appendFrame(nil, opClose, payload)
}

// CheckClose returns an error unless a close frame may say this.
func CheckClose(code int, reason string) error {
	switch {
	case code == 1000 || code == 1001 || code == 1003 || code >= 1007 && code <= 1014 || code >= 3000 && code <= 4999:
	default:
		return fmt.Errorf("%d is no close code, such as 1000 or 3000 to 4999", code)
	}
	if len(reason) > 123 {
		return fmt.Errorf("reason of %d bytes, at most 123 fit", len(reason))
	}
	if !utf8.ValidString(reason) {
		return fmt.Errorf("reason %q is not valid UTF-8", reason)
	}
	return nil
}

// closeCode returns the code in a close frame, or 1005 where there is none.
func closeCode(frame []byte) int {
	if len(frame) < 4 {
		return noStatus
	}
	return int(binary.BigEndian.Uint16(frame[2:]))
}

var deflaters = sync.Pool{New: func() any {
	// Level 1, like gorilla: the point is bandwidth, at little CPU.
	w, err := flate.NewWriter(nil, flate.BestSpeed)
	if err != nil {
		panic(err) // the level is a constant
	}
	return w
}}

// deflate compresses a message without context takeover, which is what gorilla
// negotiates, so that one result serves every connection.
func deflate(payload []byte) []byte {
	var out bytes.Buffer
	w := deflaters.Get().(*flate.Writer)
	w.Reset(&out)
	w.Write(payload) // a bytes.Buffer does not fail
	w.Flush()
	deflaters.Put(w)
	return bytes.TrimSuffix(out.Bytes(), []byte{0, 0, 0xff, 0xff}) // RFC 7692, 7.2.1
}
