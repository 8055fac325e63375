package outbox

import (
	"cmp"
	"net"
	"sync/atomic"
	"time"
)

// New returns an outbox whose owner is two functions. It sends no pings unless the limits
// say when.
func New(conn net.Conn, limits Limits, ending func(Ending), lost func(int)) *Outbox {
	limits.PingInterval = cmp.Or(limits.PingInterval, 1000*time.Hour)
	o := new(Outbox)
	o.Init(conn, &limits, owner{ending, lost, make(chan bool, 1), new(atomic.Int64)})
	return o
}

type owner struct {
	ending     func(Ending)
	lost       func(int)
	left       chan bool
	superseded *atomic.Int64
}

func (o owner) Ending(how Ending)  { o.ending(how) }
func (o owner) Lost(frames int)    { o.lost(frames) }
func (o owner) Superseded(n int)   { o.superseded.Add(int64(n)) }
func (o owner) Left(properly bool) { o.left <- properly }

// Waiting returns what waits to be written, in bytes.
func (o *Outbox) Waiting() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.slownessLocked()
}

// Left has what the owner was told by Left.
func (o *Outbox) Left() <-chan bool { return o.owner.(owner).left }

// CountData is countData.
func (f Format) CountData(b []byte, sent int) int { return f.countData(b, sent) }

// Superseded returns how many parts the owner was told of that have been replaced.
func (o *Outbox) Superseded() int { return int(o.owner.(owner).superseded.Load()) }
