package frame

import (
	"encoding/binary"
	"strings"
	"testing"
	"unicode/utf8"
)

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
		frame := NewClose(4001, test.reason)
		if frame[0] != 0x88 || int(frame[1]) != len(frame)-2 || len(frame) > 127 {
			t.Errorf("close frame of %q is %x", test.reason, frame)
		}
		if code := binary.BigEndian.Uint16(frame[2:]); code != 4001 || CloseCode(frame) != 4001 {
			t.Errorf("code is %d", code)
		}
		if got := string(frame[4:]); got != test.want || !utf8.ValidString(got) {
			t.Errorf("reason of %q is %q, want %q", test.reason, got, test.want)
		}
	}
	if got := CloseCode([]byte{0x88, 0}); got != 1005 {
		t.Errorf("code of a close frame without one is %d", got)
	}
}

func TestOnlyCodesThatAFrameMayHaveAreAccepted(t *testing.T) {
	for _, code := range []int{1000, 1001, 1003, 1007, 1011, 1013, 3000, 4401, 4999} {
		if err := CheckClose(code, "bye"); err != nil {
			t.Errorf("%d: %v", code, err)
		}
	}
	for _, code := range []int{-1, 0, 999, 1002, 1004, 1005, 1006, 1014, 1015, 1016, 2999, 5000, 1<<16 + 1000} {
		if CheckClose(code, "bye") == nil {
			t.Errorf("%d is accepted", code)
		}
	}
	if err := CheckClose(1000, strings.Repeat("x", 123)); err != nil {
		t.Errorf("a reason of 123 bytes: %v", err)
	}
	for _, reason := range []string{strings.Repeat("x", 124), "\xff"} {
		if CheckClose(1000, reason) == nil {
			t.Errorf("the reason %q is accepted", reason)
		}
	}
}
