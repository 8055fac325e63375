package frame

import (
	"bufio"
	"compress/flate"
	"errors"
	"io"
	"math"
	"strings"
	"sync"
)

// ErrTooBig means that a message has more bytes than it may.
var ErrTooBig = errors.New("message too big")

// ReadAtMost reads r to its end. It fails with ErrTooBig if r has more bytes than the limit.
func ReadAtMost(r io.Reader, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, min(limit, math.MaxInt64-1)+1))
	if err == nil && int64(len(data)) > limit {
		err = ErrTooBig
	}
	return data, err
}

// tail is what the sender of a compressed message takes away (RFC 7692, 7.2.1), and an empty
// block that ends the stream.
const tail = "\x00\x00\xff\xff" + "\x01\x00\x00\xff\xff"

// An inflater is kept because a new one needs 40 KiB.
type inflater struct {
	input *bufio.Reader // an io.ByteReader, of which flate reads no more than it needs
	flate io.ReadCloser
}

var inflaters = sync.Pool{New: func() any {
	input := bufio.NewReader(nil)
	return &inflater{input, flate.NewReader(input)}
}}

// Inflate reads a compressed message, which was compressed without context takeover, to its
// end. It fails with ErrTooBig if the message has more bytes than the limit. Each of its blocks
// may be a final one: what follows is another stream, which begins with the next byte.
func Inflate(r io.Reader, limit int64) ([]byte, error) {
	f := inflaters.Get().(*inflater)
	defer inflaters.Put(f)
	f.input.Reset(io.MultiReader(r, strings.NewReader(tail)))
	defer f.input.Reset(nil)
	var all []byte
	for {
		if err := f.flate.(flate.Resetter).Reset(f.input, nil); err != nil {
			return nil, err
		}
		data, err := ReadAtMost(f.flate, limit-int64(len(all)))
		if all == nil { // as nearly always
			all = data
		} else {
			all = append(all, data...)
		}
		if err != nil {
			return all, err
		}
		// Only the tail, or a part of it, is left once the message is read.
		if left, err := f.input.Peek(len(tail) + 1); len(left) <= len(tail) {
			if err == io.EOF {
				err = nil
			}
			return all, err
		}
	}
}
