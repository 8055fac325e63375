package grouphub

import (
	"bytes"
	"slices"

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
	d.entryOnce.Do(func() { d.entry = cursorEntry{d.group.hash, d.at.Number, fingerprintOf(d.at)} })
	return d.entry
}

// ownCursor appends the cursor of a connection that is in no other group with history.
func ownCursor(to []byte, d *delivery) []byte { return appendCursor(to, d.cursorEntry()) }

// push pushes a batch. Shared is what members get that are in no other group with history.
func (s *stream) push(c *Conn, w *outbox.Writer, batch []*delivery, shared *composition) error {
	last := lastNumbered(batch)
	if last == nil {
		return c.pushComposed(w, shared)
	}
	s.mu.Lock()
	defer s.mu.Unlock() // behind the push: one cursor must not overtake another
	if len(s.places) == 0 || len(s.places) == 1 && s.places[0].group == last.group.hash {
		s.advanceLocked(last.cursorEntry())
		return c.pushComposed(w, shared)
	}
	own := c.hub.composeBlocks(c.variant(), batch, func(to []byte, d *delivery) []byte {
		s.advanceLocked(d.cursorEntry())
		return appendCursor(to, s.places...)
	})
	return c.pushComposed(w, &own)
}

// lastNumbered returns the last event of a batch that has a position, nil if none has.
func lastNumbered(batch []*delivery) *delivery {
	for _, d := range slices.Backward(batch) {
		if d.at.Number > 0 {
			return d
		}
	}
	return nil
}

// resumesFrom returns where the replay of a group begins for a client that has come back. In
// a group that its cursor does not have it does not know where it was. A group that this
// connection has left is joined as for the first time.
func (s *stream) resumesFrom(g *group) (r sequence.Replay, resumes bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.resumes || s.left[g.hash] {
		return r, false
	}
	r.From = true
	if e, ok := s.begin[g.hash]; ok {
		r.Mark = &sequence.Mark{Number: e.number, Is: func(at Position) bool { return fingerprintOf(at) == e.print }}
	}
	return r, true
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
	s.advanceLocked(cursorEntry{g.hash, at.Number, fingerprintOf(at)})
	if s.cursors {
		cursor := appendCursor(nil, s.places...)
		// This fails only if the connection is ending anyway.
		_ = c.outbox.Push(eventstream.AppendBlock(nil, eventstream.Position, nil, string(cursor)))
	}
}

// leave notes that the client is no longer a member of a group.
func (s *stream) leave(g *group) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.left == nil {
		s.left = make(map[groupHash]bool)
	}
	s.left[g.hash] = true
	s.places = slices.DeleteFunc(s.places, func(e cursorEntry) bool { return e.group == g.hash })
}

// advanceLocked moves the client's place in a group.
func (s *stream) advanceLocked(to cursorEntry) {
	for i := range s.places {
		if s.places[i].group == to.group {
			s.places[i] = to
			return
		}
	}
	s.places = append(s.places, to)
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
		}
		cursor = cursor[:0]
		if v.encoding == encodingCursorBlocks && d.at.Number > 0 {
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
		composed.bytes = eventstream.AppendBlock(slices.Grow(composed.bytes, size), handler.name, text, string(cursor))
		composed.frames++
		if v.positions && handler.kind == handlerRender && d.id != "" && !bytes.Contains(text, []byte(d.id)) {
			composed.bytes = eventstream.AppendBlock(composed.bytes, "", d.position(), "")
		}
	}
	composed.bytes = slices.Clip(composed.bytes)
	return composed
}
