// Package outbox writes to a WebSocket connection's socket without ever waiting for
// the peer.
package outbox

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/time/rate"

	"github.com/seed-29c60982/grouphub/internal/frame"
)

// ErrClosed means that nothing can be sent any more, ErrSlow that this is for having too
// much waiting. ErrBehind means that the connection is open and has as many replaceable frames
// waiting as it may.
var (
	ErrClosed = errors.New("connection is closing")
	ErrSlow   = fmt.Errorf("%w: it was too slow", ErrClosed)
	ErrBehind = errors.New("too much waits that can be replaced")
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
	deflated bool            // static once the phase is open: permessage-deflate was negotiated
	format   Format          // static
	phase    phase           // what is still sent
	writing  writing         // who writes to the socket
	slow     bool            // it was closed for having too much waiting
	code     uint16          // of the close frame; 0 while there is none
	pushed   tick            // when frames were pushed last; kept for heartbeats only
	mu       sync.Mutex      // guards what is not static, from the phase on
	pending  int             // bytes that wait in the backlog
	extra    *extra          // nil while nothing has had to wait

	lively time.Duration // when the peer gave a sign of life, by the package's clock
	pinged time.Duration // when it was sent a ping, or could be sent the first, likewise

	intake *intake // owned by the reader

	// Static after Init.
	net.Conn // the hijacked connection; addresses and real I/O
	limits   *Limits
	owner    Owner
}

// A phase says what an outbox still sends:
//
//	handshaking ──▶ open ──▶ closing
//	     │           │          │
//	     │           ▼          │
//	     └────────▶ dead ◀──────┘
type phase uint8

const (
	handshaking phase = iota // the next Write is the answer to the handshake; nobody else has the outbox
	open                     // everything is sent
	closing                  // a close frame is sent or queued, and nothing follows it
	dead                     // a write failed, or the socket is closed
)

// A writing says who writes to the socket:
//
//	held ──▶ directly ◀──▶ flushing
//	  │                      ▲
//	  └──────────────────────┘
//
// It is directly from Init on, and held from the answer to the handshake on.
type writing uint8

const (
	directly writing = iota // whoever sends
	held                    // nobody, until Release: what is sent joins the backlog
	flushing                // a flusher: what is sent joins the backlog
)

// An extra is what an outbox needs only when something cannot be written at once, or when it
// ends. It is guarded by the outbox's mu.
type extra struct {
	answer   []byte // to the handshake; goes out before the backlog
	backlog  backlog
	cutoff   time.Time // when not zero, reads and writes end here
	waiters  []*waiter // in the order in which they came
	written  int       // bytes of the backlog that the kernel has taken so far
	flushers sync.WaitGroup
	// lingering says that Linger reads, and no longer the reader.
	lingering bool
}

// An Owner is told what becomes of an outbox. It is not called with a lock held.
type Owner interface {
	Ending(how Ending) // the connection ends on this side; with Closed for every CloseWith
	Lost(frames int)   // data frames that will never be written
	Superseded(n int)  // so many replaceable parts have been replaced

	// Left is called by Await when the peer has left, once. Properly means that it may have
	// sent a close frame, behind what is still to be read.
	Left(properly bool)
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
	Pending      int           // bytes that may wait of each class, where each pushed buffer counts for 48 more
	PingInterval time.Duration // between two pings
	Heartbeat    time.Duration // without a pushed frame, until a heartbeat is; 0: there are none; at most maxHeartbeat
	PongTimeout  time.Duration // without a byte from the peer
	WriteTimeout time.Duration // without a byte taken by the peer; it may be noticed after twice that
	CloseTimeout time.Duration // for the peer's answer to a close frame
	ReceiveRate  float64       // frames per second that are read, on average; 0: no limit
	ReceiveBurst int           // frames that may be read at once
}

// Init makes the outbox that of a connection that is about to be upgraded to a WebSocket. The
// limits may be shared, and are not to be changed any more.
func (o *Outbox) Init(conn net.Conn, limits *Limits, owner Owner) {
	o.Conn, o.limits, o.owner, o.pinged, o.pushed = conn, limits, owner, now(), tickNow()
	o.intake = new(intake)
	if limits.ReceiveRate > 0 {
		o.intake.limiter = rate.NewLimiter(rate.Limit(limits.ReceiveRate), limits.ReceiveBurst)
	}
	// Only the exact types are written raw: anything that wraps them may transform
	// the bytes, as TLS does.
	switch c := conn.(type) {
	case *net.TCPConn:
		o.raw, _ = c.SyscallConn()
	case *net.UnixConn:
		o.raw, _ = c.SyscallConn()
	}
}

// InitStream makes the outbox that of an event stream. The head is what the stream begins
// with; it is held until Release. The client of a stream never says anything, so the limits'
// PongTimeout should be long.
func (o *Outbox) InitStream(conn net.Conn, limits *Limits, owner Owner, head []byte) {
	o.Init(conn, limits, owner)
	o.format, o.phase, o.writing = EventStream, open, held
	o.extraLocked().answer = head
}

// InitIdle makes the outbox one without a connection, for a member that has no client. Nothing may
// be pushed to it, and it cannot be closed.
func (o *Outbox) InitIdle(limits *Limits) { o.limits, o.phase = limits, open }

// now is the package's clock: times of it take a third of a time.Time's memory.
func now() time.Duration { return time.Since(start) }

var start = time.Now()

// Deflated reports whether the handshake negotiated permessage-deflate. It must not be
// called before the handshake is over.
func (o *Outbox) Deflated() bool { return o.deflated }

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
func (o *Outbox) PushWith(w *Writer, frames []byte) error { return o.PushSpans(w, frames, nil) }

// PushSpans is PushWith for frames of which some are replaceable. What the kernel takes at
// once is sent as it is; of the parts with one key that have to wait, the last one does. A
// connection is not closed for having replaceable parts waiting: if there are too many, the
// first one that has no room is refused with what is behind it, counted as lost, and the error
// is ErrBehind. The spans cover all frames; they are shared, and not changed any more.
func (o *Outbox) PushSpans(w *Writer, frames []byte, spans []Span) error {
	o.mu.Lock()
	if o.phase != open {
		slow := o.slow
		o.mu.Unlock()
		if slow { // it would have had these, had it kept up
			o.owner.Lost(o.format.countData(frames, 0))
			return ErrSlow
		}
		return ErrClosed
	}
	if o.limits.Heartbeat > 0 {
		o.pushed = tickNow()
	}
	waiting := o.slownessLocked()
	added, err := o.sendLocked(w, frames, plain, spans)
	if err != nil {
		return o.failAndUnlock(err, o.format.countData(frames, 0))
	}
	// What counts is what waited already: an event of any permitted size must be
	// deliverable to a connection that keeps up.
	if waiting > o.limits.Pending && (spans == nil || added.plain) {
		o.cutSlowAndUnlock()
		return ErrSlow
	}
	if err := o.releaseFullLocked(w); err != nil {
		return o.failAndUnlock(err, 0)
	}
	o.mu.Unlock()
	if added.superseded > 0 {
		o.owner.Superseded(added.superseded)
	}
	if added.refused > 0 {
		o.owner.Lost(added.refused)
		return ErrBehind
	}
	return nil
}

// controlAndUnlock sends a control frame, without waiting. Unlike data it never makes a
// connection slow, however much waits: two frames more at the most wait for it.
func (o *Outbox) controlAndUnlock(control []byte) error {
	switch {
	case o.phase == dead:
		o.mu.Unlock()
		return net.ErrClosed
	case o.phase == closing: // nothing follows a close frame
		o.mu.Unlock()
		return nil
	case o.format == WebSocket && frame.Opcode(control) == frame.Close:
		// An echo, or a protocol error: the peer is not interested in what waits.
		dropped := o.cutLocked(frame.CloseCode(control), control)
		o.mu.Unlock()
		o.owner.Lost(dropped)
		return nil
	}
	if err := o.sendControlLocked(control, urgent); err != nil {
		return o.failAndUnlock(err, 0)
	}
	o.mu.Unlock()
	return nil
}

// slownessLocked returns what makes a connection slow, in bytes: the plain frames that wait.
func (o *Outbox) slownessLocked() int {
	if o.pending == 0 {
		return 0
	}
	b := &o.extra.backlog
	return o.pending - b.of(replaceable) - b.of(awaited) + overhead*b.entries[plain]
}

func (o *Outbox) sendControlLocked(control []byte, c class) error {
	w := BorrowWriter()
	defer w.Return()
	_, err := o.sendLocked(w, control, c, nil)
	return err
}

// sendLocked writes frames if nothing waits, and queues what the kernel does not take. The
// class is that of frames without spans.
func (o *Outbox) sendLocked(w *Writer, frames []byte, c class, spans []Span) (a addition, err error) {
	if o.writing != directly {
		b := &o.extra.backlog
		if spans != nil {
			b.addSpans(frames, 0, spans, o.limits.Pending, &a)
		} else {
			a.more = b.add(frames, c)
		}
		o.pending += a.more
		return a, nil
	}
	sent := 0
	if o.raw != nil {
		if sent, err = w.write(o.raw, frames); err != nil {
			return a, err
		}
		if sent == len(frames) {
			return a, nil
		}
	}
	b := &o.extraLocked().backlog
	a = b.addRest(frames, sent, c, spans, o.limits.Pending)
	o.pending = a.more
	o.startFlusherLocked()
	return a, nil
}

// Release lets the answer to the handshake go out, and then what has been sent since. A peer
// that has the answer takes its connection for open, so that nothing may be missing by then.
// A close, and more than half of what may wait, release the outbox as well. Only the first of
// several calls does something.
func (o *Outbox) Release() {
	w := BorrowWriter()
	defer w.Return()
	o.mu.Lock()
	if err := o.releaseLocked(w); err != nil {
		o.failAndUnlock(err, 0)
		return
	}
	o.mu.Unlock()
}

// releaseFullLocked releases the outbox if more than half of what may wait is held.
func (o *Outbox) releaseFullLocked(w *Writer) error {
	if o.writing == held && o.pending > o.limits.Pending/2 {
		return o.releaseLocked(w)
	}
	return nil
}

func (o *Outbox) releaseLocked(w *Writer) error {
	if o.writing != held || o.phase == dead {
		return nil
	}
	o.lively, o.pinged = now(), now()  // before, the peer had nothing to answer
	o.Conn.SetReadDeadline(time.Now()) // so that the reader sees that pings will be due
	x := o.extra
	if o.raw != nil {
		sent, err := w.write(o.raw, x.answer)
		if err != nil {
			return err
		}
		x.answer = x.answer[sent:]
		if len(x.answer) == 0 {
			return o.writeBacklogLocked(w)
		}
	}
	o.startFlusherLocked()
	return nil
}

// writeBacklogLocked writes what waits. A flusher goes on if the kernel does not take it all.
func (o *Outbox) writeBacklogLocked(w *Writer) error {
	x := o.extra
	for {
		frames, _ := x.backlog.next()
		if frames == nil {
			o.writing, o.extra = directly, nil
			return nil
		}
		sent, err := w.write(o.raw, frames)
		if err != nil {
			x.backlog.putBack(frames, sent) // so that it is counted as lost
			return err
		}
		x.backlog.written(sent)
		if o.pending -= sent; sent < len(frames) {
			x.backlog.putBack(frames, sent)
			o.startFlusherLocked()
			return nil
		}
	}
}

func (o *Outbox) extraLocked() *extra {
	if o.extra == nil {
		o.extra = &extra{backlog: backlog{format: o.format}}
	}
	return o.extra
}
