//go:build !linux

package fanout

import "runtime"

// yield lets goroutines run that wait for a processor.
func yield() { runtime.Gosched() }
