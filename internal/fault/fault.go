// Package fault holds the errors of grouphub that its internal packages return, too.
// grouphub exports them and says what they mean.
package fault

import "errors"

var (
	Closed      = errors.New("grouphub: closed")
	QueueFull   = errors.New("grouphub: queue full")
	Unavailable = errors.New("grouphub: layer unavailable")
	Uncertain   = errors.New("grouphub: layer broke before it answered")
)
