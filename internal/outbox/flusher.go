package outbox

import (
	"errors"
	"os"
	"syscall"
	"time"
)

// A flusher writes the backlog until there is none. While one runs, it alone writes to the
// socket, and everything that is sent joins the backlog.
//
// It gives up a peer that takes nothing for WriteTimeout. The kernel makes that hard to see: a
// write that has to wait goes on when a third of the kernel's buffer is free, which for a slow
// but steady peer takes longer, though a new write would be taken in part at once. So:
//
//   - On a plain socket a write waits for a part of WriteTimeout, and then there is a new one.
//   - TLS does not survive a write's deadline. While a write waits, a watch looks at what the
//     peer's kernel has acknowledged, and moves the deadline. So it does wherever the socket
//     can be found beneath the connection.
//   - On any other connection, the last part of WriteTimeout is for a new write.
type flusher struct {
	outbox   *Outbox
	extra    *extra
	began    time.Duration // when it began, by the package's clock
	progress time.Time     // when the peer last made room, as far as that is seen

	socket syscall.RawConn // beneath the connection, to be watched; nil if there is nothing to see
	queued int             // what that had when it was last looked at, in bytes
	watch  *time.Timer     // looks again; nil without a socket
}

func (o *Outbox) startFlusherLocked() {
	o.writing = flushing
	o.extra.flushers.Add(1)
	go o.flush()
}

func (o *Outbox) flush() {
	o.mu.Lock()
	f := &flusher{outbox: o, extra: o.extra, began: now(), progress: time.Now()}
	f.startWatchLocked()
	o.mu.Unlock()
	defer f.extra.flushers.Done()
	defer f.end()
	if f.writeAnswer() != nil {
		return
	}
	for {
		frames, sent := f.next()
		if frames == nil || f.write(frames, sent) != nil {
			return
		}
	}
}

// startWatchLocked begins to watch the socket beneath a connection that is not written raw.
func (f *flusher) startWatchLocked() {
	if f.outbox.raw != nil {
		return
	}
	socket := socketBeneath(f.outbox.Conn)
	if socket == nil {
		return
	}
	var ok bool
	if f.queued, ok = queued(socket); ok {
		f.socket = socket
		f.watch = time.AfterFunc(f.outbox.limits.WriteTimeout/4, f.look)
	}
}

// look moves the deadline of the write that waits, if the peer has taken something.
func (f *flusher) look() {
	o := f.outbox
	o.mu.Lock()
	defer o.mu.Unlock()
	n, ok := queued(f.socket)
	if f.watch == nil || !ok { // the flusher has ended, or the socket is closed
		return
	}
	if n != f.queued { // while a write waits, nothing is added
		f.queued = n
		f.noteProgressLocked()
		if f.extra.cutoff.IsZero() {
			o.Conn.SetWriteDeadline(f.deadlineLocked())
		}
	}
	f.watch.Reset(o.limits.WriteTimeout / 4)
}

// next takes what is written next. If that is nothing, the flusher gives the write side back.
func (f *flusher) next() (frames []byte, sent int) {
	o := f.outbox
	o.mu.Lock()
	defer o.mu.Unlock()
	frames, sent = f.extra.backlog.next()
	if frames == nil && o.grantLocked() {
		frames, sent = f.extra.backlog.next()
	}
	if frames == nil {
		// The deadline is cleared before anyone writes directly again.
		o.writing = directly
		o.Conn.SetWriteDeadline(time.Time{})
		if o.phase == closing {
			o.cutOffLocked(0)
		}
	}
	return frames, sent
}

// writeAnswer writes what is left of the answer to the handshake.
func (f *flusher) writeAnswer() error {
	o := f.outbox
	o.mu.Lock()
	answer := f.extra.answer
	if len(answer) == 0 {
		o.mu.Unlock()
		return nil
	}
	o.Conn.SetWriteDeadline(f.deadlineLocked())
	o.mu.Unlock()
	_, err := o.Conn.Write(answer)
	o.mu.Lock()
	if f.extra.answer = nil; err != nil || o.phase == dead {
		return o.failAndUnlock(err, 0)
	}
	f.progress = time.Now()
	o.mu.Unlock()
	return nil
}

// write writes whole frames, of which the kernel already has the first sent bytes. On an
// error it has given the connection up.
func (f *flusher) write(frames []byte, sent int) error {
	o := f.outbox
	o.mu.Lock()
	for sent < len(frames) {
		deadline := f.deadlineLocked()
		o.Conn.SetWriteDeadline(deadline)
		o.mu.Unlock()
		n, err := o.Conn.Write(frames[sent:min(len(frames), sent+flushChunk)])
		o.mu.Lock()
		sent += n
		o.pending -= n
		f.extra.written += n
		f.extra.backlog.written(n)
		if n > 0 {
			f.noteProgressLocked()
			o.grantLocked()
		}
		if errors.Is(err, os.ErrDeadlineExceeded) && f.mayGoOnLocked(n, deadline) {
			err = nil
		}
		if err != nil || o.phase == dead {
			return o.failAndUnlock(err, o.format.countData(frames, sent))
		}
	}
	o.mu.Unlock()
	return nil
}

// deadlineLocked returns the next write's deadline. WriteTimeout is for progress, however
// little, until there is a cutoff.
func (f *flusher) deadlineLocked() time.Time {
	timeout := f.outbox.limits.WriteTimeout
	last := f.progress.Add(timeout)
	switch {
	case !f.extra.cutoff.IsZero():
		return f.extra.cutoff
	case f.outbox.raw != nil:
		return time.Now().Add(timeout / 4)
	case f.socket != nil:
		return last
	}
	if most := f.progress.Add(timeout / 10 * 9); time.Now().Before(most) {
		return most
	}
	return last
}

// noteProgressLocked notes that the peer has made room. It is alive then, though its pong may
// be queued behind megabytes. A connection that is not a plain socket may only have had room
// left: of those, one that a flusher goes on and on with has made some.
func (f *flusher) noteProgressLocked() {
	f.progress = time.Now()
	if f.outbox.raw != nil || now()-f.began > 100*time.Millisecond {
		f.outbox.lively = now()
	}
}

// mayGoOnLocked reports whether a write that has met its deadline, having taken n bytes, may
// be continued: it has made progress, or there is time left for some. A connection that has
// not survived an earlier deadline, such as TLS, fails at once, before this one.
func (f *flusher) mayGoOnLocked(n int, deadline time.Time) bool {
	at := time.Now()
	if cutoff := f.extra.cutoff; !cutoff.IsZero() && !at.Before(cutoff) {
		return false
	}
	return n > 0 || !at.Before(deadline) && at.Sub(f.progress) < f.outbox.limits.WriteTimeout
}

// end stops the watch.
func (f *flusher) end() {
	o := f.outbox
	o.mu.Lock()
	defer o.mu.Unlock()
	if f.watch != nil {
		f.watch.Stop()
		f.watch = nil
	}
}
