// Package eventstream writes and reads the blocks of a text/event-stream, as the HTML standard
// defines it: https://html.spec.whatwg.org/multipage/server-sent-events.html.
//
// A block is some lines, each ended by a line feed, and an empty line. Whoever reads the
// stream takes a block whole or, if it was cut, not at all.
package eventstream

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"
)

// Comment is a block that no client shows to its page. It proves that the path is alive.
const Comment = ":\n\n"

// AppendBlock appends a block with the event's name, unless that is empty, a data line for
// each line of the data, and the id, unless that is empty. A line feed at the end of the
// data is no line of its own; CR, LF and CRLF all end a line, and a client sees LF. Name
// and id may not contain line breaks, nor the id a zero byte.
//
// The id stands behind the data, since there are clients that take it as soon as they have
// read its line, before the event is theirs.
func AppendBlock(to []byte, name string, data []byte, id string) []byte {
	if name != "" {
		to = append(append(append(to, "event: "...), name...), '\n')
	}
	to = appendData(to, data)
	if id != "" {
		to = append(append(append(to, "id: "...), id...), '\n')
	}
	return append(to, '\n')
}

// appendData appends the data lines.
func appendData(to, data []byte) []byte {
	for first := true; first || len(data) > 0; first = false {
		var line []byte
		line, data = cutLine(data)
		to = append(append(append(to, "data: "...), line...), '\n')
	}
	return to
}

// cutLine returns the first line of data and what is behind its end.
func cutLine(data []byte) (line, rest []byte) {
	i := bytes.IndexByte(data, '\n')
	if i < 0 {
		i = len(data)
	}
	if cr := bytes.IndexByte(data[:i], '\r'); cr >= 0 {
		i = cr
	}
	if i == len(data) {
		return data, nil
	}
	rest = data[i+1:]
	if data[i] == '\r' && len(rest) > 0 && rest[0] == '\n' {
		rest = rest[1:]
	}
	return data[:i], rest
}

// BlockSize returns how many bytes AppendBlock appends if the data is one line, which the
// JSON of an event is.
func BlockSize(name string, data []byte, id string) int {
	size := len("data: \n\n") + len(data)
	if name != "" {
		size += len("event: \n") + len(name)
	}
	if id != "" {
		size += len("id: \n") + len(id)
	}
	return size
}

// FirstBlock returns the length of the first block in b, which has been written by this
// package and begins with a whole one.
func FirstBlock(b []byte) int {
	// Every line of a block has text, so only its end has two line feeds.
	if i := bytes.Index(b, []byte("\n\n")); i >= 0 {
		return i + 2
	}
	return len(b)
}

// The names of the blocks that are about the stream itself.
const (
	Open     = "grouphub.open"
	Position = "grouphub.position"
	Binary   = "grouphub.binary"
	closing  = "grouphub.close"
)

// notEvents are what the blocks begin with that are no events for the client.
var notEvents = [][]byte{[]byte(Comment[:1]), firstLine(Open), firstLine(Position), firstLine(closing)}

func firstLine(name string) []byte { return []byte("event: " + name + "\n") }

// IsEvent reports whether b begins with an event, and with no block that is about the stream
// itself.
func IsEvent(b []byte) bool {
	return !slices.ContainsFunc(notEvents, func(start []byte) bool { return bytes.HasPrefix(b, start) })
}

// AppendOpen appends the block that a stream begins with. Its data is the token by which the
// client's messages find the stream.
func AppendOpen(to []byte, token string) []byte {
	return fmt.Appendf(to, "event: %s\nretry: %d\ndata: %s\n\n", Open, reconnect/time.Millisecond, token)
}

const (
	// reconnect is how long a client waits before it comes back when a stream has been cut.
	reconnect = 3 * time.Second
	// minRetry and maxRetry bound the time for which it waits after a close, which is random,
	// so that the clients of a server that stops do not come back all at once.
	minRetry, maxRetry = time.Second, 10 * time.Second
)

// NewClose returns the block that closes a stream. Its id is [FinalID] if the client is not
// to come back.
func NewClose(code int, reason string) []byte {
	data, _ := json.Marshal(struct {
		Code   int    `json:"code"`
		Reason string `json:"reason"`
	}{code, reason}) // which always marshals
	retry := minRetry + rand.N(maxRetry-minRetry)
	block := fmt.Appendf(nil, "event: %s\nretry: %d\ndata: %s\n", closing, retry/time.Millisecond, data)
	if Final(code) {
		block = fmt.Appendf(block, "id: %s\n", FinalID(code))
	}
	return append(block, '\n')
}

// Final reports whether a close code means that the client is not to come back.
func Final(code int) bool { return code == 1000 || code == 1008 || code >= 4400 && code <= 4499 }

// FinalID returns the id that a final close leaves with the client. An EventSource comes back
// all the same, with this as its Last-Event-ID, and has to be refused then for good.
func FinalID(code int) string { return finalPrefix + strconv.Itoa(code) }

// IsFinalID reports whether a Last-Event-ID is that of a final close.
func IsFinalID(id string) bool { return len(id) > 0 && id[0] == finalPrefix[0] }

// finalPrefix is no character of base64url, which cursors are written in.
const finalPrefix = "!"
