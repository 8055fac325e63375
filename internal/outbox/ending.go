package outbox

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"time"
)

// Close codes.
const (
	protocolError = 1002
	tryAgainLater = 1013
)

// CloseWith sends what waits, then a close frame, and gives the peer CloseTimeout to
// answer; all of that takes WriteTimeout and CloseTimeout at the most, or a peer that takes
// a byte now and then would stay as long as it likes. It does not wait. Of several calls
// the first counts.
func (o *Outbox) CloseWith(code int, reason string) error {
	o.mu.Lock()
	if o.phase != open {
		o.mu.Unlock()
		o.owner.Ending(Closed)
		return ErrClosed
	}
	o.phase, o.code = closing, uint16(code)
	o.failWaitersLocked()
	if err := o.sendCloseLocked(o.format.newClose(code, reason)); err != nil {
		return o.failAndUnlock(err, 0)
	}
	var more time.Duration
	if o.writing == flushing {
		more = o.limits.WriteTimeout
	}
	o.cutOffLocked(more)
	o.mu.Unlock()
	o.owner.Ending(Closed)
	return nil
}

// Code returns the code of the close frame that was sent, 0 if none was.
func (o *Outbox) Code() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return int(o.code)
}

// HalfFull reports whether more than half of what may wait does, without what is replaceable:
// as for Drained, there may always be some of that.
func (o *Outbox) HalfFull() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.hardPendingLocked() > o.limits.Pending/2
}

// Kill closes the socket at once.
func (o *Outbox) Kill() {
	o.mu.Lock()
	o.failAndUnlock(net.ErrClosed, 0)
}

// Linger ends the connection when nobody reads from it any more: it lets the flusher
// finish and, unless the peer has closed too, says so and waits until it has, for
// CloseTimeout at most. When it returns, the socket is closed and no goroutine of
// the outbox is left.
func (o *Outbox) Linger(peerClosed bool) {
	o.mu.Lock()
	x := o.extraLocked()
	// What waits for the client of an event stream has the time that CloseWith gave it.
	if o.phase != dead && (o.format == WebSocket || x.cutoff.IsZero()) {
		o.cutOffLocked(0)
	}
	o.mu.Unlock()
	x.flushers.Wait()
	o.mu.Lock()
	gone, cutoff := o.phase == dead, x.cutoff
	x.lingering = true
	o.mu.Unlock()
	if !gone && !peerClosed {
		o.Conn.SetReadDeadline(cutoff)
		// TLS gives its own farewell, which may block, a deadline of its own.
		defer time.AfterFunc(time.Until(cutoff), func() { hardClose(o.Conn) }).Stop()
		if c, ok := o.Conn.(interface{ CloseWrite() error }); ok {
			c.CloseWrite()
		}
		io.Copy(io.Discard, o.Conn)
	}
	o.mu.Lock()
	o.dropAndUnlock(0)
	x.flushers.Wait()
}

func (o *Outbox) cutSlowAndUnlock() {
	o.slow = true
	dropped := o.cutLocked(tryAgainLater, o.format.newClose(tryAgainLater, "too slow"))
	o.mu.Unlock()
	o.owner.Lost(dropped)
	o.owner.Ending(Slow)
}

// cutLocked drops the frames that have not been begun, lets a close frame follow
// what has, and ends the connection CloseTimeout later. It returns how many data
// frames were dropped.
func (o *Outbox) cutLocked(code int, closeFrame []byte) (dropped int) {
	bytes, dropped := o.extraLocked().backlog.dropUnbegun()
	o.pending -= bytes
	o.phase, o.code = closing, uint16(code)
	o.failWaitersLocked()
	// An error here means a dead socket, which the read loop finds as well.
	_ = o.sendCloseLocked(closeFrame)
	o.cutOffLocked(0)
	return dropped
}

// sendCloseLocked sends a close frame behind everything else.
func (o *Outbox) sendCloseLocked(closeFrame []byte) error {
	w := BorrowWriter()
	defer w.Return()
	if err := o.releaseLocked(w); err != nil {
		return err
	}
	_, err := o.sendLocked(w, closeFrame, plain, nil)
	return err
}

// cutOffLocked ends the connection after CloseTimeout and more, unless that is to happen
// earlier.
func (o *Outbox) cutOffLocked(more time.Duration) {
	at := time.Now().Add(o.limits.CloseTimeout).Add(more) // the sum may be too large for a Duration
	x := o.extraLocked()
	if x.cutoff.IsZero() || at.Before(x.cutoff) {
		x.cutoff = at
	}
	o.Conn.SetReadDeadline(o.readEndLocked())
	if o.writing == flushing {
		o.Conn.SetWriteDeadline(x.cutoff)
	}
}

// longAgo is a deadline that has passed, by a synctest bubble's clock, too.
var longAgo = time.Unix(1, 0)

// readEndLocked returns when reading ends, once there is a cutoff. The client of an event
// stream does not answer a close: its reader ends at once, and then Linger reads until the
// client has closed, too.
func (o *Outbox) readEndLocked() time.Time {
	if o.format == EventStream && !o.extra.lingering {
		return longAgo
	}
	return o.extra.cutoff
}

// failAndUnlock gives the connection up because of an error.
func (o *Outbox) failAndUnlock(err error, extra int) error {
	if o.dropAndUnlock(extra) {
		o.owner.Ending(Dead)
	}
	return fmt.Errorf("%w: %w", ErrClosed, err)
}

// dropAndUnlock closes the socket, which ends the read loop, and counts as lost what
// waits and extra data frames. It reports whether the socket was open.
func (o *Outbox) dropAndUnlock(extra int) bool {
	lost, first := extra, o.phase != dead
	o.phase = dead
	o.failWaitersLocked()
	if o.extra != nil {
		lost += o.extra.backlog.drop()
	}
	o.pending = 0
	o.mu.Unlock()
	o.owner.Lost(lost)
	if first {
		hardClose(o.Conn)
	}
	return first
}

// hardClose closes the socket without a farewell, which for TLS could block.
func hardClose(c net.Conn) {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	c.Close()
}
