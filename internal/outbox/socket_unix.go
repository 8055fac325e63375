//go:build unix

package outbox

import "syscall"

// writeSocket makes one write(2) to a non-blocking socket and returns how much the
// kernel took; nothing and no error if it has no room.
func writeSocket(fd uintptr, p []byte) (int, error) {
	for {
		n, err := syscall.Write(int(fd), p)
		switch err {
		case nil:
			return n, nil
		case syscall.EINTR:
			continue
		case syscall.EAGAIN:
			return 0, nil
		}
		return 0, err
	}
}
