package grouphub

import (
	"cmp"
	"context"
	"time"
	"unicode/utf8"

	"github.com/gorilla/websocket"

	"github.com/seed-29c60982/grouphub/internal/outbox"
)

// This file is a connection's life after its upgrade, in order: connect, read, receive,
// handle, end, finish.
//
// Its callbacks run one at a time on the connection's strand. What ends it is the end of
// its read loop, which follows from the client's close frame, from a dead socket, and from
// a close of this side once the client has answered or has had its time.

const (
	// disconnectTimeout is how long a Disconnect's context lives.
	disconnectTimeout = 5 * time.Second
	// drainTimeout is how long the messages that a client sent before it closed may
	// keep the connection's context alive.
	drainTimeout = time.Second
)

// connect runs Connect on the handler's goroutine. When it returns, the client sees the
// connection open, and the strand runs what has come meanwhile.
func (c *Conn) connect() {
	defer c.strand.Release()
	defer c.outbox.Release()
	if !c.startExpiry() { // Connect is not called
		c.outbox.CloseWith(closeUnauthorized, "session expired")
		c.connected = false
	}
	if c.User().ID != "" && c.connected {
		c.connected = false
		c.call("join the user's group", func() error {
			err := c.joinUserGroup()
			c.connected = err == nil
			return err
		})
	}
	if fn := c.endpoint.consumer.Connect; fn != nil && c.connected {
		c.call("connect", func() error { return fn(c) })
	}
	if c.stream != nil {
		c.stream.connectReturned()
	}
	c.request.pack()
}

// read reads messages until that fails. It does so for melody, which would read a
// message whole before it looks at its size, and keep a goroutine for each connection
// that only sends pings.
func (c *Conn) read(conn *websocket.Conn) {
	code := readMessages(conn, c.hub.options.MaxMessageSize, c.outbox.Packed, c.receive, c.outbox.CloseWith)
	c.peerCode.Store(int32(code))
}

// receive takes a message from the reader, and waits while another one waits.
func (c *Conn) receive(data []byte, binary bool) {
	if !binary && !utf8.Valid(data) { // gorilla does not check it
		c.outbox.CloseWith(closeInvalidData, "text is not valid UTF-8")
		return
	}
	c.hub.count.received.Add(1)
	if receive := c.endpoint.consumer.Receive; receive != nil {
		c.strand.Message(func() {
			c.call("receive", func() error { return receive(c, Message{Data: data, Binary: binary}) })
		})
	}
}

// variant says what bytes of an event the connection has in common with others.
func (c *Conn) variant() variant {
	positions := c.endpoint.renders && c.wantsPositions
	switch {
	case c.stream != nil && c.stream.cursors:
		return variant{c.endpoint, encodingCursorBlocks, false}
	case c.stream != nil:
		return variant{c.endpoint, encodingBlocks, positions}
	case c.outbox.Deflated():
		return variant{c.endpoint, encodingDeflatedFrames, positions}
	}
	return variant{c.endpoint, encodingFrames, positions}
}

// queueHandlers queues the Handle calls for a batch, and returns the last one's error. It is
// for events that have no order with others: see order.go. It stops at ErrBehind.
func (c *Conn) queueHandlers(m *membership, batch []*delivery, sent *tally) (err error) {
	v := c.variant()
	for i, d := range batch {
		if h := v.handlerOf(d); h.kind == handlerHandle && !d.closes() {
			e := d.event()
			_, err = c.queueLatest(m, d.key, callSize(e), func() { c.handle(h, e) })
		}
		if err == outbox.ErrBehind {
			sent.dropped += v.countWithout(batch[i:], len(batch))
			break
		}
	}
	return err
}

// callSize is how many bytes a Handle call that waits for its turn counts for.
func callSize(e Event) int { return len(e.Data) + len(e.Type) + len(e.Group) }

// handle calls a Handle function.
func (c *Conn) handle(h EventHandler, e Event) {
	c.call("handle "+quoted(e.Type), func() error { return h.handle(c, e) })
}

// queueCallback queues a callback of so many bytes without waiting. Its errors are those
// of the outbox's Push.
func (c *Conn) queueCallback(size int, run func()) error {
	ok, full := false, true
	if c.subscriber == nil || !c.subscriber.late.Load() {
		ok, full = c.strand.Event(size, run)
	}
	switch {
	case ok:
		return nil
	case !full:
		return outbox.ErrClosed
	case c.subscriber != nil:
		c.fallBehind()
	case c.outbox.CloseWith(closeTryAgainLater, "too slow") == nil:
		c.hub.count.slowClosed.Add(1)
	}
	c.hub.count.dropped.Add(1)
	return outbox.ErrSlow
}

// A connOwner is the Conn as its outbox and its strand see it.
type connOwner Conn

func (o *connOwner) Lost(frames int)            { o.hub.count.dropped.Add(uint64(frames)) }
func (o *connOwner) Superseded(n int)           { o.hub.count.superseded.Add(uint64(n)) }
func (o *connOwner) Spawn(f func())             { o.hub.callbacks.Go(f) }
func (o *connOwner) Wait(taken <-chan struct{}) { o.outbox.Await(taken) }
func (o *connOwner) Idle()                      { (*Conn)(o).finish() }
func (o *connOwner) Limit() int                 { return o.hub.limits.Pending }

func (o *connOwner) Left(properly bool) {
	c := (*Conn)(o)
	if properly {
		c.startDrainTimer()
	} else {
		c.finish()
	}
}

func (o *connOwner) Ending(how outbox.Ending) {
	c := (*Conn)(o)
	if how != outbox.Closed && c.peerCode.Load() != 0 {
		return // the client has closed already: see end
	}
	c.hub.count.dropped.Add(uint64(c.strand.Close()))
	switch how {
	case outbox.Slow:
		c.hub.count.slowClosed.Add(1)
	case outbox.Dead:
		c.cancel()
	}
}

// end is called when the read loop has ended. The messages that a client sent before it
// closed are still handled, until this side closes or drainTimeout is over.
func (c *Conn) end() {
	if c.peerCode.Load() == 0 {
		c.finish()
		return
	}
	dropped, waiting := c.strand.Drain()
	if !waiting {
		c.finish()
		return
	}
	c.hub.count.dropped.Add(uint64(dropped))
	c.startDrainTimer()
}

// startDrainTimer gives the messages that a client sent before it left their time, which begins
// once.
func (c *Conn) startDrainTimer() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.ended && c.drainTimer == nil {
		c.drainTimer = time.AfterFunc(drainTimeout, c.finish)
	}
}

// finish cancels the context, leaves the groups, and queues Disconnect behind the
// callback that runs.
func (c *Conn) finish() {
	if c.finished.Swap(true) {
		return
	}
	c.cancel()
	c.hub.leaveAll(c)
	if c.drainTimer != nil { // ended is set, so no other timer will be
		c.drainTimer.Stop() // or the timer would keep the connection in memory
	}
	dropped := c.strand.Last(c.disconnect)
	c.hub.count.dropped.Add(uint64(dropped))
}

// disconnect calls Disconnect, as the last callback.
func (c *Conn) disconnect() {
	defer c.hub.callbacks.done()
	c.stopExpiry()
	fn := c.endpoint.consumer.Disconnect
	if fn == nil || !c.connected {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.ctx), disconnectTimeout)
	defer cancel()
	c.call("disconnect", func() error { fn(ctx, c, cmp.Or(c.outbox.Code(), closeAbnormal)); return nil })
}
