package redis

import (
	"bytes"
	"strconv"
	"sync"
	"time"
)

// A clock is what a session knows of its server's time, by which it tells how late a
// publication is that was kept: the connection may have stood still for a while. What it
// knows, it has from heartbeats, each of which brings the time at which the server passed it
// on: that was between its sending and its coming.
//
// A publication must not be taken for older than it is. So a clock goes by the latest moment
// that is possible, and only by the last two heartbeats: by the one before the last if that
// took less time to come, and if the server's time has not been set meanwhile.
//
// Until the next heartbeat the clock does not know that the server's time has been set. But what
// comes after a heartbeat was published after that had been sent, so an age that is more is not
// believed: a close would otherwise spare everybody.
type clock struct {
	mu       sync.Mutex
	token    string // of the heartbeat that is under way, which nobody can guess
	sent     time.Time
	begun    time.Time // when the last one that has come had been sent
	last     offset
	previous offset
}

// An offset is by how much the server's time is ahead of this process's. Its zero value
// knows nothing.
type offset struct {
	known       bool
	least, most time.Duration
}

// clockStart is from when a process counts. Its clock is not set meanwhile.
var clockStart = time.Now()

// send returns what a heartbeat has to bring back besides the time.
func (c *clock) send() (token string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.token, c.sent = newWord(), time.Now()
	return c.token
}

// receive takes a heartbeat that has come, "<microseconds since 1970> <token>". One that this
// session has not sent says nothing.
func (c *clock) receive(beat []byte, now time.Time) {
	digits, token, _ := bytes.Cut(beat, []byte{' '})
	micros, err := strconv.ParseInt(string(digits), 10, 64)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil || c.token == "" || string(token) != c.token {
		return
	}
	c.token, c.begun = "", c.sent
	passed := time.UnixMicro(micros).Sub(time.Unix(0, 0))
	c.previous = c.last
	c.last = offset{true, passed - now.Sub(clockStart), passed - c.sent.Sub(clockStart)}
}

// age returns for how long a publication has existed at least that was kept at a server's
// time, give or take a millisecond. It is 0 if nothing is known.
func (c *clock) age(kept time.Duration, now time.Time) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.last.known || kept == 0 {
		return 0
	}
	ahead := c.last.least
	if c.previous.known && c.previous.least <= c.last.most {
		ahead = max(ahead, c.previous.least)
	}
	age := now.Sub(clockStart) + ahead - kept
	if age > now.Sub(c.begun)+time.Millisecond { // which a time is precise to
		return 0
	}
	return max(age, 0)
}
