package grouphub

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
)

// A cursor says where the client of an event stream stands in all its groups with history
// at once. It is the id of the stream's blocks, so that an EventSource sends the last one
// when it comes back, as Last-Event-ID. To clients it is opaque: base64url of a version
// and, for each group, a hash of its name, the number of the client's last event in it, and
// a fingerprint of that event's position.
//
// A client can invent a cursor like any position. It can't know the fingerprint of what it
// was not given.

const (
	cursorVersion = 1
	// maxCursor is how long a cursor may be, in characters. Servers and proxies refuse long
	// headers, and an EventSource gives up for good then. Groups that have no room get a
	// Resync when the client comes back.
	maxCursor = 4000
	// maxCursorBytes is the same before it is encoded.
	maxCursorBytes = maxCursor / 4 * 3
)

// A groupHash stands for a group's name in a cursor.
type groupHash [4]byte

func hashGroup(name string) (h groupHash) {
	sum := sha256.Sum256([]byte(name))
	copy(h[:], sum[:])
	return h
}

// A fingerprint stands for a position's epoch and nonce in a cursor.
type fingerprint [6]byte

func fingerprintOf(at Position) (f fingerprint) {
	sum := sha256.Sum256([]byte(at.Epoch + "." + at.Nonce))
	copy(f[:], sum[:])
	return f
}

// A cursorEntry is a client's place in one group.
type cursorEntry struct {
	group  groupHash
	number uint64
	print  fingerprint
}

// appendCursor appends a cursor of these entries, as many as have room.
func appendCursor(to []byte, entries ...cursorEntry) []byte {
	var room [256]byte // on the stack, where nearly all cursors fit in
	raw := append(room[:0], cursorVersion)
	for _, e := range entries {
		if len(raw)+len(e.group)+binary.MaxVarintLen64+len(e.print) > maxCursorBytes {
			break
		}
		raw = append(raw, e.group[:]...)
		raw = binary.AppendUvarint(raw, e.number)
		raw = append(raw, e.print[:]...)
	}
	return base64.RawURLEncoding.AppendEncode(to, raw)
}

// parseCursor reads a cursor, which a stranger may have made up.
func parseCursor(s string) (entries map[groupHash]cursorEntry, ok bool) {
	if len(s) > maxCursor {
		return nil, false
	}
	raw, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil || len(raw) == 0 || raw[0] != cursorVersion {
		return nil, false
	}
	entries = make(map[groupHash]cursorEntry)
	for raw = raw[1:]; len(raw) > 0; {
		var e cursorEntry
		raw = raw[copy(e.group[:], raw):]
		number, n := binary.Uvarint(raw)
		if n <= 0 || len(raw) < n+len(e.print) {
			return nil, false
		}
		e.number = number
		copy(e.print[:], raw[n:])
		raw = raw[n+len(e.print):]
		entries[e.group] = e
	}
	return entries, true
}
