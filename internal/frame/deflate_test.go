package frame

import (
	"bytes"
	"compress/flate"
	"io"
	"strings"
	"testing"
)

func TestDeflatedFramesInflateToTheirPayload(t *testing.T) {
	for _, text := range []string{
		strings.Repeat("a", 50),
		strings.Repeat(`{"type":"chat.message","group":"room:lobby"}`, 3000),
		strings.Repeat("übergroß 日本 ", 1000),
	} {
		frame := New(Text, []byte(text), true)
		if frame[0] != 0x80|0x40|Text {
			t.Errorf("first byte is %#x", frame[0])
		}
		if len(frame) >= len(text) || len(frame) != Len(frame) {
			t.Errorf("%d bytes became a frame of %d, with a length of %d", len(text), len(frame), Len(frame))
		}
		if got := inflate(t, frame); string(got) != text {
			t.Errorf("%d bytes inflate to %d others", len(text), len(got))
		}
	}
}

// inflate returns a compressed frame's payload, as a client without context takeover
// reads it.
func inflate(t *testing.T, frame []byte) []byte {
	t.Helper()
	packed := frame[Len(frame)-payloadLen(frame):]
	// RFC 7692, 7.2.2: the four bytes that were taken away, and then a final empty
	// block, which flate wants.
	r := flate.NewReader(io.MultiReader(bytes.NewReader(packed), strings.NewReader("\x00\x00\xff\xff\x01\x00\x00\xff\xff")))
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func payloadLen(frame []byte) int {
	switch n := Len(frame); {
	case n <= 2+125:
		return n - 2
	case n <= 4+65535:
		return n - 4
	default:
		return n - 10
	}
}

func TestWhatDoesNotShrinkIsNotDeflated(t *testing.T) {
	for _, text := range []string{"", "a", "{}"} {
		if got, want := New(Text, []byte(text), true), New(Text, []byte(text), false); !bytes.Equal(got, want) {
			t.Errorf("frame of %q is %x, want %x", text, got, want)
		}
	}
}
