//go:build !linux

package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "fleet: runs on Linux only: it needs epoll, and the kernel's accounts of other processes")
	os.Exit(1)
}
