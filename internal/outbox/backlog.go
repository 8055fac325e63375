package outbox

// flushChunk is how many bytes of small frames a flusher joins for one write, and
// how many of a large frame it writes before it looks at its deadline again.
const flushChunk = 16 << 10

// overhead is what a pushed buffer that waits counts for besides its bytes: its place in the
// backlog, and what its allocation takes that is rounded up. Small frames would else take
// many times what they count for.
const overhead = 48

// A backlog is what waits to be written, in whole frames but for the first one's beginning:
// first the frame that was begun, then control frames, then data. It holds references
// to what was pushed, and no copies.
type backlog struct {
	format    Format    // static
	begun     []byte    // a frame that is partly written; nil if none is
	begunSent int       // bytes of begun that the kernel has
	urgent    [2][]byte // a ping and a pong, which overtake data at a frame's boundary; nil where none waits
	data      [][]byte  // data frames, and the close frame at the end
}

// A priority says which frames a frame overtakes.
type priority bool

const (
	data   priority = false // none
	urgent priority = true  // data, at a frame's boundary
)

// add makes whole frames wait. It returns how many bytes more wait now. A ping or a pong
// takes the place of one that waits: RFC 6455, 5.5.3, lets a pong answer all pings before it,
// and a peer that sends pings without reading must not make anything grow.
func (b *backlog) add(frames []byte, p priority) (more int) {
	if p == urgent {
		place := &b.urgent[b.format.urgentPlace(frames)]
		more = len(frames) - len(*place)
		*place = frames
		return more
	}
	b.data = append(b.data, frames)
	return len(frames)
}

// overhead is what the backlog counts for besides its bytes.
func (b *backlog) overhead() int { return overhead * len(b.data) }

// addRest makes a backlog without data hold what is left of frames, of which the kernel has the
// first sent bytes.
func (b *backlog) addRest(frames []byte, sent int, p priority) {
	start := b.format.whole(frames, sent)
	rest := frames[start:]
	if sent > start {
		n := b.format.length(rest)
		b.begun, b.begunSent = rest[:n], sent-start
		rest = rest[n:]
	}
	if len(rest) > 0 {
		b.add(rest, p)
	}
}

// putBack undoes a next that took data, but for its first sent bytes, which the kernel has.
func (b *backlog) putBack(frames []byte, sent int) {
	waiting := b.data
	b.data = nil
	b.addRest(frames, sent, data)
	b.data = append(b.data, waiting...)
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
			return control, 0
		}
	}
	return b.nextData(), 0
}

// nextData takes a frame, or several small ones that one write can have.
func (b *backlog) nextData() (frames []byte) {
	for len(b.data) > 0 && len(frames) < flushChunk {
		head := b.data[0]
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
		if n < len(head) {
			b.data[0] = head[n:]
		} else {
			b.data[0] = nil // or the array would keep the buffer until it is replaced
			b.data = b.data[1:]
		}
	}
	if frames == nil {
		b.data = nil
	}
	return frames
}

// dropUnbegun drops all frames but the one that was begun. It returns how many bytes and how
// many data frames these were.
func (b *backlog) dropUnbegun() (bytes, dataFrames int) {
	for _, f := range b.data {
		dataFrames += b.format.countData(f, 0)
		bytes += len(f)
	}
	for _, f := range b.urgent {
		bytes += len(f)
	}
	b.data, b.urgent = nil, [2][]byte{}
	return bytes, dataFrames
}

// drop drops everything and returns how many data frames that were.
func (b *backlog) drop() (dataFrames int) {
	_, dataFrames = b.dropUnbegun()
	if b.begun != nil {
		dataFrames += b.format.countData(b.begun, b.begunSent)
		b.begun = nil
	}
	return dataFrames
}
