//go:build !linux

package grouphub

import "runtime"

// yield lets goroutines run that wait for a processor.
func yield() { runtime.Gosched() }
