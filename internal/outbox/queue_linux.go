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
