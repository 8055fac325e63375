package frame

import (
	"encoding/binary"
	"errors"
	"testing"
)

// clientFrame returns a frame as a client sends it, whose payload are zeros.
func clientFrame(first byte, n int) []byte {
	b := AppendHeader(nil, first&^bitFinal, n)
	b[0], b[1] = first, b[1]|maskBit
	return append(b, make([]byte, maskKey+n)...)
}

func TestScannerFindsWhereFramesEndHoweverTheyAreDivided(t *testing.T) {
	var all []byte
	var ends []int
	for _, n := range []int{0, 1, 125, 126, 127, 65535, 65536, 5} {
		all = append(all, clientFrame(0x81, n)...)
		ends = append(ends, len(all))
	}
	for _, piece := range []int{1, 2, 3, 7, 100, 4096, len(all)} {
		var s Scanner
		var got []int
		for at := 0; at < len(all); {
			b := all[at:min(at+piece, len(all))]
			for len(b) > 0 {
				n, err := s.Scan(b)
				if err != nil || n == 0 {
					t.Fatalf("pieces of %d: at %d: %d, %v", piece, at, n, err)
				}
				b, at = b[n:], at+n
				if s.AtStart() {
					got = append(got, at)
				}
			}
		}
		for i, end := range ends {
			if i >= len(got) || got[i] != end {
				t.Fatalf("pieces of %d: frames end at %v, want %v", piece, got, ends)
			}
		}
	}
}

func TestScannerRefusesWhatTheRFCForbids(t *testing.T) {
	length := func(first, second byte, n uint64) []byte {
		b := binary.BigEndian.AppendUint64([]byte{first, second}, n)
		if second&^maskBit == 126 {
			b = append(b[:2], b[8:]...)
		}
		return append(b, make([]byte, 200)...)
	}
	for name, test := range map[string]struct {
		frame []byte
		want  error
	}{
		"a ping with RSV1":             {clientFrame(0xc9, 0), errReserved},
		"a close with RSV2":            {clientFrame(0xa8, 2), errReserved},
		"a continuation with RSV1":     {clientFrame(0xc0, 2), errReserved},
		"a close of one byte":          {clientFrame(0x88, 1), errShortClose},
		"125 bytes in two":             {length(0x81, 0xfe, 125), errNotMinimal},
		"125 bytes in eight":           {length(0x81, 0xff, 125), errNotMinimal},
		"65535 bytes in eight":         {length(0x82, 0xff, 65535), errNotMinimal},
		"2^63 bytes":                   {length(0x81, 0xff, 1<<63), errLengthTooBig},
		"2^64-1 bytes":                 {length(0x00, 0xff, 1<<64-1), errLengthTooBig},
		"126 bytes in two":             {length(0x81, 0xfe, 126), nil},
		"65536 bytes in eight":         {length(0x81, 0xff, 65536), nil},
		"2^63-1 bytes":                 {length(0x81, 0xff, 1<<63-1), nil},
		"a compressed message":         {clientFrame(0xc1, 10), nil},
		"a close without a code":       {clientFrame(0x88, 0), nil},
		"a close with a code":          {clientFrame(0x88, 2), nil},
		"a ping of 125 bytes":          {clientFrame(0x89, 125), nil},
		"an empty frame without a key": {[]byte{0x81, 0}, nil},
	} {
		for _, whole := range []bool{true, false} {
			var s Scanner
			var err error
			for b := test.frame; len(b) > 0 && err == nil; {
				part := b
				if !whole {
					part = b[:1]
				}
				var n int
				if n, err = s.Scan(part); err == nil {
					b = b[n:]
				}
			}
			if !errors.Is(err, test.want) {
				t.Errorf("%s: %v, want %v", name, err, test.want)
			}
		}
	}
}
