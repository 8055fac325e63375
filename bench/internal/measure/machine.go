package measure

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"
)

// A Machine is what a measurement was made on. It is stored as JSON.
type Machine struct {
	CPU    string
	Cores  int
	Go     string
	System string
	Date   string
}

// String is the line under a table.
func (m Machine) String() string {
	return fmt.Sprintf("%s, %d cores, %s, %s, %s", m.CPU, m.Cores, m.System, m.Go, m.Date)
}

// ThisMachine describes the machine that this process runs on.
func ThisMachine() Machine {
	return Machine{
		CPU:    cpuModel(),
		Cores:  runtime.NumCPU(),
		Go:     runtime.Version(),
		System: runtime.GOOS + "/" + runtime.GOARCH + " " + kernelRelease(),
		Date:   time.Now().Format("2006-01-02"),
	}
}

func cpuModel() string {
	text, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown CPU"
}

func kernelRelease() string {
	text, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return strings.TrimSpace(string(text))
}
