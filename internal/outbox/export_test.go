package outbox

import (
	"cmp"
	"net"
	"time"
)

// New returns an outbox whose owner is two functions. It sends no pings unless the limits
// say when.
func New(conn net.Conn, limits Limits, ending func(Ending), lost func(int)) *Outbox {
	limits.PingInterval = cmp.Or(limits.PingInterval, 1000*time.Hour)
	o := new(Outbox)
	o.Init(conn, &limits, owner{ending, lost, make(chan bool, 1)})
	return o
}

type owner struct {
	ending func(Ending)
	lost   func(int)
	left   chan bool
}

func (o owner) Ending(how Ending)  { o.ending(how) }
func (o owner) Lost(frames int)    { o.lost(frames) }
func (o owner) Left(properly bool) { o.left <- properly }

// Waiting returns what waits to be written, in bytes.
func (o *Outbox) Waiting() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.waitingLocked()
}

// Left has what the owner was told by Left.
func (o *Outbox) Left() <-chan bool { return o.owner.(owner).left }

// CountData is countData.
func (f Format) CountData(b []byte, sent int) int { return f.countData(b, sent) }
