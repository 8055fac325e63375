package outbox

import (
	"syscall"
	"unsafe"
)

// queued returns how many bytes the kernel has that the peer's has not acknowledged yet.
func queued(raw syscall.RawConn) (bytes int, ok bool) {
	var n int32
	var errno syscall.Errno
	err := raw.Control(func(fd uintptr) {
		_, _, errno = syscall.Syscall(syscall.SYS_IOCTL, fd, syscall.TIOCOUTQ, uintptr(unsafe.Pointer(&n)))
	})
	return int(n), err == nil && errno == 0
}

// hasShutDown reports whether the peer has closed its side of a TCP connection, even if there
// is something left to read before that.
func hasShutDown(raw syscall.RawConn) bool {
	const closeWait = 8 // TCP_CLOSE_WAIT
	var info [4]byte    // of TCP_INFO, whose first byte is the state
	var err error
	control := raw.Control(func(fd uintptr) {
		info, err = syscall.GetsockoptInet4Addr(int(fd), syscall.IPPROTO_TCP, syscall.TCP_INFO)
	})
	return control == nil && err == nil && info[0] == closeWait
}
