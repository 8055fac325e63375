package eventstream

import (
	"bufio"
	"strings"
)

// A Block is an event of a stream as a client takes it.
type Block struct {
	Name string
	Data string
	ID   string // of the last block that had one, this one included
}

// ReadBlock reads up to the end of the next block with data, as an EventSource does: comments
// and blocks without data are passed over, and a block that is cut is an error. The id before
// the block is last. Lines end in LF, which is how this package writes them.
func ReadBlock(r *bufio.Reader, last string) (Block, error) {
	b := Block{ID: last}
	var data []string
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return Block{ID: last}, err
		}
		field, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case line == "\n" && data != nil:
			b.Data = strings.Join(data, "\n")
			return b, nil
		case line == "\n":
			b.Name = ""
		case field == "event":
			b.Name = value
		case field == "data":
			data = append(data, value)
		case field == "id":
			b.ID = value
		}
	}
}
