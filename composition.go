package grouphub

import (
	"slices"

	"github.com/seed-29c60982/grouphub/internal/outbox"
)

// A composition is what connections of one variant get of a batch.
type composition struct {
	bytes     []byte        // the frames, joined
	spans     []outbox.Span // which of them are replaceable; nil: none
	frames    int
	failed    int  // events whose Render failed
	unhandled int  // events without a handler
	handle    bool // there are events for Handle
}

// A part of a composition is a frame, or the event to make one of.
type part struct {
	frame []byte
	event *delivery
	key   string // of the event
}

// compose joins the frames of a batch for a variant.
func (h *Hub) compose(v variant, batch []*delivery) composition {
	if v.isStream() {
		return h.composeBlocks(v, batch, ownCursor)
	}
	var composed composition
	parts, size := make([]part, 0, len(batch)), 0
	for _, d := range batch {
		if d.closes() {
			continue
		}
		switch kind := v.handlerOf(d).kind; {
		case kind == handlerNone:
			composed.unhandled++
		case kind == handlerIgnore:
		case kind == handlerHandle:
			composed.handle = true
		case kind == handlerForward && !v.deflated() && len(batch) > 1:
			// No other composition would use the frame, so join writes it in its place.
			parts = append(parts, part{event: d, key: d.key})
			size += d.env.FrameSize(d.id)
		default:
			bytes, ok := d.frame(v, kind)
			if !ok {
				composed.failed++
			}
			if bytes != nil {
				parts = append(parts, part{frame: bytes, key: d.key})
				size += len(bytes)
			}
		}
	}
	composed.frames = len(parts)
	composed.join(parts, size)
	return composed
}

// join writes parts behind one another. A single frame is shared as it is. The result has
// no spare capacity: it may wait in a backlog for long, which counts only its length.
func (c *composition) join(parts []part, size int) {
	if len(parts) == 1 && parts[0].frame != nil {
		c.bytes = slices.Clip(parts[0].frame)
		c.noteKey(0, parts[0].key)
		return
	}
	c.bytes = make([]byte, 0, size)
	for _, p := range parts {
		start := len(c.bytes)
		if p.event != nil {
			c.bytes = p.event.env.AppendFrame(c.bytes, p.event.id)
		} else {
			c.bytes = append(c.bytes, p.frame...)
		}
		c.noteKey(start, p.key)
	}
	c.endSpans()
}

// noteKey notes that the bytes from an offset on are an event's, which has a key unless that
// is empty.
func (c *composition) noteKey(start int, key string) {
	if key == "" {
		return
	}
	c.endSpansAt(start)
	c.spans = append(c.spans, outbox.Span{End: len(c.bytes), Key: key})
}

// endSpans has the spans, if there are any, cover all bytes.
func (c *composition) endSpans() {
	if c.spans != nil {
		c.endSpansAt(len(c.bytes))
	}
}

func (c *composition) endSpansAt(end int) {
	if n := len(c.spans); end > 0 && (n == 0 || c.spans[n-1].End < end) {
		c.spans = append(c.spans, outbox.Span{End: end})
	}
}
