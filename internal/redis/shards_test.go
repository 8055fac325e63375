package redis

import (
	"fmt"
	"slices"
	"testing"
)

func TestSlotsAreReadFromClusterNodes(t *testing.T) {
	answer := "07c3 127.0.0.1:30004@31004,host slave e7d1 0 1426238317239 4 connected\n" +
		"67ed 127.0.0.1:30002@31002 master - 0 1426238316232 2 connected 100-200\n" +
		"e7d1 127.0.0.1:30001@31001 myself,master - 0 0 1 connected 0-2 7 9-10 [11->-67ed] [12-<-67ed] 16383\n"
	if got, want := ownSlots(answer), []uint16{0, 1, 2, 7, 9, 10, 16383}; !slices.Equal(got, want) {
		t.Errorf("slots %v, want %v", got, want)
	}
	for _, answer := range []string{"", "garbage", "a b myself,slave - 0 0 1 connected 5", "x y myself,master - 0 0 1 connected 99999"} {
		if got := ownSlots(answer); len(got) != 0 || got == nil {
			t.Errorf("%s: %v, want none", fmt.Sprintf("%.20q", answer), got)
		}
	}
}
