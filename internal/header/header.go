// Package header keeps an HTTP header in little memory.
package header

import (
	"encoding/binary"
	"net/http"
)

// Packed is a header as one string: of each key its bytes, how many values it has, and
// theirs, all with their lengths before them. A header of a browser's request takes a
// third of the memory then.
type Packed string

// Pack returns the header packed.
func Pack(h http.Header) Packed {
	size := 0
	for key, values := range h {
		size += len(key) + 2*binary.MaxVarintLen16
		for _, v := range values {
			size += len(v) + binary.MaxVarintLen16
		}
	}
	b := make([]byte, 0, size)
	for key, values := range h {
		b = appendString(b, key)
		b = binary.AppendUvarint(b, uint64(len(values)))
		for _, v := range values {
			b = appendString(b, v)
		}
	}
	return Packed(b)
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// Unpack returns the header as it was. Its strings share the packed one's memory.
func (p Packed) Unpack() http.Header {
	h := make(http.Header)
	rest := string(p)
	number := func() int {
		n, shift := uint64(0), 0
		for i := 0; ; i++ {
			n |= uint64(rest[i]&0x7f) << shift
			if rest[i] < 0x80 {
				rest = rest[i+1:]
				return int(n)
			}
			shift += 7
		}
	}
	text := func() (s string) {
		n := number()
		s, rest = rest[:n], rest[n:]
		return s
	}
	for rest != "" {
		key := text()
		values := make([]string, number())
		for i := range values {
			values[i] = text()
		}
		h[key] = values
	}
	return h
}
