//go:build linux

package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/url"
	"strconv"

	"github.com/seed-29c60982/grouphub/bench/internal/wire"
)

// A Place is where a client begins: its hub, its rooms, and whose it is.
type Place struct {
	Hub          int
	First, Count int    // of the rooms
	User         string // empty: anonymous
}

// A stage is where a client is in the life of a connection.
type stage int

const (
	waits   stage = iota // for its turn to connect
	greets               // it has sent its request
	catches              // it is connected, and gets what it has missed
	live                 // it gets what is sent
	gone                 // it was logged out
)

// A client is one connection, and those that follow it when that breaks. It belongs to its lane.
type client struct {
	Place
	fd    int
	hub   int // that it is connected to
	stage stage
	lost  int64  // when its last connection broke; 0: it has had none
	rest  []byte // the head of a frame whose end has not come yet
	rooms []room
	left  int // rooms whose position it waits for
}

// A room is what a client knows of one.
type room struct {
	last    uint32 // number of the last event
	known   bool   // the next event is the one after the last
	told    bool   // by a Resync, since the last event, that some may be missing
	resume  string // id of the last event, or of the position after a Join
	resyncs int
}

// request asks for the rooms. With history the client wants to hear its positions, and to go on from
// those that it has.
func (c *client) request(address string, history bool) []byte {
	query := make(url.Values)
	if c.User != "" {
		query.Set("user", c.User)
	}
	if history {
		query.Set("resume", "")
		for i, r := range c.rooms {
			if r.resume != "" {
				query["resume"] = append(query["resume"], roomName(c.First+i)+"@"+r.resume)
			}
		}
	}
	return fmt.Appendf(nil, "GET /ws/%d/%d?%s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", c.First, c.Count, query.Encode(), address)
}

// Prefixes of the frames that a hub sends.
var (
	eventFrame    = []byte(`{"type":"event"`)
	positionFrame = []byte(`{"type":"grouphub.position"`)
	presenceFrame = []byte(`{"type":"presence"`)
	resyncFrame   = []byte(`{"type":"resync"`)
	roomKey       = []byte(`"group":"` + roomPrefix)
	idKey         = []byte(`"id":"`)
)

// A tally is what clients have found.
type tally struct {
	Received int // events
	Doubled  int // or out of order
	Missing  []Missing
	Told     int // events that are missing, and that a Resync has told of
	Resyncs  int
	Presence int // events of who comes and goes
}

// A Missing event came to one client never, without a Resync.
type Missing struct {
	Event
	Client int
}

// hear takes a message. It returns when the event in it was due, 0 if there is none.
func (c *client) hear(message []byte, index int, t *tally) (due int64, err error) {
	switch {
	case bytes.HasPrefix(message, eventFrame):
		r, at, err := c.room(message)
		if err != nil {
			return 0, err
		}
		wire.EachEvent(message, func(sent int64, number uint32) {
			due = sent
			t.Received++
			r.check(number, Missing{Event{at, 0}, index}, t)
		})
		if id := value(message, idKey); id != nil {
			r.resume = string(id)
		}
	case bytes.HasPrefix(message, positionFrame):
		r, _, err := c.room(message)
		if err != nil {
			return 0, err
		}
		r.resume = string(value(message, idKey))
		if c.left--; c.left == 0 {
			c.stage = live
		}
	case bytes.HasPrefix(message, resyncFrame):
		r, _, err := c.room(message)
		if err != nil {
			return 0, err
		}
		r.told = true
		r.resyncs++
		t.Resyncs++
	case bytes.HasPrefix(message, presenceFrame):
		t.Presence++
	default:
		return 0, fmt.Errorf("a client got %.80q", message)
	}
	return due, nil
}

// check follows the numbers of a room's events.
func (r *room) check(number uint32, missing Missing, t *tally) {
	switch {
	case r.known && number <= r.last:
		t.Doubled++
		return
	case r.known && r.told:
		t.Told += int(number - r.last - 1)
	case r.known:
		for missing.Number = r.last + 1; missing.Number < number; missing.Number++ {
			t.Missing = append(t.Missing, missing)
		}
	}
	r.last, r.known, r.told = number, true, false
}

// room returns the room that a message names, and its number.
func (c *client) room(message []byte) (*room, int, error) {
	at, err := strconv.Atoi(string(value(message, roomKey)))
	if err != nil || at < c.First || at >= c.First+c.Count {
		return nil, 0, fmt.Errorf("a client in %d rooms from %d on got %.80q", c.Count, c.First, message)
	}
	return &c.rooms[at-c.First], at, nil
}

// value returns what follows a key, up to the next quote; nil without the key.
func value(message, key []byte) []byte {
	_, rest, ok := bytes.Cut(message, key)
	if !ok {
		return nil
	}
	v, _, _ := bytes.Cut(rest, []byte{'"'})
	return v
}

// closeCode returns the code of a close frame, 1005 if it has none.
func closeCode(payload []byte) int {
	if len(payload) < 2 {
		return 1005
	}
	return int(binary.BigEndian.Uint16(payload))
}
