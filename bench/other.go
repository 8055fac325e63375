//go:build !linux

package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "bench: runs on Linux only: it needs epoll, and the kernel's accounts of another process")
	os.Exit(1)
}
