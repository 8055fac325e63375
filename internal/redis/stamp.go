package redis

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/seed-29c60982/grouphub/layer"
)

const (
	// stampSize is how many bytes a stamp has: sender, serial number, time.
	stampSize = 8 + 8 + 8
	// maxStampAge is how long after it was sealed a publication is still accepted by those
	// who have not seen it, and by how much clocks may differ.
	maxStampAge = 5 * time.Minute
	// stampWindow is how many of a sender's publications may overtake one of them.
	stampWindow = 1 << 16
)

var errRepeated = errors.New("repeated")

// A stamp tells the publications of a layer with keys apart, so that a sealed one cannot be
// published again by somebody who has no key. It is sealed with the payload.
type stamp struct {
	sender uint64 // random for each layer
	serial uint64 // counts its publications, from 1
	sealed int64  // when, in milliseconds since 1970, by the sender's clock
}

// A stamper stamps what one layer publishes.
type stamper struct {
	sender uint64 // static
	serial atomic.Uint64
}

// next appends the stamp of another publication.
func (s *stamper) next(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, s.sender)
	b = binary.BigEndian.AppendUint64(b, s.serial.Add(1))
	return binary.BigEndian.AppendUint64(b, uint64(time.Now().UnixMilli()))
}

// cutStamp takes the stamp off what was sealed.
func cutStamp(b []byte) (s stamp, payload []byte, err error) {
	if len(b) < stampSize {
		return s, nil, errUnknownFormat
	}
	return stamp{
		sender: binary.BigEndian.Uint64(b),
		serial: binary.BigEndian.Uint64(b[8:]),
		sealed: int64(binary.BigEndian.Uint64(b[16:])),
	}, b[stampSize:], nil
}

// A stampFilter refuses publications that a subscription has seen, and those that it cannot
// know whether it has.
type stampFilter struct {
	mu      sync.Mutex
	senders map[uint64]*senderStamps
	swept   time.Time // when senders that have gone were last forgotten
}

// senderStamps are the serial numbers that were seen of one sender.
type senderStamps struct {
	highest uint64
	seen    [stampWindow / 64]uint64 // bits of the last stampWindow numbers, by number modulo stampWindow
	heard   time.Time
}

// accept notes a stamp, or says why what has it is refused.
func (f *stampFilter) accept(s stamp, now time.Time) error {
	if age := now.Sub(time.UnixMilli(s.sealed)); age > maxStampAge || age < -maxStampAge {
		return fmt.Errorf("sealed %v ago by its sender's clock, where %v is allowed", age.Round(time.Second), maxStampAge)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sweep(now)
	if f.senders == nil {
		f.senders = make(map[uint64]*senderStamps)
	}
	known := f.senders[s.sender]
	if known == nil {
		known = &senderStamps{}
		f.senders[s.sender] = known
	}
	known.heard = now
	return known.accept(s.serial)
}

// sweep forgets senders of which nothing can be accepted any more that was seen.
func (f *stampFilter) sweep(now time.Time) {
	if now.Sub(f.swept) < maxStampAge {
		return
	}
	f.swept = now
	for sender, known := range f.senders {
		if now.Sub(known.heard) > 2*maxStampAge {
			delete(f.senders, sender)
		}
	}
}

func (k *senderStamps) accept(serial uint64) error {
	if serial+stampWindow <= k.highest {
		return fmt.Errorf("%w, or overtaken by %d others", errRepeated, k.highest-serial)
	}
	if serial > k.highest {
		if serial-k.highest >= stampWindow {
			clear(k.seen[:])
		} else {
			for n := k.highest + 1; n <= serial; n++ {
				k.seen[n%stampWindow/64] &^= 1 << (n % 64)
			}
		}
		k.highest = serial
	}
	word, bit := &k.seen[serial%stampWindow/64], uint64(1)<<(serial%64)
	if *word&bit != 0 {
		return errRepeated
	}
	*word |= bit
	return nil
}

// stampedName is what a publication is sealed for: its channel, and the nonce of its
// position, empty if it is not kept. So neither can be changed by who has no key. The number
// is given out by the server and cannot be sealed; but what has another number is a repeat.
func stampedName(channel, nonce string) string { return channel + "\n" + nonce }

// sealPublication wraps what is published. Without keys it is as anybody may write it.
func (l *Layer) sealPublication(channel, nonce string, payload []byte) []byte {
	if len(l.sealer.keys) == 0 {
		return l.sealer.seal(channel, payload)
	}
	stamped := l.stamper.next(make([]byte, 0, stampSize+len(payload)))
	return l.sealer.sealAs(formatStamped, stampedName(channel, nonce), append(stamped, payload...))
}

// openPublication returns what was published to a channel, or counts it as discarded. Only
// what is kept has a position, and a time by the server's clock. The filter is nil for what comes from a history, which only
// those can change who may write to it.
func (l *Layer) openPublication(channel string, message []byte, filter *stampFilter) (p layer.Publication, kept time.Duration, ok bool) {
	p, kept, err := l.tryPublication(channel, message, filter)
	if err != nil {
		l.discard(channel, err)
		return layer.Publication{}, 0, false
	}
	return p, kept, true
}

func (l *Layer) tryPublication(channel string, message []byte, filter *stampFilter) (p layer.Publication, kept time.Duration, err error) {
	if len(message) > 0 && message[0] == formatNumbered {
		var ok bool
		if p.At, kept, message, ok = cutPosition(message[1:]); !ok {
			return p, 0, errNoPosition
		}
	}
	if len(l.sealer.keys) == 0 {
		p.Payload, err = l.sealer.open(channel, message)
		return p, kept, err
	}
	stamped, err := l.sealer.openAs(formatStamped, stampedName(channel, p.At.Nonce), message)
	if err != nil {
		return p, 0, err
	}
	s, payload, err := cutStamp(stamped)
	if err == nil && filter != nil {
		err = filter.accept(s, time.Now())
	}
	p.Payload = payload
	return p, kept, err
}
