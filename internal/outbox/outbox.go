// Package outbox writes to a WebSocket connection's socket without ever waiting for
// the peer.
package outbox

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// flushChunk is how many bytes of small frames a flusher joins for one write, and
// how many of a large frame it writes before it looks at its deadline again.
const flushChunk = 16 << 10

// ErrClosed means that nothing can be sent any more, ErrSlow that this is for having too
// much waiting.
var (
	ErrClosed = errors.New("connection is closing")
	ErrSlow   = fmt.Errorf("%w: it was too slow", ErrClosed)
)

// An Outbox is the one place that writes to a connection's socket. It is the
// net.Conn that gorilla and melody see, so their control frames pass through it;
// data frames are pushed by the hub. Nothing that is pushed waits for the peer:
// what the kernel does not take at once joins a backlog, and a flusher goroutine
// lives for as long as there is one.
//
// Frames are whole: a buffer that is pushed begins and ends at a frame's boundary,
// and nothing follows a close frame. Pushed buffers are shared and never changed.
type Outbox struct {
	// What a push needs that the kernel takes whole comes first, and close together: there
	// may be thousands of them in a row.

	raw      syscall.RawConn // static; nil if the connection is no plain socket
	upgraded bool            // set by the handshake, before the outbox is shared: its response has passed
	deflated bool            // likewise: it negotiated permessage-deflate
	flushing bool            // a flusher owns the write side; everything joins the backlog
	closing  bool            // a close frame is sent or queued
	slow     bool            // it was closed for having too much waiting
	dead     bool            // a write failed, or the socket is closed
	code     uint16          // of the close frame; 0 while there is none
	mu       sync.Mutex      // guards what is not static, from flushing on
	pending  int             // bytes that wait: of begun, urgent and backlog together
	later    *later          // nil while nothing has had to wait

	lively time.Duration // when the peer gave a sign of life, by the package's clock
	pinged time.Duration // when it was sent a ping, or could be sent the first, likewise

	// Static after Init.
	net.Conn // the hijacked connection; addresses and real I/O
	limits   *Limits
	owner    Owner
}

// later is what an outbox needs when something cannot be written at once, or when it ends.
// Guarded by its mu.
type later struct {
	begun     []byte        // what the flusher writes first: a frame that is partly written
	begunSent int           // bytes of begun that the kernel has
	urgent    [][]byte      // control frames, which overtake data at a frame's boundary
	backlog   [][]byte      // data frames, from a frame's boundary on
	cutoff    time.Time     // when not zero, reads and writes end here
	drained   chan struct{} // closed when a flusher ends; nil if nobody waits
	flushers  sync.WaitGroup
}

// An Owner is told what becomes of an outbox. It is not called with a lock held.
type Owner interface {
	Ending(how Ending) // the connection ends on this side; with Closed for every CloseWith
	Lost(frames int)   // data frames that will never be written
}

// An Ending is a way for a connection to end that is not the peer's close frame.
type Ending uint8

const (
	Closed Ending = iota // this side has closed, or would have, had the peer not been first
	Slow                 // too much was waiting
	Dead                 // a write failed, or the socket is closed
)

// Limits of one outbox.
type Limits struct {
	Pending      int           // bytes that may wait
	PingInterval time.Duration // between two pings
	PongTimeout  time.Duration // without a byte from the peer
	WriteTimeout time.Duration // without a byte taken by the peer; it may be noticed after twice that
	CloseTimeout time.Duration // for the peer's answer to a close frame
}

// Init makes the outbox that of a connection that is about to be upgraded. The limits may be
// shared, and are not to be changed any more.
func (o *Outbox) Init(conn net.Conn, limits *Limits, owner Owner) {
	o.Conn, o.limits, o.owner, o.pinged = conn, limits, owner, now()
	// Only the exact types are written raw: anything that wraps them may transform
	// the bytes, as TLS does.
	switch c := conn.(type) {
	case *net.TCPConn:
		o.raw, _ = c.SyscallConn()
	case *net.UnixConn:
		o.raw, _ = c.SyscallConn()
	}
}

// now is the package's clock: times of it take a third of a time.Time's memory.
func now() time.Duration { return time.Since(start) }

var start = time.Now()

// Push sends frames, or queues what the kernel does not take, without waiting. A
// connection that already has as much waiting as it may is closed with 1013. What it
// refuses is counted as lost, except with ErrClosed itself: a connection that is closing is
// none that should have had it.
func (o *Outbox) Push(frames []byte) error {
	w := BorrowWriter()
	defer w.Return()
	return o.PushWith(w, frames)
}

// PushWith is Push for those who push to many outboxes.
func (o *Outbox) PushWith(w *Writer, frames []byte) error {
	o.mu.Lock()
	if o.closing || o.dead {
		slow := o.slow
		o.mu.Unlock()
		if slow { // it would have had these, had it kept up
			o.owner.Lost(dataFrames(frames, 0))
			return ErrSlow
		}
		return ErrClosed
	}
	waiting := o.pending
	if err := o.sendLocked(w, frames, false); err != nil {
		return o.failAndUnlock(err, dataFrames(frames, 0))
	}
	// What counts is what waited already: an event of any permitted size must be
	// deliverable to a connection that keeps up.
	if waiting > o.limits.Pending {
		o.cutSlowAndUnlock()
		return ErrSlow
	}
	o.mu.Unlock()
	return nil
}

// CloseWith sends what waits, then a close frame, and gives the peer CloseTimeout to
// answer; all of that takes WriteTimeout and CloseTimeout at the most, or a peer that takes
// a byte now and then would stay as long as it likes. It does not wait. Of several calls
// the first counts.
func (o *Outbox) CloseWith(code int, reason string) error {
	o.mu.Lock()
	if o.closing || o.dead {
		o.mu.Unlock()
		o.owner.Ending(Closed)
		return ErrClosed
	}
	o.closing, o.code = true, uint16(code)
	if err := o.sendControlLocked(closeFrame(code, reason), false); err != nil {
		return o.failAndUnlock(err, 0)
	}
	var more time.Duration
	if o.flushing {
		more = o.limits.WriteTimeout
	}
	o.cutOffLocked(more)
	o.mu.Unlock()
	o.owner.Ending(Closed)
	return nil
}

// Drained waits until nothing waits to be written, the outbox is closed, or ctx ends.
func (o *Outbox) Drained(ctx context.Context) error {
	for {
		o.mu.Lock()
		if o.closing || o.dead {
			o.mu.Unlock()
			return ErrClosed
		}
		if !o.flushing {
			o.mu.Unlock()
			return nil
		}
		if o.later.drained == nil {
			o.later.drained = make(chan struct{})
		}
		drained := o.later.drained
		o.mu.Unlock()
		select {
		case <-drained:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Kill closes the socket at once.
func (o *Outbox) Kill() {
	o.mu.Lock()
	o.failAndUnlock(net.ErrClosed, 0)
}

// Deflated reports whether the handshake negotiated permessage-deflate. It must not be
// called before the handshake is over.
func (o *Outbox) Deflated() bool { return o.deflated }

// Code returns the code of the close frame that was sent, 0 if none was.
func (o *Outbox) Code() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return int(o.code)
}

func (o *Outbox) sendControlLocked(frame []byte, urgent bool) error {
	w := BorrowWriter()
	defer w.Return()
	return o.sendLocked(w, frame, urgent)
}

// sendLocked writes frames if nothing waits, and queues the rest.
func (o *Outbox) sendLocked(w *Writer, frames []byte, urgent bool) error {
	if o.flushing {
		o.laterLocked().add(frames, urgent)
		o.pending += len(frames)
		return nil
	}
	sent := 0
	if o.raw != nil {
		var err error
		if sent, err = w.write(o.raw, frames); err != nil {
			return err
		}
		if sent == len(frames) {
			return nil
		}
	}
	l := o.laterLocked()
	start := wholeFrames(frames, sent)
	rest := frames[start:]
	if sent > start {
		n := frameLen(rest)
		l.begun, l.begunSent = rest[:n], sent-start
		rest = rest[n:]
	}
	if len(rest) > 0 {
		l.add(rest, urgent)
	}
	o.pending = len(frames) - sent
	o.flushing = true
	l.flushers.Add(1)
	go o.flush()
	return nil
}

func (o *Outbox) laterLocked() *later {
	if o.later == nil {
		o.later = new(later)
	}
	return o.later
}

func (l *later) add(frames []byte, urgent bool) {
	if urgent {
		l.urgent = append(l.urgent, frames)
	} else {
		l.backlog = append(l.backlog, frames)
	}
}

// cutLocked drops the frames that have not been begun, lets a close frame follow
// what has, and ends the connection CloseTimeout later. It returns how many data
// frames were dropped.
func (o *Outbox) cutLocked(frame []byte) (dropped int) {
	l := o.laterLocked()
	for _, b := range l.backlog {
		dropped += dataFrames(b, 0)
		o.pending -= len(b)
	}
	for _, b := range l.urgent {
		o.pending -= len(b)
	}
	l.backlog, l.urgent = nil, nil
	o.closing, o.code = true, uint16(closeCode(frame))
	// An error here means a dead socket, which the read loop finds as well.
	_ = o.sendControlLocked(frame, false)
	o.cutOffLocked(0)
	return dropped
}

func (o *Outbox) cutSlowAndUnlock() {
	o.slow = true
	dropped := o.cutLocked(closeFrame(tryAgainLater, "too slow"))
	o.mu.Unlock()
	o.owner.Lost(dropped)
	o.owner.Ending(Slow)
}

// cutOffLocked ends the connection after CloseTimeout and more, unless that is to happen
// earlier.
func (o *Outbox) cutOffLocked(more time.Duration) {
	at := time.Now().Add(o.limits.CloseTimeout).Add(more) // the sum may be too large for a Duration
	l := o.laterLocked()
	if l.cutoff.IsZero() || at.Before(l.cutoff) {
		l.cutoff = at
	}
	o.Conn.SetReadDeadline(l.cutoff)
	if o.flushing {
		o.Conn.SetWriteDeadline(l.cutoff)
	}
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
	lost, first := extra, !o.dead
	o.dead = true
	if l := o.later; l != nil {
		for _, b := range l.backlog {
			lost += dataFrames(b, 0)
		}
		if l.begun != nil {
			lost += dataFrames(l.begun, l.begunSent)
		}
		l.backlog, l.urgent, l.begun = nil, nil, nil
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

// flush writes the backlog until there is none.
func (o *Outbox) flush() {
	o.mu.Lock()
	l := o.later
	o.mu.Unlock()
	defer l.flushers.Done()
	defer o.signalDrained()
	began := now()
	// The kernel reports room when a third of its buffer is free, but takes bytes
	// whenever there is some. TLS does not survive a deadline.
	progress, patience := time.Now(), o.limits.WriteTimeout
	if o.raw != nil {
		patience /= 4
	}
	for {
		o.mu.Lock()
		frames, sent := l.nextLocked()
		if frames == nil {
			// The deadline is cleared before anyone writes directly again.
			o.flushing = false
			o.Conn.SetWriteDeadline(time.Time{})
			if o.closing {
				o.cutOffLocked(0)
			}
			o.mu.Unlock()
			return
		}
		for sent < len(frames) {
			// WriteTimeout is for progress, however little, until there is a cutoff.
			deadline := l.cutoff
			if deadline.IsZero() {
				deadline = time.Now().Add(patience)
			}
			o.Conn.SetWriteDeadline(deadline)
			o.mu.Unlock()
			n, err := o.Conn.Write(frames[sent:min(len(frames), sent+flushChunk)])
			o.mu.Lock()
			sent += n
			o.pending -= n
			if n > 0 {
				progress = time.Now()
				// Where there was no room, the peer has made some: it is alive, and its
				// pong may be queued behind megabytes. Only a raw socket says so; of
				// others a flusher that goes on and on does.
				if o.raw != nil || now()-began > 100*time.Millisecond {
					o.lively = now()
				}
			}
			if errors.Is(err, os.ErrDeadlineExceeded) && (l.cutoff.IsZero() || time.Now().Before(l.cutoff)) &&
				(n > 0 || o.raw != nil && time.Since(progress) < o.limits.WriteTimeout) {
				err = nil // TLS, which cannot go on, says so again
			}
			if err != nil || o.dead {
				o.failAndUnlock(err, dataFrames(frames, sent))
				return
			}
		}
		o.mu.Unlock()
	}
}

func (o *Outbox) signalDrained() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if l := o.later; l.drained != nil {
		close(l.drained)
		l.drained = nil
	}
}

// nextLocked takes what the flusher writes next: whole frames, of which the kernel
// already has the first sent bytes. It is nil if nothing waits.
func (l *later) nextLocked() (frames []byte, sent int) {
	if frames, sent = l.begun, l.begunSent; frames != nil {
		l.begun = nil
		return frames, sent
	}
	if len(l.urgent) > 0 {
		frames, l.urgent = l.urgent[0], l.urgent[1:]
		return frames, 0
	}
	for len(l.backlog) > 0 && len(frames) < flushChunk {
		head := l.backlog[0]
		n := wholeFrames(head, flushChunk-len(frames))
		if n == 0 { // the next frame is too large to be joined
			if frames != nil {
				break
			}
			n = frameLen(head)
		}
		if frames == nil {
			frames = head[:n:n] // shared, so that what is joined goes into a copy
		} else {
			frames = append(frames, head[:n]...)
		}
		if l.backlog[0] = head[n:]; n == len(head) {
			l.backlog = l.backlog[1:]
		}
	}
	if frames == nil {
		l.backlog = nil
	}
	return frames, 0
}

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
		o.mu.Lock()
		silence := o.limits.PongTimeout - (now() - o.lively) // may be too large for a sum
		deadline := time.Now().Add(min(wait, silence))
		if l := o.later; l != nil && !l.cutoff.IsZero() {
			deadline, silence = l.cutoff, time.Until(l.cutoff)
		}
		unbounded := o.Conn.SetReadDeadline(deadline) != nil && !o.dead
		o.mu.Unlock()
		if unbounded { // such as a channel of SSH
			return o.readAndPing(p)
		}
		n, err := o.Conn.Read(p)
		// Not every net.Conn has the error of a deadline that the others have.
		if n > 0 || err == nil || silence <= 0 || time.Now().Before(deadline) {
			return n, err
		}
	}
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
		if err != nil {
			wait = math.MaxInt64 // the reader finds it as well
		}
		select {
		case <-done:
			return
		case <-time.After(wait):
		}
	}
}

// ping sends a ping if it is due, and returns how long the next one will be.
func (o *Outbox) ping() (time.Duration, error) {
	o.mu.Lock()
	at := now()
	if wait := o.limits.PingInterval - (at - o.pinged); wait > 0 {
		o.mu.Unlock()
		return wait, nil
	}
	o.pinged = at
	return o.limits.PingInterval, o.controlAndUnlock(pingFrame)
}

// Write is called by gorilla alone: first with the handshake's response, then with
// one control frame at a time. It does not wait for the peer, except for the
// response.
func (o *Outbox) Write(p []byte) (int, error) {
	if !o.upgraded { // nobody else has the outbox yet
		o.upgraded = true
		o.deflated = bytes.Contains(p, []byte("\r\nSec-WebSocket-Extensions: permessage-deflate"))
		o.Conn.SetWriteDeadline(time.Now().Add(o.limits.WriteTimeout))
		n, err := o.Conn.Write(p)
		o.Conn.SetWriteDeadline(time.Time{})
		return n, err
	}
	frame := bytes.Clone(p) // gorilla uses its buffer again
	o.mu.Lock()
	if err := o.controlAndUnlock(frame); err != nil {
		return 0, err
	}
	return len(p), nil
}

// controlAndUnlock sends a control frame, without waiting.
func (o *Outbox) controlAndUnlock(frame []byte) error {
	switch {
	case o.dead:
		o.mu.Unlock()
		return net.ErrClosed
	case o.closing: // nothing follows a close frame
		o.mu.Unlock()
		return nil
	case frame[0]&0x0f == opClose:
		// An echo, or a protocol error: the peer is not interested in what waits.
		dropped := o.cutLocked(frame)
		o.mu.Unlock()
		o.owner.Lost(dropped)
		return nil
	}
	if err := o.sendControlLocked(frame, true); err != nil {
		return o.failAndUnlock(err, 0)
	}
	// A peer that sends pings and reads no pongs is slow like any other.
	if o.pending-flushChunk > o.limits.Pending {
		o.cutSlowAndUnlock()
		return nil
	}
	o.mu.Unlock()
	return nil
}

// Close is called by melody when its read loop has ended. After a close frame the
// socket stays open for Linger: a close with unread input would lose the frame.
func (o *Outbox) Close() error {
	o.mu.Lock()
	if o.closing && !o.dead {
		o.mu.Unlock()
		return nil
	}
	o.dropAndUnlock(0)
	return nil
}

// The outbox owns the deadlines: gorilla and melody would set them for one write
// or read and leave them on the socket.

func (o *Outbox) SetDeadline(time.Time) error      { return nil }
func (o *Outbox) SetReadDeadline(time.Time) error  { return nil }
func (o *Outbox) SetWriteDeadline(time.Time) error { return nil }

// Linger ends the connection when nobody reads from it any more: it lets the flusher
// finish and, unless the peer has closed too, says so and waits until it has, for
// CloseTimeout at most. When it returns, the socket is closed and no goroutine of
// the outbox is left.
func (o *Outbox) Linger(peerClosed bool) {
	o.mu.Lock()
	if !o.dead {
		o.cutOffLocked(0)
	}
	l := o.laterLocked()
	o.mu.Unlock()
	l.flushers.Wait()
	o.mu.Lock()
	dead, cutoff := o.dead, l.cutoff
	o.mu.Unlock()
	if !dead && !peerClosed {
		// TLS gives its own farewell, which may block, a deadline of its own.
		defer time.AfterFunc(time.Until(cutoff), func() { hardClose(o.Conn) }).Stop()
		if c, ok := o.Conn.(interface{ CloseWrite() error }); ok {
			c.CloseWrite()
		}
		io.Copy(io.Discard, o.Conn)
	}
	o.mu.Lock()
	o.dropAndUnlock(0)
	l.flushers.Wait()
}
