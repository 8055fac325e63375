package grouphub

import (
	"errors"
	"time"

	"github.com/seed-29c60982/grouphub/internal/envelope"
	"github.com/seed-29c60982/grouphub/layer"
)

// Errors that callers are meant to tell apart, with errors.Is. What is returned
// wraps them and names the operation and the value.
var (
	// ErrClosed means that the hub, the layer or the connection has ended.
	ErrClosed = layer.ErrClosed
	// ErrInvalidName means that a group, channel or event name is not 1 to 255
	// bytes of UTF-8 without control characters, or is reserved. Nothing was done.
	ErrInvalidName = errors.New("grouphub: invalid name")
	// ErrTooLarge means that an event's JSON is larger than Options.MaxEventSize.
	// Nothing went out.
	ErrTooLarge = envelope.ErrTooLarge
	// ErrQueueFull means that a named channel holds as many messages as it may.
	// The message was not added.
	ErrQueueFull = layer.ErrQueueFull
	// ErrUnavailable means that the layer is down: nothing went out, and sending
	// again is safe.
	ErrUnavailable = layer.ErrUnavailable
	// ErrUncertain means that the layer broke before it answered: the event may
	// or may not have gone out.
	ErrUncertain = layer.ErrUncertain
)

// layerTimeout is how long a call through a layer may take when its context
// allows more.
const layerTimeout = 5 * time.Second

// A Layer carries publications between hubs, in one process or in many, and keeps the
// named channels. [NewMemoryLayer] and [NewRedisLayer] make one. Package layer says what a
// layer has to do, for those who build another.
type Layer = layer.Layer

// What a Layer is made of has its documentation in package layer.
type (
	Receiver     = layer.Receiver
	Subscription = layer.Subscription
	Publication  = layer.Publication
	Keep         = layer.Keep
	Position     = layer.Position
	History      = layer.History
	Lease        = layer.Lease
	LeaseChange  = layer.LeaseChange
)

// OnceLife is how long a layer remembers the key of [Once].
const OnceLife = layer.OnceLife
