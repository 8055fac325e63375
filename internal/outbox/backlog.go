package outbox

import (
	"bytes"

	"github.com/seed-29c60982/grouphub/internal/latest"
)

// flushChunk is how many bytes of small frames a flusher joins for one write, and
// how many of a large frame it writes before it looks at its deadline again.
const flushChunk = 16 << 10

// overhead is what a pushed buffer that waits counts for besides its bytes: its place in the
// backlog, and what its allocation takes that is rounded up. Small frames would else take
// many times what they count for.
const overhead = 48

// A backlog is what waits to be written, in whole frames but for the first one's beginning:
// first what was begun, then control frames, then data. It holds references to what was
// pushed, and copies only of what was pushed together with replaceable frames.
type backlog struct {
	format    Format    // static
	begun     []byte    // frames of which the first is partly written; nil if none is
	begunSent int       // bytes of begun that the kernel has
	urgent    [2][]byte // a ping and a pong, which overtake data at a frame's boundary; nil where none waits
	data      latest.Queue[string, entry]

	bytes   [urgent]int // of data, by class
	entries [urgent]int // how many there are in data, by class

	flying      class // of what next has returned last, or was begun
	flyingBytes int   // of that, which the kernel does not have yet
}

// An entry of a backlog is a buffer that was pushed, or a part of one. It begins and ends at a
// frame's boundary.
type entry struct {
	frames []byte
	class  class
}

// A class says which limit a frame counts for while it waits, and which frames it overtakes.
type class uint8

const (
	plain       class = iota // for what makes a connection slow
	replaceable              // for what may wait of those; a later one with the same key takes its place
	awaited                  // for what PushWait waits for
	urgent                   // overtakes data at a frame's boundary
)

// A Span says what a part of a pushed buffer is: frames up to the next span.
type Span struct {
	End int    // where the part ends in the buffer
	Key string // if it is not empty, a later part with the same key may take this one's place
}

// add makes whole frames wait. It returns how many bytes more wait now. A ping or a pong
// takes the place of one that waits: RFC 6455, 5.5.3, lets a pong answer all pings before it,
// and a peer that sends pings without reading must not make anything grow.
func (b *backlog) add(frames []byte, c class) (more int) {
	if c == urgent {
		place := &b.urgent[b.format.urgentPlace(frames)]
		more = len(frames) - len(*place)
		*place = frames
		return more
	}
	b.data.Add(entry{frames, c})
	b.count(entry{frames, c}, 1)
	return len(frames)
}

// count keeps the sums up to date when an entry comes or goes.
func (b *backlog) count(e entry, sign int) {
	b.bytes[e.class] += sign * len(e.frames)
	b.entries[e.class] += sign
}

// An addition says what became of a buffer that was to wait.
type addition struct {
	more       int  // bytes that wait more now; fewer, if it is negative
	superseded int  // entries that were replaced
	refused    int  // data frames that were not added, since too much replaceable waits
	plain      bool // some of it is not replaceable
}

// addSpans makes frames wait from an offset on, which is at a frame's boundary. Once
// replaceable entries of more than most bytes wait, it adds no more: who has not got one of them
// must not get what comes behind it.
//
// What it adds of a buffer with several spans is a copy, because a part that waits for long
// would keep the whole buffer in memory.
func (b *backlog) addSpans(frames []byte, from int, spans []Span, most int, a *addition) {
	start := 0
	for _, s := range spans {
		begin := max(start, from)
		begunBefore := begin > start
		start = s.End
		if begin >= s.End {
			continue
		}
		part := frames[begin:s.End:s.End]
		if len(spans) > 1 {
			part = bytes.Clone(part)
		}
		switch {
		case s.Key == "":
			a.more += b.add(part, plain)
			a.plain = true
		case begunBefore: // the peer has the first frames of it
			a.more += b.add(part, replaceable)
		case !b.replace(s.Key, part, most, a):
			a.refused = b.format.countData(frames[begin:], 0)
			return
		}
	}
}

// replace makes frames wait that take the place of earlier ones. It reports whether there is
// room for them.
func (b *backlog) replace(key string, frames []byte, most int, a *addition) bool {
	old, replaces := b.data.Get(key)
	waiting := b.bytes[replaceable] + overhead*b.entries[replaceable]
	if replaces {
		waiting -= len(old.frames) + overhead
	}
	if waiting > most {
		return false
	}
	e := entry{frames, replaceable}
	b.data.Replace(key, e)
	b.count(e, 1)
	a.more += len(frames)
	if replaces {
		b.count(old, -1)
		a.more -= len(old.frames)
		a.superseded++
	}
	return true
}

// addRest makes a backlog without data hold what is left of frames, of which the kernel has the
// first sent bytes. Without spans all of it is of the class.
func (b *backlog) addRest(frames []byte, sent int, c class, spans []Span, most int) (a addition) {
	start := b.format.whole(frames, sent)
	if sent > start {
		n := b.format.length(frames[start:])
		b.begun, b.begunSent = frames[start:start+n], sent-start
		b.flying, b.flyingBytes = c, n-b.begunSent
		a.more = b.flyingBytes
		for _, s := range spans {
			if start < s.End {
				if s.Key != "" {
					b.flying = replaceable
				}
				break
			}
		}
		start += n
	}
	switch {
	case start == len(frames):
	case spans != nil:
		b.addSpans(frames, start, spans, most, &a)
	default:
		a.more += b.add(frames[start:], c)
	}
	return a
}

// putBack undoes a next, but for the first sent bytes, which the kernel has.
func (b *backlog) putBack(frames []byte, sent int) { b.begun, b.begunSent = frames, sent }

// written notes that the kernel has taken so many bytes of what next has returned last.
func (b *backlog) written(n int) { b.flyingBytes -= n }

// of returns how many bytes of a class wait, with what is being written.
func (b *backlog) of(c class) int {
	if b.flying == c {
		return b.bytes[c] + b.flyingBytes
	}
	return b.bytes[c]
}

// next takes what is to be written next: whole frames, of which the kernel already has the
// first sent bytes. It is nil if nothing waits.
func (b *backlog) next() (frames []byte, sent int) {
	if frames, sent = b.begun, b.begunSent; frames != nil {
		b.begun = nil
		return frames, sent
	}
	for i, control := range b.urgent {
		if control != nil {
			b.urgent[i] = nil
			b.flying, b.flyingBytes = urgent, len(control)
			return control, 0
		}
	}
	return b.nextData(), 0
}

// nextData takes a frame, or several small ones of one class that one write can have.
func (b *backlog) nextData() (frames []byte) {
	for e := b.data.Front(); e != nil && len(frames) < flushChunk; e = b.data.Front() {
		if frames != nil && e.class != b.flying {
			break
		}
		head := e.frames
		n := b.format.whole(head, flushChunk-len(frames))
		if n == 0 { // the next frame is too large to be joined
			if frames != nil {
				break
			}
			n = b.format.length(head)
		}
		if frames == nil {
			frames = head[:n:n] // shared, so that what is joined goes into a copy
		} else {
			frames = append(frames, head[:n]...)
		}
		b.flying = e.class
		b.bytes[e.class] -= n
		if n < len(head) {
			e.frames = head[n:]
			b.data.Pin()
		} else {
			b.entries[e.class]--
			b.data.Remove()
		}
	}
	if frames == nil {
		b.data.Clear()
	}
	b.flyingBytes = len(frames)
	return frames
}

// dropUnbegun drops all frames but those that were begun. It returns how many bytes and how
// many data frames these were.
func (b *backlog) dropUnbegun() (bytes, dataFrames int) {
	for e := range b.data.All() {
		dataFrames += b.format.countData(e.frames, 0)
		bytes += len(e.frames)
	}
	for _, f := range b.urgent {
		bytes += len(f)
	}
	b.data.Clear()
	b.urgent, b.bytes, b.entries = [2][]byte{}, [urgent]int{}, [urgent]int{}
	return bytes, dataFrames
}

// drop drops everything and returns how many data frames that were.
func (b *backlog) drop() (dataFrames int) {
	_, dataFrames = b.dropUnbegun()
	if b.begun != nil {
		dataFrames += b.format.countData(b.begun, b.begunSent)
		b.begun = nil
	}
	b.flyingBytes = 0
	return dataFrames
}
