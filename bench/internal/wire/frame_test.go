package wire

import (
	"bytes"
	"testing"
)

func TestAnEventSurvivesAnyEnvelope(t *testing.T) {
	event := NewEvent(1<<62|0xabc, 0xdeadbeef)
	if len(event) != EventSize {
		t.Fatalf("an event has %d bytes, want %d: %s", len(event), EventSize, event)
	}
	message := append([]byte(`{"type":"event","data":`), event...)
	message = append(append(message, "}\n"...), NewEvent(7, 8)...)
	type stamp struct {
		at     int64
		number uint32
	}
	var got []stamp
	EachEvent(message, func(at int64, number uint32) { got = append(got, stamp{at, number}) })
	want := []stamp{{1<<62 | 0xabc, 0xdeadbeef}, {7, 8}}
	if len(got) != 2 || got[0] != want[0] || got[1] != want[1] {
		t.Errorf("read %x, want %x", got, want)
	}
	EachEvent(event[:EventSize-1], func(int64, uint32) { t.Error("half an event was read") })
}

func TestFramesOfEachLengthAreReadWhole(t *testing.T) {
	for _, n := range []int{0, 1, 125, 126, 65535, 65536} {
		payload := bytes.Repeat([]byte{'x'}, n)
		frame := AppendFrame(nil, payload)
		opcode, got, size, err := NextFrame(append(frame, "next"...))
		if err != nil || opcode != OpText || size != len(frame) || !bytes.Equal(got, payload) {
			t.Errorf("%d bytes: read opcode %d, %d of %d bytes, %v", n, opcode, size, len(frame), err)
		}
		for _, part := range []int{0, 1, 2, len(frame) - 1} {
			if part < len(frame) {
				if _, _, size, err := NextFrame(frame[:part]); size != 0 || err != nil {
					t.Errorf("%d of %d bytes: read a frame of %d, %v", part, len(frame), size, err)
				}
			}
		}
	}
}

func TestFramesThatNoServerMaySendAreErrors(t *testing.T) {
	for name, frame := range map[string][]byte{
		"masked":     MaskedFrame(OpText, []byte("x")),
		"fragmented": {OpText, 1, 'x'},
		"reserved":   {0xc0 | OpText, 1, 'x'},
		"endless":    {0x80 | OpText, 127, 0xff, 0, 0, 0, 0, 0, 0, 0},
	} {
		if _, _, _, err := NextFrame(frame); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
