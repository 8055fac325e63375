//go:build !linux

package outbox

import "syscall"

// queued is not known on this platform.
func queued(syscall.RawConn) (bytes int, ok bool) { return 0, false }

// hasShutDown is not known on this platform.
func hasShutDown(syscall.RawConn) bool { return false }
