package frame

import (
	"bytes"
	"fmt"
	"testing"
)

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
		got := New(Text, payload(n), false)
		if !bytes.Equal(got, want) {
			t.Errorf("frame of %d bytes is %x…, want %x…", n, got[:min(len(got), 12)], want[:min(len(want), 12)])
		}
		// What follows is no part of the frame.
		if n := Len(append(got, 0xff, 0xff)); n != len(got) {
			t.Errorf("Len is %d, want %d", n, len(got))
		}
	}
	if got := New(Binary, []byte{7}, false); !bytes.Equal(got, []byte{0x82, 1, 7}) {
		t.Errorf("binary frame is %x", got)
	}
}

func TestNewFrameLeavesThePayloadAlone(t *testing.T) {
	b := payload(1000)
	for _, deflated := range []bool{false, true} {
		frame := New(Text, b, deflated)
		clear(frame)
		if !bytes.Equal(b, payload(1000)) {
			t.Errorf("deflated %v: the payload has changed with its frame", deflated)
		}
	}
}

func TestBuffersAreCutAtFramesBoundaries(t *testing.T) {
	var b []byte
	ends := []int{0}
	for _, n := range []int{3, 0, 200, 125, 126, 70000, 1} {
		b = append(b, New(Text, payload(n), false)...)
		ends = append(ends, len(b))
	}
	b = append(b, NewPing()...) // a ping is no data
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
		if got := Whole(b, limit); got != want {
			t.Fatalf("Whole of %d bytes is %d, want %d", limit, got, want)
		}
		unsent := 0
		for _, end := range ends[1:] {
			if end > limit {
				unsent++
			}
		}
		if got := CountData(b, limit); got != unsent {
			t.Fatalf("CountData after %d bytes is %d, want %d", limit, got, unsent)
		}
	}
}

func BenchmarkNewFrame(b *testing.B) {
	text := bytes.Repeat([]byte("0123456789abcdef"), 8)
	for _, deflated := range []bool{false, true} {
		b.Run(fmt.Sprint("deflated ", deflated), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				New(Text, text, deflated)
			}
		})
	}
}
