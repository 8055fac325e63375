package grouphub

import (
	"compress/flate"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/gorilla/websocket"

	"github.com/seed-29c60982/grouphub/internal/frame"
)

// A Message is what a client has sent. The callback owns Data.
type Message struct {
	Data   []byte // UTF-8 unless Binary
	Binary bool
}

// Decode parses the message's JSON into v.
func (m Message) Decode(v any) error {
	if err := json.Unmarshal(m.Data, v); err != nil {
		return fmt.Errorf("grouphub: decode message: %w", err)
	}
	return nil
}

// ReceiveAs makes a Receive of a function that takes decoded JSON. A message that
// does not decode into a T closes its connection with 1007.
func ReceiveAs[T any](fn func(c *Conn, v T) error) func(*Conn, Message) error {
	return func(c *Conn, m Message) error {
		var v T
		if err := m.Decode(&v); err != nil {
			return &CloseError{Code: closeInvalidData, Reason: "message does not decode"}
		}
		return fn(c, v)
	}
}

// readMessages hands a connection's messages to receive until reading fails. It returns the
// code of the peer's close frame, 0 if there was none. For a message that does not inflate,
// or that has more bytes than the limit, counted after inflating, it calls end with a close
// code. Reading then goes on, since the peer has to answer the close.
//
// Whether a message is compressed, packed says: gorilla is not told of it.
func readMessages(conn *websocket.Conn, limit int64, packed func() bool, receive func(data []byte, binary bool), end func(code int, reason string) error) int {
	conn.SetReadLimit(limit) // counts the bytes on the wire, where 60 KiB can be 60 MiB of zeros
	for {
		kind, r, err := conn.NextReader()
		if err != nil {
			var closed *websocket.CloseError
			if errors.As(err, &closed) && closed.Code != closeAbnormal {
				return closed.Code
			}
			return 0
		}
		var data []byte
		if packed() {
			data, err = frame.Inflate(r, limit)
		} else {
			data, err = frame.ReadAtMost(r, limit)
		}
		switch {
		case err == nil:
			receive(data, kind == websocket.BinaryMessage)
		case errors.Is(err, frame.ErrTooBig):
			_ = end(closeTooBig, "message too big") // fails if the connection is ending already
		case errors.Is(err, io.ErrUnexpectedEOF), errors.As(err, new(flate.CorruptInputError)):
			_ = end(closeInvalidData, "message does not inflate")
		default: // the next read fails, too, and says why
		}
	}
}
