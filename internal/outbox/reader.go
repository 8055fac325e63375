package outbox

import (
	"math"
	"sync"
	"time"
)

// Read is called by gorilla alone. It pings the peer when that is due. Each call begins to
// wait anew, so that any byte from the peer counts as life and a callback that holds the
// reader up does not kill its connection.
func (o *Outbox) Read(p []byte) (int, error) {
	o.mu.Lock()
	o.lively = now()
	o.mu.Unlock()
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
		switch {
		case n > 0 || err == nil || last:
			return n, err
		case wait == untilRelease:
			if o.isHeld() {
				return n, err
			}
		case time.Now().Before(deadline): // not every net.Conn has the error of a deadline that the others have
			return n, err
		}
	}
}

func (o *Outbox) isHeld() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.writing == held
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
	pinging.Go(func() { o.PingUntil(done) })
	defer pinging.Wait()
	defer close(done)
	return o.Conn.Read(p)
}

// PingUntil pings the peer until done is closed. It is for its reader, while that cannot read.
func (o *Outbox) PingUntil(done <-chan struct{}) {
	for {
		wait, err := o.ping()
		switch {
		case err != nil:
			wait = math.MaxInt64 // the reader finds it as well
		case wait == untilRelease:
			wait = time.Second
		}
		select {
		case <-done:
			return
		case <-time.After(wait):
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
