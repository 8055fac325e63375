package frame

import (
	"encoding/binary"
	"fmt"
	"unicode/utf8"
)

const (
	maxControl = 125  // bytes of a control frame's payload
	noStatus   = 1005 // stands for a close frame without a code
)

// NewClose returns a close frame. A reason that is too long for one is cut at a rune's
// boundary.
func NewClose(code int, reason string) []byte {
	payload := binary.BigEndian.AppendUint16(make([]byte, 0, maxControl), uint16(code))
	for _, r := range reason {
		if len(payload)+len(string(r)) > maxControl {
			break
		}
		payload = append(payload, string(r)...)
	}
	return appendFrame(nil, Close, payload)
}

// CheckClose returns an error unless a close frame may say this. 1014 is registered, but many
// clients, gorilla's among them, take it for an error of the protocol.
func CheckClose(code int, reason string) error {
	switch {
	case code == 1000 || code == 1001 || code == 1003 || code >= 1007 && code <= 1013 || code >= 3000 && code <= 4999:
	default:
		return fmt.Errorf("%d is no close code, such as 1000 or 3000 to 4999", code)
	}
	if len(reason) > maxControl-2 {
		return fmt.Errorf("reason of %d bytes, at most %d fit", len(reason), maxControl-2)
	}
	if !utf8.ValidString(reason) {
		return fmt.Errorf("reason %q is not valid UTF-8", reason)
	}
	return nil
}

// CloseCode returns the code in a close frame, or 1005 where there is none.
func CloseCode(frame []byte) int {
	if len(frame) < 4 {
		return noStatus
	}
	return int(binary.BigEndian.Uint16(frame[2:]))
}
