package outbox

import (
	"context"
	"slices"
)

// A waiter waits for the peer to take some of the backlog. It is guarded by the outbox's mu,
// but for ready.
type waiter struct {
	want  want
	send  []byte        // for wantRoom: joins the backlog when there is room for it
	until int           // for wantWritten: the bytes that the kernel has taken by then
	ready chan struct{} // closed when the waiter has what it wants, or never will
	err   error         // set before ready is closed
}

// A want says what a waiter waits for.
type want uint8

const (
	wantRoom    want = iota // room for frames of its own
	wantDrained             // that nothing waits but what is replaceable
	wantWritten             // that what waits now has been written
)

// PushWait is Push for those who would rather wait than have the connection closed for being
// slow. It returns when there was room for the frames, with the error of ctx, or with
// ErrClosed. Frames that are larger than what may wait have room when nothing else waits.
// Those of several calls get it in the order of the calls. What is replaceable takes no room.
//
// Frames that were pushed by it make no connection slow.
func (o *Outbox) PushWait(ctx context.Context, frames []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	w := BorrowWriter()
	defer w.Return()
	o.mu.Lock()
	// What is held does not wait for the peer, who needs the answer first.
	if o.phase == open && o.writing == held && !o.hasRoomLocked(len(frames)) {
		if err := o.releaseLocked(w); err != nil {
			return o.failAndUnlock(err, 0)
		}
	}
	if o.phase == open && (!o.hasRoomLocked(len(frames)) || o.isAwaitedLocked()) {
		return o.waitAndUnlock(ctx, &waiter{want: wantRoom, send: frames})
	}
	if o.phase != open {
		o.mu.Unlock()
		return ErrClosed
	}
	if o.limits.Heartbeat > 0 {
		o.pushed = tickNow()
	}
	if _, err := o.sendLocked(w, frames, awaited, nil); err != nil {
		return o.failAndUnlock(err, 0)
	}
	if err := o.releaseFullLocked(w); err != nil {
		return o.failAndUnlock(err, 0)
	}
	o.mu.Unlock()
	return nil
}

// Drained waits until nothing waits to be written but what is replaceable, of which there may
// always be some; or the outbox is closed, or ctx ends.
func (o *Outbox) Drained(ctx context.Context) error {
	o.mu.Lock()
	if o.phase == open && o.writing != held && o.hardPendingLocked() > 0 { // what is held does not wait for the peer
		return o.waitAndUnlock(ctx, &waiter{want: wantDrained})
	}
	return o.openAndUnlock()
}

// CaughtUp waits until as much has been written as waits now; or the outbox is closed, or ctx
// ends.
func (o *Outbox) CaughtUp(ctx context.Context) error {
	o.mu.Lock()
	if o.phase == open && o.writing != held && o.pending > 0 {
		return o.waitAndUnlock(ctx, &waiter{want: wantWritten, until: o.extra.written + o.pending})
	}
	return o.openAndUnlock()
}

// openAndUnlock returns ErrClosed unless everything is sent.
func (o *Outbox) openAndUnlock() error {
	defer o.mu.Unlock()
	if o.phase != open {
		return ErrClosed
	}
	return nil
}

// waitAndUnlock waits until the waiter has what it wants. There is a flusher, which sees to
// that.
func (o *Outbox) waitAndUnlock(ctx context.Context, w *waiter) error {
	if err := ctx.Err(); err != nil { // without a trace: this is how one asks without waiting
		o.mu.Unlock()
		return err
	}
	w.ready = make(chan struct{})
	o.extra.waiters = append(o.extra.waiters, w)
	o.mu.Unlock()
	select {
	case <-w.ready:
		return w.err
	case <-ctx.Done():
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.extra != nil {
		if i := slices.Index(o.extra.waiters, w); i >= 0 {
			o.extra.waiters = slices.Delete(o.extra.waiters, i, i+1)
			o.grantLocked() // the next one may need less room
			return ctx.Err()
		}
	}
	return w.err // it was granted, or failed, at the same moment
}

// hardPendingLocked returns what waits, in bytes, except for what is replaceable.
func (o *Outbox) hardPendingLocked() int {
	if o.pending == 0 {
		return 0
	}
	return o.pending - o.extra.backlog.of(replaceable)
}

// hasRoomLocked reports whether frames of so many bytes may join what waits.
func (o *Outbox) hasRoomLocked(n int) bool {
	waiting := o.hardPendingLocked()
	if waiting == 0 {
		return true
	}
	b := &o.extra.backlog
	return waiting+n+overhead*(b.entries[plain]+b.entries[awaited]+1) <= o.limits.Pending
}

// isAwaitedLocked reports whether frames of an earlier PushWait have no room yet.
func (o *Outbox) isAwaitedLocked() bool {
	return o.extra != nil && slices.ContainsFunc(o.extra.waiters, func(w *waiter) bool { return w.want == wantRoom })
}

// grantLocked gives those who wait what there is for them, and reports whether that has made
// the backlog longer. Only a flusher empties a backlog, and it comes here before it ends.
func (o *Outbox) grantLocked() (more bool) {
	x := o.extra
	if x == nil || len(x.waiters) == 0 {
		return false
	}
	full := false
	x.waiters = slices.DeleteFunc(x.waiters, func(w *waiter) bool {
		switch w.want {
		case wantRoom:
			if full = full || !o.hasRoomLocked(len(w.send)); full {
				return false
			}
			o.pending += x.backlog.add(w.send, awaited)
			if o.limits.Heartbeat > 0 {
				o.pushed = tickNow()
			}
			more = true
		case wantDrained:
			if o.hardPendingLocked() > 0 {
				return false
			}
		case wantWritten:
			if o.pending > 0 && x.written < w.until {
				return false
			}
		}
		close(w.ready)
		return true
	})
	return more
}

// failWaitersLocked tells those who wait that the outbox is closed.
func (o *Outbox) failWaitersLocked() {
	if o.extra == nil {
		return
	}
	for _, w := range o.extra.waiters {
		w.err = ErrClosed
		close(w.ready)
	}
	o.extra.waiters = nil
}
