package outbox

import (
	"errors"
	"io"
	"math"
	"net"
	"os"
	"sync"
	"time"
)

// moment is how long the reader waits before it reads ahead. Nearly all callbacks return
// sooner.
const moment = time.Second

// scratches are buffers to read ahead with, so that what is kept is no larger than it has to be.
var scratches = sync.Pool{New: func() any { return new([4 << 10]byte) }}

// Await returns when done is closed. It is for the reader, while somebody is busy with what it
// has read: pings go on, and what the peer sends is read ahead, so that its end is noticed
// behind messages that nobody has read yet. The owner is told of it by Left.
func (o *Outbox) Await(done <-chan struct{}) { o.wait(math.MaxInt64, done) }

// wait waits so long, or until done is closed. Without a done it ends as well when the peer has
// left, or the connection is over.
func (o *Outbox) wait(most time.Duration, done <-chan struct{}) {
	began := now()
	left := func() time.Duration { return most - (now() - began) }
	if sleep(min(most, moment), done) || left() <= 0 {
		return
	}
	defer o.interruptWhen(done)()
	for left() > 0 && !isClosed(done) {
		ping, err := o.ping()
		if gone := o.tellLeft(); done == nil && (gone || err != nil || o.isOver()) {
			return
		}
		if err != nil { // the owner knows that the socket is dead
			sleep(left(), done)
			return
		}
		if o.readMore(min(ping, left()), done) {
			continue
		}
		o.judgeFull()
		o.tellLeft()
		pause := min(ping, left(), o.limits.PongTimeout/4)
		if ping == untilRelease || done == nil {
			pause = min(moment, left())
		}
		sleep(pause, done)
	}
}

// isOver reports whether the socket is closed, or should be by now.
func (o *Outbox) isOver() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	x := o.extra
	return o.phase == dead || x != nil && !x.cutoff.IsZero() && !time.Now().Before(x.cutoff)
}

// readMore reads ahead for so long. It reports false if it cannot: there is no more room, or
// no more to read, or the connection has no deadlines.
func (o *Outbox) readMore(most time.Duration, done <-chan struct{}) bool {
	u := o.intake.unread
	if u != nil && (u.err != nil || len(u.bytes) >= readAhead) {
		return false
	}
	deadline, last, err := o.setReadDeadline(most)
	if err != nil && !errors.Is(err, io.ErrClosedPipe) && !errors.Is(err, net.ErrClosed) {
		return false // the connection has none; but one that is closed is read to its end
	}
	if isClosed(done) { // or the read's deadline would replace that of interruptWhen
		return true
	}
	b := scratches.Get().(*[4 << 10]byte)
	defer scratches.Put(b)
	n, err := o.Conn.Read(b[:])
	switch {
	case n > 0:
		o.noteLife()
		o.intake.keep(b[:n])
	case err != nil && (last || o.isEnd(deadline) && !isClosed(done)):
		o.intake.keep(nil)
		o.intake.unread.err = err
	}
	return true
}

// judgeFull looks for the end of a peer that has sent more than is read ahead: its kernel may
// have closed the connection behind that, or acknowledge no ping any more.
func (o *Outbox) judgeFull() {
	u := o.intake.unread
	if u == nil || u.err != nil {
		return
	}
	socket := socketBeneath(o.Conn)
	if socket == nil {
		o.noteLife() // nothing shows whether the peer lives
		return
	}
	if hasShutDown(socket) {
		u.closed = true // perhaps there is a close frame, perhaps not
		return
	}
	if waiting, ok := queued(socket); !ok || waiting == 0 {
		o.noteLife()
		return
	}
	o.mu.Lock()
	silence := now() - o.lively
	o.mu.Unlock()
	if silence >= o.limits.PongTimeout {
		u.err = os.ErrDeadlineExceeded
	}
}

// tellLeft reports whether the peer has left behind what nobody has read yet. The owner is told
// once.
func (o *Outbox) tellLeft() bool {
	u := o.intake.unread
	if u == nil || !u.closed && u.err == nil {
		return false
	}
	if !u.told {
		u.told = true
		o.owner.Left(u.closed)
	}
	return true
}

// interruptWhen ends a read when done is closed, until the function that it returns is called.
func (o *Outbox) interruptWhen(done <-chan struct{}) (stop func()) {
	if done == nil {
		return func() {}
	}
	stopped := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		select {
		case <-done:
			o.Conn.SetReadDeadline(time.Now())
		case <-stopped:
		}
	})
	return func() {
		close(stopped)
		watching.Wait()
	}
}

// sleep waits so long, or until done is closed, and reports whether it is.
func sleep(most time.Duration, done <-chan struct{}) bool {
	timer := time.NewTimer(most)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		return false
	}
}

func isClosed(done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
		return false
	}
}
