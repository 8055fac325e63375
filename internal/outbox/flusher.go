package outbox

import (
	"errors"
	"os"
	"time"

	"github.com/seed-29c60982/grouphub/internal/frame"
)

// A flusher writes the backlog until there is none. While one runs, it alone writes to the
// socket, and everything that is sent joins the backlog.
type flusher struct {
	outbox   *Outbox
	extra    *extra
	began    time.Duration // when it began, by the package's clock
	progress time.Time     // when the kernel last took something
}

func (o *Outbox) startFlusherLocked() {
	o.flushing = true
	o.extra.flushers.Add(1)
	go o.flush()
}

func (o *Outbox) flush() {
	o.mu.Lock()
	f := flusher{outbox: o, extra: o.extra, began: now(), progress: time.Now()}
	o.mu.Unlock()
	defer f.extra.flushers.Done()
	defer o.signalDrained()
	for {
		frames, sent := f.next()
		if frames == nil || f.write(frames, sent) != nil {
			return
		}
	}
}

// next takes what is written next. If that is nothing, the flusher gives the write side back.
func (f *flusher) next() (frames []byte, sent int) {
	o := f.outbox
	o.mu.Lock()
	defer o.mu.Unlock()
	frames, sent = f.extra.backlog.next()
	if frames == nil {
		// The deadline is cleared before anyone writes directly again.
		o.flushing = false
		o.Conn.SetWriteDeadline(time.Time{})
		if o.phase == closing {
			o.cutOffLocked(0)
		}
	}
	return frames, sent
}

// write writes whole frames, of which the kernel already has the first sent bytes. On an
// error it has given the connection up.
func (f *flusher) write(frames []byte, sent int) error {
	o := f.outbox
	o.mu.Lock()
	for sent < len(frames) {
		o.Conn.SetWriteDeadline(f.deadlineLocked())
		o.mu.Unlock()
		n, err := o.Conn.Write(frames[sent:min(len(frames), sent+flushChunk)])
		o.mu.Lock()
		sent += n
		o.pending -= n
		if n > 0 {
			f.noteProgressLocked()
		}
		if f.mayGoOnLocked(n, err) {
			err = nil
		}
		if err != nil || o.phase == dead {
			return o.failAndUnlock(err, frame.CountData(frames, sent))
		}
	}
	o.mu.Unlock()
	return nil
}

// deadlineLocked returns the next write's deadline. WriteTimeout is for progress, however
// little, until there is a cutoff.
func (f *flusher) deadlineLocked() time.Time {
	if !f.extra.cutoff.IsZero() {
		return f.extra.cutoff
	}
	patience := f.outbox.limits.WriteTimeout
	if f.outbox.raw != nil {
		// The kernel reports room when a third of its buffer is free, but takes bytes
		// whenever there is some.
		patience /= 4
	}
	return time.Now().Add(patience)
}

// noteProgressLocked notes that the kernel has taken something. Where there was no room, the
// peer has made some: it is alive, and its pong may be queued behind megabytes. Only a raw
// socket says that there was none; of others a flusher that goes on and on does.
func (f *flusher) noteProgressLocked() {
	f.progress = time.Now()
	if f.outbox.raw != nil || now()-f.began > 100*time.Millisecond {
		f.outbox.lively = now()
	}
}

// mayGoOnLocked reports whether a write that has taken n bytes has only met its deadline and
// may be continued: it has made progress, or there is time left for some. TLS, which does not
// survive a deadline, fails again at once.
func (f *flusher) mayGoOnLocked(n int, err error) bool {
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	if cutoff := f.extra.cutoff; !cutoff.IsZero() && !time.Now().Before(cutoff) {
		return false
	}
	return n > 0 || f.outbox.raw != nil && time.Since(f.progress) < f.outbox.limits.WriteTimeout
}

func (o *Outbox) signalDrained() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.extra.drained != nil {
		close(o.extra.drained)
		o.extra.drained = nil
	}
}
