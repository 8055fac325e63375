package grouphub

import (
	"testing"
	"unsafe"
)

// Every idle connection has one, and the next size that Go allocates is 480 bytes.
func TestConnFitsItsSizeClass(t *testing.T) {
	if size := unsafe.Sizeof(Conn{}); size > 448 && unsafe.Sizeof(uintptr(0)) == 8 {
		t.Errorf("a Conn has %d bytes, which take 480 or more", size)
	}
}
