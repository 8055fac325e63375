package outbox

import (
	"time"

	"github.com/seed-29c60982/grouphub/internal/frame"
)

// A heartbeat is a message for the peer's program, which a browser tells nothing of pings. It
// is sent when nothing else has been for a while, so that silence means that the path is dead.
var heartbeatFrame = frame.New(frame.Text, []byte(`{"type":"grouphub.heartbeat"}`), false)

// A tick is a time of the package's clock in 64ths of a second, without the bits beyond 16.
// It is so small because every idle connection has one, and it is enough to tell how long ago
// something was that is less than 1,024 seconds ago.
type tick uint16

const (
	ticksPerSecond = 64
	maxHeartbeat   = 512 * time.Second
)

func tickNow() tick { return tick(now() / (time.Second / ticksPerSecond)) }

// since returns how much time has passed.
func (t tick) since() time.Duration {
	return time.Duration(tickNow()-t) * (time.Second / ticksPerSecond)
}

// sendHeartbeat sends a heartbeat if it is due, and returns how long the next one will be.
func (o *Outbox) sendHeartbeat() (time.Duration, error) {
	interval := min(o.limits.Heartbeat, maxHeartbeat)
	o.mu.Lock()
	if wait := interval - o.pushed.since(); wait > 0 {
		o.mu.Unlock()
		return wait, nil
	}
	o.pushed = tickNow()
	if o.phase == open { // nothing follows a close frame
		if err := o.sendControlLocked(heartbeatFrame, plain); err != nil {
			return 0, o.failAndUnlock(err, 0)
		}
	}
	o.mu.Unlock()
	return interval, nil
}
