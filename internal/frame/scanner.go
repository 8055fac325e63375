package frame

import (
	"errors"
	"math"
)

// A Scanner follows a client's frames through the bytes of a connection, however these are
// divided, and checks the headers. It finds what gorilla lets pass; the rest of the rules is
// gorilla's to check. Its zero value is at the start of a frame.
type Scanner struct {
	left     uint64 // bytes of the frame that are still to come, once the header's length is known
	first    byte   // the header's first byte
	extended uint8  // bytes of an extended length that are still to come
	size     uint8  // how many there are in all
	at       place
}

// A place is what a Scanner expects next:
//
//	start ──▶ second ──▶ length ──▶ rest ──▶ start
//	            │                    ▲
//	            └────────────────────┘
type place uint8

const (
	start  place = iota // a header's first byte
	second              // its second byte
	length              // a byte of its extended length
	rest                // the key of the mask, and the payload
)

// The errors of a Scanner are texts for a close frame with 1002.
var (
	errReserved     = errors.New("reserved bit set")
	errShortClose   = errors.New("close frame of 1 byte")
	errNotMinimal   = errors.New("length not minimal")
	errLengthTooBig = errors.New("length too big")
)

// AtStart reports whether the next byte begins a frame.
func (s *Scanner) AtStart() bool { return s.at == start }

// Opcode returns that of the frame whose bytes were last scanned.
func (s *Scanner) Opcode() byte { return s.first & 0x0f }

// Scan goes on through b, to the end of the frame at the most. It returns how many bytes of b
// belong to the frame.
func (s *Scanner) Scan(b []byte) (n int, err error) {
	for n < len(b) {
		if s.at == rest {
			if more := uint64(len(b) - n); more < s.left {
				s.left -= more
				return len(b), nil
			}
			n += int(s.left)
			s.at, s.left = start, 0
			return n, nil
		}
		if err = s.header(b[n]); err != nil {
			return n, err
		}
		if n++; s.at == rest && s.left == 0 { // an empty frame without a mask, which gorilla refuses
			s.at = start
			return n, nil
		}
	}
	return n, nil
}

// header takes a byte of a header.
func (s *Scanner) header(b byte) error {
	switch s.at {
	case start:
		s.first, s.at = b, second
		return nil
	case second:
		return s.second(b)
	}
	s.left = s.left<<8 | uint64(b)
	if s.extended--; s.extended > 0 {
		return nil
	}
	masked := s.size&maskBit != 0
	switch s.size &^ maskBit {
	case 2:
		if s.left <= 125 {
			return errNotMinimal
		}
	default:
		if s.left > math.MaxInt64 {
			return errLengthTooBig
		}
		if s.left <= math.MaxUint16 {
			return errNotMinimal
		}
	}
	s.payload(masked)
	return nil
}

const (
	maskBit = 0x80
	maskKey = 4 // bytes
	bitsRSV = 0x70
)

// second takes a header's second byte.
func (s *Scanner) second(b byte) error {
	opcode, masked, n := s.Opcode(), b&maskBit != 0, b&^maskBit
	switch {
	case s.first&bitsRSV != 0 && opcode != Text && opcode != Binary:
		return errReserved // permessage-deflate marks a message's first frame only
	case opcode == Close && n == 1:
		return errShortClose
	}
	switch n {
	case 126:
		s.extended = 2
	case 127:
		s.extended = 8
	default:
		s.left = uint64(n)
		s.payload(masked)
		return nil
	}
	s.left, s.at, s.size = 0, length, s.extended|b&maskBit
	return nil
}

// payload ends the header.
func (s *Scanner) payload(masked bool) {
	s.at = rest
	if masked {
		s.left += maskKey
	}
}

// IsCompressed reports whether b, the first byte of a frame, begins a compressed message.
func IsCompressed(b byte) bool {
	return b&bitRSV1 != 0 && (b&0x0f == Text || b&0x0f == Binary)
}

// WithoutCompressed returns the first byte of a frame without the mark of a compressed message.
func WithoutCompressed(b byte) byte { return b &^ bitRSV1 }

// BeginsMessage reports whether b, the first byte of a frame, begins a message.
func BeginsMessage(b byte) bool { return b&0x0f == Text || b&0x0f == Binary }
