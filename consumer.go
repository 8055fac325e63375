package grouphub

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/seed-29c60982/grouphub/internal/frame"
	"github.com/seed-29c60982/grouphub/internal/outbox"
)

// Close codes that this package sends by itself.
const (
	closeGoingAway      = 1001 // Shutdown
	closeAbnormal       = 1006 // never sent: it stands for the lack of a close frame
	closeInvalidData    = 1007 // not UTF-8, or not what ReceiveAs decodes
	closePolicy         = 1008 // an invalid name
	closeInternalError  = 1011 // a callback failed
	closeServiceRestart = 1012 // the user may have been logged out without this hub hearing of it
	closeTooBig         = 1009 // a message of more than MaxMessageSize
	closeTryAgainLater  = 1013 // too slow, or the layer is down
	closeUnauthorized   = 4401 // User.Expires has passed
)

// A Consumer says what an endpoint does with its connections. Every function may be
// nil. Connect, Receive, the Handle handlers among Events, Resync and Disconnect of
// one connection never run at the same time, so what is kept with [Conn.Set] needs
// no lock; what the functions capture is shared by all connections, and needs one. They
// may block: only that connection waits. They may call anything on the Hub and on
// their Conn, except that Shutdown, which waits for them, needs a goroutine of its own.
//
// A callback that returns an error ends its connection: with the error's code if it is a
// [*CloseError], with 1013 if it is ErrUnavailable or ErrUncertain, with 1008 if it is
// ErrInvalidName, since a stranger has sent what the name is made of, and with 1011 if it is
// any other error, which is logged. The ErrClosed of a connection that is ending is no error.
// A panic ends the connection with 1011, too, and is logged with its stack.
type Consumer struct {
	// Accept runs before the upgrade, concurrently with itself. A *Reject picks the
	// HTTP status of the refusal and is logged at debug level; any other error means 403,
	// and is logged as a warning.
	Accept func(r *http.Request) error

	// Connect runs after the upgrade, unless Shutdown has begun or the user's session
	// has ended by then, and before the first Receive. The request is still being
	// served: what routers and middleware keep with it is there. Afterwards only its
	// URL, path values, headers and context values are left. The client sees the
	// connection open when Connect has returned, and gets then what it has sent, unless that
	// is more than half of MaxPending.
	Connect func(c *Conn) error

	// Receive gets a client's messages in order. Those that came before the client's
	// close frame are still handled, unless that takes more than a second: see
	// [Conn.Context].
	Receive func(c *Conn, m Message) error

	// Disconnect runs exactly once if Connect was called, whatever came of it, with
	// the code of the first close frame: 1005 if that had none, 1006 if there was no
	// frame. The connection has left its groups by then; Groups says which they
	// were. The context has the request's values, is not cancelled, and ends after
	// five seconds.
	Disconnect func(ctx context.Context, c *Conn, code int)

	// Resync is called when events of these groups may have been lost for good. It comes
	// behind the events that were sent before the loss; one for several groups comes when
	// that is so in all of them. If it is nil the client gets {"type":"resync","group":…}
	// for each. It is not called for groups with a Snapshot, of which a new one goes out
	// instead.
	Resync func(c *Conn, groups []string)

	// Events says what happens to the events of the connection's groups and channel.
	Events Events

	// Subprotocols are offered in this order of preference. If there are none, none is
	// chosen.
	Subprotocols []string
}

// A *CloseError is an error by which a callback closes its connection with a code,
// as by [Conn.Close].
type CloseError struct {
	Code   int
	Reason string
}

func (e *CloseError) Error() string {
	return fmt.Sprintf("grouphub: close with %d: %s", e.Code, e.Reason)
}

// call runs a callback, and closes the connection if it fails or panics.
func (c *Conn) call(name string, fn func() error) {
	returned := false
	defer func() {
		if p := recover(); p != nil {
			c.hub.logPanic(p, name, c.channel)
		}
		if !returned && c.subscriber == nil { // a panic, or runtime.Goexit, as by a test's FailNow
			c.outbox.CloseWith(closeInternalError, "internal error")
		}
	}()
	if err := fn(); err != nil {
		c.fail(name, err)
	}
	returned = true
}

// fail closes the connection with the code that a callback's error asks for.
func (c *Conn) fail(name string, err error) {
	var closing *CloseError
	var bad *badEventError
	switch {
	case errors.As(err, &closing):
		if invalid := frame.CheckClose(closing.Code, ""); invalid != nil {
			c.hub.logger().Error("grouphub: callback returned a bad CloseError", "callback", name, "error", invalid)
			c.outbox.CloseWith(closeInternalError, closing.Reason)
			return
		}
		c.outbox.CloseWith(closing.Code, closing.Reason)
	case errors.As(err, &bad):
		c.hub.count.dropped.Add(1)
		c.hub.logger().Error("grouphub: event dropped", "callback", name, "error", err)
	case errors.Is(err, ErrUnavailable), errors.Is(err, ErrUncertain):
		c.outbox.CloseWith(closeTryAgainLater, "try again later")
	case errors.Is(err, ErrInvalidName): // made of what a stranger has sent, nearly always
		c.hub.logger().Debug("grouphub: callback was given an invalid name", "callback", name, "channel", c.channel, "error", err)
		c.outbox.CloseWith(closePolicy, "invalid name")
	case errors.Is(err, ErrClosed) && c.closing():
		c.hub.logger().Debug("grouphub: callback met the end of its connection", "callback", name, "channel", c.channel, "error", err)
	default:
		if c.ctx.Err() == nil {
			c.hub.logger().Error("grouphub: callback failed", "callback", name, "channel", c.channel, "error", err)
		}
		c.outbox.CloseWith(closeInternalError, "internal error")
	}
}

// closing reports whether the connection has begun to end, so that nothing can be sent to the
// client any more.
func (c *Conn) closing() bool {
	return errors.Is(c.outbox.Drained(alreadyCancelled), outbox.ErrClosed)
}
