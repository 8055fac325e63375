package grouphub

import (
	"runtime"
	"syscall"
)

// yield lets goroutines run that wait for a processor, and threads of this process too:
// those that Linux has woken often share a processor while another one is idle.
func yield() {
	syscall.RawSyscall(syscall.SYS_SCHED_YIELD, 0, 0, 0)
	runtime.Gosched()
}
