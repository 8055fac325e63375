package grouphub

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"strings"
)

// A cursor says where the client of an event stream stands in all its groups with history
// at once. It is the id of the stream's blocks, so that an EventSource sends the last one
// when it comes back, as Last-Event-ID. To clients it is opaque: base64url of, for each
// group, a hash of its name, the number of the client's last event in it, and a fingerprint
// of that event's position. It is short, since each block has one. Another format would begin
// with a character that base64url does not have.
//
// A client can invent a cursor like any position. It can't know the fingerprint of what it
// was not given.

const (
	// partialCursor is what a cursor begins with that may not have all of the client's groups.
	partialCursor = '~'
	// maxCursor is how long a cursor may be, in characters. Servers and proxies refuse long
	// headers, and an EventSource gives up for good then. Groups that have no room get a
	// Resync when the client comes back.
	maxCursor = 4000
	// maxCursorBytes is the same before it is encoded, without the first character.
	maxCursorBytes = (maxCursor - 1) / 4 * 3
)

// A groupHash stands for a group's name in a cursor.
type groupHash [4]byte

func hashGroup(name string) (h groupHash) {
	sum := sha256.Sum256([]byte(name))
	copy(h[:], sum[:])
	return h
}

// A fingerprint stands for a position's epoch and nonce in a cursor. Each guess takes a
// request.
type fingerprint [5]byte

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

// appendCursor appends a cursor of these entries, as many as have room. It is partial if that
// is not all of them, or if the caller does not know whether these are all of the client's
// groups.
func appendCursor(to []byte, whole bool, entries ...cursorEntry) []byte {
	var room [256]byte // on the stack, where nearly all cursors fit in
	raw := room[:0]
	for _, e := range entries {
		if len(raw)+len(e.group)+binary.MaxVarintLen64+len(e.print) > maxCursorBytes {
			whole = false
			break
		}
		raw = append(raw, e.group[:]...)
		raw = binary.AppendUvarint(raw, e.number)
		raw = append(raw, e.print[:]...)
	}
	if !whole {
		to = append(to, partialCursor)
	}
	return base64.RawURLEncoding.AppendEncode(to, raw)
}

// parseCursor reads a cursor, which a stranger may have made up. It is whole if the client was
// in no other group with history. What is no cursor is not whole, and says nothing.
func parseCursor(s string) (entries map[groupHash]cursorEntry, whole bool) {
	if len(s) > maxCursor {
		return nil, false
	}
	s, partial := strings.CutPrefix(s, string(partialCursor))
	raw, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		return nil, false
	}
	entries = make(map[groupHash]cursorEntry)
	for len(raw) > 0 {
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
	return entries, !partial
}
