//go:build linux

package main

import (
	"bytes"

	"github.com/seed-29c60982/grouphub/bench/internal/wire"
)

var (
	dataField  = []byte("data: ")
	closeEvent = []byte("event: grouphub.close\n")
	codeKey    = []byte(`"code":`)
)

// nextBlock reads the block of an event stream at the head of b as if it were a frame: a close, an
// event with its data as the payload, or, with opcode 0, the first block or a comment.
func nextBlock(b []byte) (opcode byte, payload []byte, size int, err error) {
	_, block, size, err := wire.NextBlock(b)
	switch {
	case size == 0 || err != nil:
		return 0, nil, 0, err
	case bytes.HasPrefix(block, closeEvent):
		return wire.OpClose, block, size, nil
	case bytes.HasPrefix(block, dataField):
		data, _, _ := bytes.Cut(block[len(dataField):], []byte{'\n'}) // what follows is an id
		return wire.OpText, data, size, nil
	}
	return 0, nil, size, nil
}

// streamCode returns the code of a close event.
func streamCode(block []byte) int {
	_, rest, _ := bytes.Cut(block, codeKey)
	return number(rest)
}
