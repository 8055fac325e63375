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
	Board        int    // its dashboard; 0: none
	Stream       bool   // it has an event stream instead of a WebSocket
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
	page  page
	left  int   // rooms whose position it waits for, and the page if that is not shown yet
	since int64 // when it went live
	away  bool  // it is meant to be away for a while

	asked, answered uint32 // messages, on this connection
	askedAt         int64  // the first of those that are not answered
}

// A room is what a client knows of one.
type room struct {
	last    uint32 // number of the last event
	known   bool   // the next event is the one after the last
	told    bool   // by a Resync, since the last event, that some may be missing
	resume  string // id of the last event, or of the position after a Join
	resyncs int
	members int // as it was told last
}

// request asks for the rooms. With history the client wants to hear its positions, and to go on from
// those that it has.
func (c *client) request(address string, history bool) []byte {
	query := make(url.Values)
	resume := func(group, id string) {
		if id != "" {
			query["resume"] = append(query["resume"], group+"@"+id)
		}
	}
	if c.User != "" {
		query.Set("user", c.User)
	}
	if history {
		query.Set("resume", "")
		for i, r := range c.rooms {
			resume(roomName(c.First+i), r.resume)
		}
		resume(boardName(c.Board), c.page.resume)
	}
	head := fmt.Appendf(nil, "GET /ws/%d/%d/%d?%s HTTP/1.1\r\nHost: %s\r\n", c.First, c.Count, c.Board, query.Encode(), address)
	if c.Stream {
		return append(head, "Accept: text/event-stream\r\n\r\n"...)
	}
	return append(head, "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"...)
}

// Prefixes of the frames that a hub sends.
var (
	eventFrame    = []byte(`{"type":"event"`)
	positionFrame = []byte(`{"type":"grouphub.position"`)
	presenceFrame = []byte(`{"type":"presence"`)
	resyncFrame   = []byte(`{"type":"resync"`)
	answerFrame   = []byte(`{"type":"answer","data":`)
	snapshotFrame = []byte(`{"type":"snapshot"`)
	boardKey      = []byte(`"group":"` + boardPrefix)
	countKey      = []byte(`"count":`)
	roomKey       = []byte(`"group":"` + roomPrefix)
	idKey         = []byte(`"id":"`)
)

// A tally is what clients have found.
type tally struct {
	Received  int // events
	Doubled   int // or out of order
	Missing   []Missing
	Told      int // events that are missing, and that a Resync has told of
	Resyncs   int
	Presence  int // events of who comes and goes
	Snapshots int // of dashboards
}

// A Missing event came to one client never, without a Resync.
type Missing struct {
	Event
	Client  int
	Resyncs int // that the client had had in the room: one that follows tells of the event, too
}

// hear takes a message. It returns when the event in it was due, 0 if there is none.
func (c *client) hear(message []byte, index int, t *tally) (due int64, err error) {
	switch {
	case bytes.HasPrefix(message, answerFrame):
		c.answered++
		if n := number(message[len(answerFrame):]); n != int(c.answered) {
			return 0, fmt.Errorf("answer %d came where %d was due", n, c.answered)
		}
	case bytes.Contains(message, boardKey):
		if value(message, boardKey) == nil || string(value(message, boardKey)) != strconv.Itoa(c.Board) {
			return 0, fmt.Errorf("a client with dashboard %d got %.80q", c.Board, message)
		}
		if bytes.HasPrefix(message, snapshotFrame) {
			t.Snapshots++
		}
		shown := c.page.shown
		if err := c.page.hear(message); err != nil {
			return 0, err
		}
		if c.page.shown && !shown {
			c.catch()
		}
	case bytes.HasPrefix(message, eventFrame):
		r, at, err := c.room(message)
		if err != nil {
			return 0, err
		}
		wire.EachEvent(message, func(sent int64, number uint32) {
			due = sent
			t.Received++
			r.check(number, Missing{Event{at, 0}, index, r.resyncs}, t)
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
		c.catch()
	case bytes.HasPrefix(message, resyncFrame):
		r, _, err := c.room(message)
		if err != nil {
			return 0, err
		}
		r.told = true
		r.resyncs++
		t.Resyncs++
	case bytes.HasPrefix(message, presenceFrame):
		r, _, err := c.room(message)
		if err != nil {
			return 0, err
		}
		_, count, _ := bytes.Cut(message, countKey)
		r.members = number(count)
		t.Presence++
	default:
		return 0, fmt.Errorf("a client got %.80q", message)
	}
	return due, nil
}

// catch notes that the client has caught up with one of its groups.
func (c *client) catch() {
	if c.left--; c.left == 0 {
		c.stage = live
	}
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

// number returns the one that the text begins with, -1 if there is none.
func number(text []byte) int {
	end := bytes.IndexFunc(text, func(r rune) bool { return r < '0' || r > '9' })
	n, err := strconv.Atoi(string(text[:max(end, 0)]))
	if err != nil {
		return -1
	}
	return n
}

// closeCode returns the code of a close frame, 1005 if it has none.
func closeCode(payload []byte) int {
	if len(payload) < 2 {
		return 1005
	}
	return int(binary.BigEndian.Uint16(payload))
}
