package redis

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
)

// A reply is what a server says, in either version of its protocol.
type reply struct {
	kind   byte   // the first on the wire, such as '+', '-', '$', '*' and '>'
	text   []byte // of strings and errors
	number int64  // of integers
	items  []reply
}

const (
	maxReplyText  = 512 << 20 // bytes; more no server sends
	maxReplyItems = 1 << 20
	maxReplyDepth = 8
)

var errProtocol = errors.New("what came is no reply of redis")

// isError reports whether the server refused.
func (r reply) isError() bool { return r.kind == '-' || r.kind == '!' }

// field returns what follows a key of a map, or of an array that stands for one.
func (r reply) field(key string) string {
	for i := 0; i+1 < len(r.items); i += 2 {
		if string(r.items[i].text) == key {
			return string(r.items[i+1].text)
		}
	}
	return ""
}

// readReply reads one reply. Its texts are its own.
func readReply(r *bufio.Reader) (reply, error) { return readNested(r, 0) }

func readNested(r *bufio.Reader, depth int) (reply, error) {
	kind, line, err := readLine(r)
	if err != nil {
		return reply{}, err
	}
	answer := reply{kind: kind}
	switch kind {
	case '+', '-', ',', '(', '#', '_':
		answer.text = append([]byte(nil), line...)
	case ':':
		answer.number, err = strconv.ParseInt(string(line), 10, 64)
	case '$', '!', '=':
		answer.text, err = readText(r, line)
	case '*', '>', '~', '%', '|':
		answer.items, err = readItems(r, kind, line, depth)
	default:
		err = fmt.Errorf("%w: it begins with %q", errProtocol, kind)
	}
	return answer, err
}

// readLine reads the first byte and what follows it in the line, which is good until the
// next read.
func readLine(r *bufio.Reader) (kind byte, line []byte, err error) {
	whole, err := r.ReadSlice('\n')
	if err != nil {
		if errors.Is(err, bufio.ErrBufferFull) {
			err = fmt.Errorf("%w: a line without an end", errProtocol)
		}
		return 0, nil, err
	}
	if len(whole) < 3 || whole[len(whole)-2] != '\r' {
		return 0, nil, fmt.Errorf("%w: %.40q", errProtocol, whole)
	}
	return whole[0], whole[1 : len(whole)-2], nil
}

// readLength reads a count of bytes or items. -1 stands for nothing.
func readLength(line []byte, most int) (int, error) {
	n, err := strconv.Atoi(string(line))
	if err != nil || n < -1 || n > most {
		return 0, fmt.Errorf("%w: a length of %.40q", errProtocol, line)
	}
	return n, nil
}

// readText reads a string whose length has been read.
func readText(r *bufio.Reader, length []byte) ([]byte, error) {
	n, err := readLength(length, maxReplyText)
	if err != nil || n < 0 {
		return nil, err
	}
	text := make([]byte, 0, min(n, 1<<20)) // grows with what really comes
	for len(text) < n {
		text = slices.Grow(text, min(n-len(text), 1<<20))
		begun := len(text)
		text = text[:min(n, cap(text))]
		if _, err := io.ReadFull(r, text[begun:]); err != nil {
			return nil, err
		}
	}
	_, err = r.Discard(2)
	return text, err
}

func readItems(r *bufio.Reader, kind byte, length []byte, depth int) ([]reply, error) {
	n, err := readLength(length, maxReplyItems)
	if err != nil || n < 0 {
		return nil, err
	}
	if depth == maxReplyDepth {
		return nil, fmt.Errorf("%w: nested too deep", errProtocol)
	}
	if kind == '%' || kind == '|' {
		n *= 2
	}
	items := make([]reply, 0, min(n, 16)) // grows with what really comes
	for range n {
		item, err := readNested(r, depth+1)
		if err != nil {
			return nil, err
		}
		items = append(items, item)
	}
	return items, nil
}

// appendCommand appends a command as the server reads it.
func appendCommand(b []byte, words ...string) []byte {
	b = append(b, '*')
	b = strconv.AppendInt(b, int64(len(words)), 10)
	b = append(b, "\r\n"...)
	for _, word := range words {
		b = append(b, '$')
		b = strconv.AppendInt(b, int64(len(word)), 10)
		b = append(b, "\r\n"...)
		b = append(b, word...)
		b = append(b, "\r\n"...)
	}
	return b
}
