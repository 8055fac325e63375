//go:build linux

package measure

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// CLOCK_MONOTONIC is one clock for all processes of a machine. time.Since reads it
// without a system call, so it is asked once what it shows and followed from there.
var (
	clockStart = time.Now()
	clockAt    = func() int64 {
		var t unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
			panic(err)
		}
		return t.Nano()
	}()
)

// Now returns CLOCK_MONOTONIC in nanoseconds.
func Now() int64 { return clockAt + int64(time.Since(clockStart)) }

// CPUTime returns what this process has used so far, user and system.
func CPUTime() (time.Duration, error) {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0, err
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), nil
}

// ResidentMemory returns this process's resident bytes. statm is no substitute: its
// counters lag behind by up to 64 pages a thread.
func ResidentMemory() (int64, error) {
	text, err := os.ReadFile("/proc/self/smaps_rollup")
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(text) {
		if f := strings.Fields(string(line)); f[0] == "Rss:" {
			kib, err := strconv.ParseInt(f[1], 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("no Rss in smaps_rollup")
}

// EndWithParent makes the kernel kill a child when its parent's thread ends.
func EndWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}

// CheckFiles says whether this process may open n connections. The Go runtime has
// already raised the soft limit to the hard one.
func CheckFiles(n int) error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	if need := uint64(n) + 64; limit.Max < need {
		return fmt.Errorf("%d connections need %d open files, the hard limit is %d (ulimit -Hn)", n, need, limit.Max)
	}
	return nil
}
