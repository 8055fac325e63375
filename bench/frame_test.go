package main

import (
	"bytes"
	"testing"
)

func TestAnEventSurvivesAnyEnvelope(t *testing.T) {
	event := newEvent(1<<62|0xabc, 0xdeadbeef)
	if len(event) != eventSize {
		t.Fatalf("an event has %d bytes, want %d: %s", len(event), eventSize, event)
	}
	message := append([]byte(`{"type":"event","data":`), event...)
	message = append(append(message, "}\n"...), newEvent(7, 8)...)
	type stamp struct {
		at     int64
		number uint32
	}
	var got []stamp
	eachEvent(message, func(at int64, number uint32) { got = append(got, stamp{at, number}) })
	want := []stamp{{1<<62 | 0xabc, 0xdeadbeef}, {7, 8}}
	if len(got) != 2 || got[0] != want[0] || got[1] != want[1] {
		t.Errorf("read %x, want %x", got, want)
	}
	eachEvent(event[:eventSize-1], func(int64, uint32) { t.Error("half an event was read") })
}

func TestFramesOfEachLengthAreReadWhole(t *testing.T) {
	for _, n := range []int{0, 1, 125, 126, 65535, 65536} {
		payload := bytes.Repeat([]byte{'x'}, n)
		frame := appendFrame(nil, payload)
		opcode, got, size, err := nextFrame(append(frame, "next"...))
		if err != nil || opcode != opText || size != len(frame) || !bytes.Equal(got, payload) {
			t.Errorf("%d bytes: read opcode %d, %d of %d bytes, %v", n, opcode, size, len(frame), err)
		}
		for _, part := range []int{0, 1, 2, len(frame) - 1} {
			if part < len(frame) {
				if _, _, size, err := nextFrame(frame[:part]); size != 0 || err != nil {
					t.Errorf("%d of %d bytes: read a frame of %d, %v", part, len(frame), size, err)
				}
			}
		}
	}
}

func TestFramesThatNoServerMaySendAreErrors(t *testing.T) {
	for name, frame := range map[string][]byte{
		"masked":     maskedFrame(opText, []byte("x")),
		"fragmented": {opText, 1, 'x'},
		"reserved":   {0xc0 | opText, 1, 'x'},
		"endless":    {0x80 | opText, 127, 0xff, 0, 0, 0, 0, 0, 0, 0},
	} {
		if _, _, _, err := nextFrame(frame); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestNumbersThatAreMissingOrLateAreCounted(t *testing.T) {
	for _, c := range []struct {
		numbers []uint32
		want    faults
		says    string
	}{
		{[]uint32{1, 2, 3}, faults{}, ""},
		{[]uint32{2, 5}, faults{Missing: 3}, "3 missing"},
		{[]uint32{1, 1}, faults{Late: 1}, "1 late or repeated"},
		{[]uint32{1, 3, 2, 4}, faults{Missing: 1, Late: 1}, "1 missing, 1 late or repeated"},
	} {
		var s sequence
		var got faults
		for _, n := range c.numbers {
			s.check(n, &got)
		}
		if got != c.want || got.String() != c.says {
			t.Errorf("%d: %+v, %q", c.numbers, got, got)
		}
	}
}
