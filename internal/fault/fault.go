// Package fault holds the errors of grouphub that its internal packages return, too.
// grouphub exports them and says what they mean.
package fault

import "errors"

var (
	ErrClosed      = errors.New("grouphub: closed")
	ErrInvalidName = errors.New("grouphub: invalid name")
	ErrTooLarge    = errors.New("grouphub: event too large")
	ErrQueueFull   = errors.New("grouphub: queue full")
	ErrUnavailable = errors.New("grouphub: layer unavailable")
	ErrUncertain   = errors.New("grouphub: layer broke before it answered")
)
