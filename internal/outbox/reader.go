package outbox

import (
	"math"
	"sync"
	"time"
)

// readSocket waits for bytes of the peer, and pings it when that is due. Each call begins to
// wait anew, and any byte from the peer counts as life.
func (o *Outbox) readSocket(p []byte) (int, error) {
	o.noteLife()
	for {
		wait, err := o.ping()
		if err != nil {
			return 0, err
		}
		deadline, last, err := o.setReadDeadline(wait)
		if err != nil { // such as a channel of SSH
			return o.readAndPing(p)
		}
		n, err := o.Conn.Read(p)
		if n > 0 {
			o.noteLife()
		}
		if n > 0 || err == nil || last || o.isEnd(deadline) {
			return n, err
		}
	}
}

// isEnd reports whether a read that has failed, with this deadline, has failed for good. Not
// every net.Conn has the error of a deadline that the others have.
func (o *Outbox) isEnd(deadline time.Time) bool {
	if deadline.IsZero() { // unless Release has set one
		return o.isHeld()
	}
	return time.Now().Before(deadline)
}

func (o *Outbox) isHeld() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.writing == held
}

func (o *Outbox) noteLife() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.lively = now()
}

// setReadDeadline sets the deadline of a read: when the next ping is due, or where
// the connection ends, whichever is first. It reports whether it ends by then. The error is
// that of a connection that knows no deadlines.
func (o *Outbox) setReadDeadline(ping time.Duration) (deadline time.Time, last bool, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch x := o.extra; {
	case x != nil && !x.cutoff.IsZero():
		deadline = o.readEndLocked()
		last = !time.Now().Before(deadline)
	case o.writing == held: // Release will set one
	case ping == untilRelease: // it has been released meanwhile
		deadline = time.Now()
	default:
		silence := o.limits.PongTimeout - (now() - o.lively) // may be too large for a sum
		deadline, last = time.Now().Add(min(ping, silence)), silence <= 0
	}
	if err = o.Conn.SetReadDeadline(deadline); o.phase == dead {
		err = nil // the read will say so
	}
	return deadline, last, err
}

// readAndPing is for a connection that knows no deadlines: then silence has no end, but pings
// are sent.
func (o *Outbox) readAndPing(p []byte) (int, error) {
	done := make(chan struct{})
	var pinging sync.WaitGroup
	pinging.Go(func() { o.pingUntil(done) })
	defer pinging.Wait()
	defer close(done)
	return o.Conn.Read(p)
}

// pingUntil pings the peer until done is closed.
func (o *Outbox) pingUntil(done <-chan struct{}) {
	for {
		wait, err := o.ping()
		switch {
		case err != nil:
			wait = math.MaxInt64 // the reader finds it as well
		case wait == untilRelease:
			wait = time.Second
		}
		if sleep(wait, done) {
			return
		}
	}
}

// untilRelease stands for the time until the next ping while the outbox is held: the peer does
// not know yet that it is connected, so it is neither pinged nor silent.
const untilRelease time.Duration = -1

// ping sends the ping and the heartbeat that are due, and returns how long the next one of
// them will be.
func (o *Outbox) ping() (time.Duration, error) {
	if o.isHeld() {
		return untilRelease, nil
	}
	wait, err := o.sendPing()
	if err == nil && o.limits.Heartbeat > 0 {
		var heartbeat time.Duration
		heartbeat, err = o.sendHeartbeat()
		wait = min(wait, heartbeat)
	}
	return wait, err
}

func (o *Outbox) sendPing() (time.Duration, error) {
	o.mu.Lock()
	at := now()
	if wait := o.limits.PingInterval - (at - o.pinged); wait > 0 {
		o.mu.Unlock()
		return wait, nil
	}
	o.pinged = at
	return o.limits.PingInterval, o.controlAndUnlock(o.format.ping())
}
