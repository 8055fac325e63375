package outbox

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"fmt"
	"io"
	"strings"
	"testing"
	"unicode/utf8"
)

// payload returns n bytes in which one that is out of place shows.
func payload(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i + i>>8)
	}
	return b
}

func TestFrameHeadersAreThoseOfTheRFC(t *testing.T) {
	headers := map[int][]byte{
		126:    {0x81, 126, 0, 126},
		127:    {0x81, 126, 0, 127},
		65535:  {0x81, 126, 0xff, 0xff},
		65536:  {0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0},
		100000: {0x81, 127, 0, 0, 0, 0, 0, 1, 0x86, 0xa0},
	}
	for n := range 126 {
		headers[n] = []byte{0x81, byte(n)}
	}
	for n, header := range headers {
		want := append(header, payload(n)...)
		got := NewFrame(Text, payload(n), false)
		if !bytes.Equal(got, want) {
			t.Errorf("frame of %d bytes is %x…, want %x…", n, got[:min(len(got), 12)], want[:min(len(want), 12)])
		}
		// What follows is no part of the frame.
		if n := frameLen(append(got, 0xff, 0xff)); n != len(got) {
			t.Errorf("frameLen is %d, want %d", n, len(got))
		}
	}
	if got := NewFrame(Binary, []byte{7}, false); !bytes.Equal(got, []byte{0x82, 1, 7}) {
		t.Errorf("binary frame is %x", got)
	}
}

func TestNewFrameLeavesThePayloadAlone(t *testing.T) {
	b := payload(1000)
	for _, deflated := range []bool{false, true} {
		frame := NewFrame(Text, b, deflated)
		clear(frame)
		if !bytes.Equal(b, payload(1000)) {
			t.Errorf("deflated %v: the payload has changed with its frame", deflated)
		}
	}
}

func TestDeflatedFramesInflateToTheirPayload(t *testing.T) {
	for _, text := range []string{
		strings.Repeat("a", 50),
		strings.Repeat(`{"type":"chat.message","group":"room:lobby"}`, 3000),
		strings.Repeat("übergroß 日本 ", 1000),
	} {
		frame := NewFrame(Text, []byte(text), true)
		if frame[0] != 0x80|0x40|Text {
			t.Errorf("first byte is %#x", frame[0])
		}
		if len(frame) >= len(text) || len(frame) != frameLen(frame) {
			t.Errorf("%d bytes became a frame of %d, with a length of %d", len(text), len(frame), frameLen(frame))
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
	packed := frame[frameLen(frame)-payloadLen(frame):]
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
	switch n := frameLen(frame); {
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
		if got, want := NewFrame(Text, []byte(text), true), NewFrame(Text, []byte(text), false); !bytes.Equal(got, want) {
			t.Errorf("frame of %q is %x, want %x", text, got, want)
		}
	}
}

func TestCloseFrameCutsTheReasonBetweenRunes(t *testing.T) {
	for _, test := range []struct{ reason, want string }{
		{"", ""},
		{"going away", "going away"},
		{strings.Repeat("x", 123), strings.Repeat("x", 123)},
		{strings.Repeat("x", 124), strings.Repeat("x", 123)},
		{strings.Repeat("é", 62), strings.Repeat("é", 61)},             // 2 bytes each, 123 is odd
		{"x" + strings.Repeat("日", 41), "x" + strings.Repeat("日", 40)}, // 3 bytes each
		{strings.Repeat("🎉", 31), strings.Repeat("🎉", 30)},             // 4 bytes each
		{"not \xff UTF-8", "not \ufffd UTF-8"},
	} {
		frame := closeFrame(4001, test.reason)
		if frame[0] != 0x88 || int(frame[1]) != len(frame)-2 || len(frame) > 127 {
			t.Errorf("close frame of %q is %x", test.reason, frame)
		}
		if code := binary.BigEndian.Uint16(frame[2:]); code != 4001 || closeCode(frame) != 4001 {
			t.Errorf("code is %d", code)
		}
		if got := string(frame[4:]); got != test.want || !utf8.ValidString(got) {
			t.Errorf("reason of %q is %q, want %q", test.reason, got, test.want)
		}
	}
	if got := closeCode([]byte{0x88, 0}); got != 1005 {
		t.Errorf("code of a close frame without one is %d", got)
	}
}

func TestBuffersAreCutAtFramesBoundaries(t *testing.T) {
	var b []byte
	ends := []int{0}
	for _, n := range []int{3, 0, 200, 125, 126, 70000, 1} {
		b = append(b, NewFrame(Text, payload(n), false)...)
		ends = append(ends, len(b))
	}
	b = append(b, appendFrame(nil, 9, nil)...) // a ping is no data
	for limit := range len(b) + 1 {
		want := 0
		for _, end := range ends {
			if end <= limit {
				want = end
			}
		}
		if limit == len(b) {
			want = len(b)
		}
		if got := wholeFrames(b, limit); got != want {
			t.Fatalf("wholeFrames of %d bytes is %d, want %d", limit, got, want)
		}
		unsent := 0
		for _, end := range ends[1:] {
			if end > limit {
				unsent++
			}
		}
		if got := dataFrames(b, limit); got != unsent {
			t.Fatalf("dataFrames after %d bytes is %d, want %d", limit, got, unsent)
		}
	}
}

func BenchmarkNewFrame(b *testing.B) {
	text := bytes.Repeat([]byte("0123456789abcdef"), 8)
	for _, deflated := range []bool{false, true} {
		b.Run(fmt.Sprint("deflated ", deflated), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				NewFrame(Text, text, deflated)
			}
		})
	}
}
