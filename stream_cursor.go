package grouphub

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"slices"
	"time"

	"github.com/seed-29c60982/grouphub/internal/eventstream"
	"github.com/seed-29c60982/grouphub/internal/outbox"
	"github.com/seed-29c60982/grouphub/internal/sequence"
)

// In groups with history the blocks of a stream end with a cursor. It covers all of the
// connection's groups with history, so that the last cursor that a client has says where it
// stands. With one such group the cursor is the same for all members, and so are the bytes
// of a block; with several it is the connection's own.

// cursorEntry returns what a cursor says of the event.
func (d *delivery) cursorEntry() cursorEntry {
	entry := d.entry.Load()
	if entry == nil { // others may make the same one meanwhile
		entry = &cursorEntry{d.group.hash, d.at.Number, fingerprintOf(d.at)}
		d.entry.Store(entry)
	}
	return *entry
}

// ownCursor appends the cursor of a connection that is in no other group with history.
func ownCursor(to []byte, d *delivery) []byte { return appendCursor(to, true, d.cursorEntry()) }

// rejoinTime is for how long after Connect a group that the client was in stays in its
// cursors, while it has not been joined again. It is for clients that ask for their groups by
// messages. After that the client is taken to have done with the group.
const rejoinTime = 5 * time.Minute

// A streamPlaces says where the client of a stream stands in its groups with history, once it
// has the blocks that were pushed.
type streamPlaces struct {
	joined  []cursorEntry // in groups that it has been in since it came
	pending []cursorEntry // in groups that it has brought with it, and has not joined yet
	whole   bool          // there are no others
}

// share reports whether the client has the same cursor as all others that are in a group
// alone.
func (p *streamPlaces) share(g *group) bool {
	return p.whole && len(p.pending) == 0 && (len(p.joined) == 0 || len(p.joined) == 1 && p.joined[0].group == g.hash)
}

// appendCursor appends the cursor of all places. If they have no room, those of the groups that
// the client is in come first.
func (p *streamPlaces) appendCursor(to []byte) []byte {
	if len(p.pending) == 0 {
		return appendCursor(to, p.whole, p.joined...)
	}
	return appendCursor(to, p.whole, slices.Concat(p.joined, p.pending)...)
}

// advance moves the client's place in a group.
func (p *streamPlaces) advance(to cursorEntry) {
	for i := range p.joined {
		if p.joined[i].group == to.group {
			p.joined[i] = to
			return
		}
	}
	p.joined = append(p.joined, to)
	p.pending = withoutGroup(p.pending, to.group)
}

// of returns the client's place in a group, and whether it has one.
func (p *streamPlaces) of(g *group) (e cursorEntry, ok bool) {
	for _, entries := range [][]cursorEntry{p.joined, p.pending} {
		for _, e := range entries {
			if e.group == g.hash {
				return e, true
			}
		}
	}
	return e, false
}

// retreat undoes an advance.
func (p *streamPlaces) retreat(g *group, to cursorEntry, known bool) {
	if known {
		p.advance(to)
	} else {
		p.joined = withoutGroup(p.joined, g.hash)
	}
}

// leave removes the client's place in a group.
func (p *streamPlaces) leave(g *group) {
	p.joined = withoutGroup(p.joined, g.hash)
	p.pending = withoutGroup(p.pending, g.hash)
}

func withoutGroup(entries []cursorEntry, group groupHash) []cursorEntry {
	return slices.DeleteFunc(entries, func(e cursorEntry) bool { return e.group == group })
}

// push pushes a batch. Shared is what members get that are in no other group with history.
func (s *stream) push(c *Conn, w *outbox.Writer, batch []*delivery, shared *composition) error {
	last := lastNumbered(batch)
	if last == nil {
		return c.pushComposed(w, shared)
	}
	s.mu.Lock()
	defer s.mu.Unlock() // behind the push: one cursor must not overtake another
	s.forgetLocked()
	before, known := s.places.of(last.group)
	err := s.pushLocked(c, w, batch, last, shared)
	if err == outbox.ErrBehind {
		// Some of the batch was refused, so that a later cursor must not say that the client has
		// it. Of what was not refused the client gets some again, if it comes back before its Resync.
		s.places.retreat(last.group, before, known)
	}
	return err
}

// pushLocked pushes a batch, of which this is the last event that has a position.
func (s *stream) pushLocked(c *Conn, w *outbox.Writer, batch []*delivery, last *delivery, shared *composition) error {
	if s.places.share(last.group) {
		s.places.advance(last.cursorEntry())
		return c.pushComposed(w, shared)
	}
	own := c.hub.composeBlocks(c.variant(), batch, func(to []byte, d *delivery) []byte {
		s.places.advance(d.cursorEntry())
		return s.places.appendCursor(to)
	})
	return c.pushComposed(w, &own)
}

// lastNumbered returns the last event of a batch that has a position, nil if none has.
func lastNumbered(batch []*delivery) *delivery {
	for _, d := range slices.Backward(batch) {
		if d.id != "" {
			return d
		}
	}
	return nil
}

// resumesFrom returns where the replay of a group begins for a client that has come back, and
// whether it resumes at all. A group that its cursor does not have is new to it, and so is one
// that this connection has left. If the cursor does not have all groups, or is none, nobody
// knows where the client was.
func (s *stream) resumesFrom(g *group) (r sequence.Replay, resumes bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forgetLocked()
	e, ok := s.begin[g.hash]
	if !s.resumes || s.left[g.hash] || !ok && s.places.whole {
		return r, false
	}
	r.From = true
	if ok {
		r.Mark = &sequence.Mark{Number: e.number, Is: func(at Position) bool { return fingerprintOf(at) == e.print }}
	}
	return r, true
}

// connectReturned begins the time in which the client has to join again the groups that it was
// in, for them to stay in its cursors.
func (s *stream) connectReturned() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.connected = uptime()
}

// forgetLocked has the cursors say nothing any more of groups that the client was in, and has
// not joined again for long.
func (s *stream) forgetLocked() {
	if s.places.whole && len(s.places.pending) == 0 || s.connected == 0 || uptime()-s.connected < rejoinTime {
		return
	}
	s.places.pending, s.places.whole, s.left = nil, true, nil
}

// resumeLater notes to where a replay has come. Another Join goes on from there if this one
// does not come to its end.
func (s *stream) resumeLater(g *group, at Position) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.begin != nil {
		s.begin[g.hash] = cursorEntry{g.hash, at.Number, fingerprintOf(at)}
	}
}

// sendPosition tells the client where it stands when it has joined a group, so that it can come
// back before its first event, and after an event that had no block of its own.
func (s *stream) sendPosition(c *Conn, g *group, at Position) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.places.advance(cursorEntry{g.hash, at.Number, fingerprintOf(at)})
	if s.cursors {
		s.forgetLocked()
		cursor := s.places.appendCursor(nil)
		// This fails only if the connection is ending anyway.
		_ = c.outbox.Push(eventstream.AppendBlock(nil, eventstream.Position, nil, string(cursor)))
	}
}

// leave notes that the client is no longer a member of a group.
func (s *stream) leave(g *group) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.begin, g.hash)
	s.places.leave(g)
	if s.places.whole { // a group that the client has not brought with it is new
		return
	}
	if s.left == nil {
		s.left = make(map[groupHash]bool)
	}
	s.left[g.hash] = true
}

// composeBlocks is compose for event streams. The function appends an event's cursor.
func (h *Hub) composeBlocks(v variant, batch []*delivery, appendCursor func(to []byte, d *delivery) []byte) composition {
	var composed composition
	var cursor, forward []byte // reused for each event
	for i, d := range batch {
		if d.closes() {
			continue
		}
		handler := v.handlerOf(d)
		var text []byte
		switch handler.kind {
		case handlerNone:
			composed.unhandled++
			continue
		case handlerIgnore:
			continue
		case handlerHandle:
			composed.handle = true
			continue
		case handlerForward:
			forward = d.env.AppendText(forward[:0], d.id)
			text = forward
		case handlerRender:
			var ok bool
			if text, ok = d.rendering(v.endpoint); !ok {
				composed.failed++
			}
			if text == nil {
				continue
			}
			if handler.binary {
				text = base64.StdEncoding.AppendEncode(nil, text)
				handler.name = cmp.Or(handler.name, eventstream.Binary)
			}
		}
		cursor = cursor[:0]
		if v.encoding == encodingCursorBlocks && d.id != "" {
			cursor = appendCursor(cursor, d)
		}
		size := eventstream.BlockSize(handler.name, text, "") + len("id: \n") + len(cursor)
		if composed.bytes == nil {
			// Room for the whole batch at once, because each connection in several groups with
			// history has its own. A later cursor can be a little longer than the first.
			for _, later := range batch[i+1:] {
				size += len("data: \n\nid: \n") + later.env.FrameSize(later.id) + len(cursor) + 1
			}
		}
		start := len(composed.bytes)
		composed.bytes = eventstream.AppendBlock(slices.Grow(composed.bytes, size), handler.name, text, string(cursor))
		composed.frames++
		if v.positions && handler.kind == handlerRender && d.id != "" && (handler.binary || !bytes.Contains(text, []byte(d.id))) {
			composed.bytes = eventstream.AppendBlock(composed.bytes, "", d.position(), "")
		}
		composed.noteKey(start, d.key)
	}
	composed.endSpans()
	composed.bytes = slices.Clip(composed.bytes)
	return composed
}
