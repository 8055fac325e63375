// Package envelope is what travels through a layer: events, and what hubs tell each other.
package envelope

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/seed-29c60982/grouphub/internal/frame"
)

// An Envelope is what travels through a layer. An event's body is its JSON as the
// client will see it, so that a hub forwards it without parsing; the offset says
// where in it the id belongs.
//
// On the wire: version, kind, then name, channel and each exception as length and
// bytes (the exceptions after their number), then in a close the position like a name,
// then in version 2 the options, then a number, then the body like a name. All lengths and
// numbers are unsigned varints.
//
// The options are what version 1 does not know: their number, and for each a tag and a value
// like a name. An envelope without any is written in version 1, so that hubs of an older
// release refuse no more than what they would get wrong.
type Envelope struct {
	Kind    Kind
	Name    string   // the event's type; the group to join or leave; the ping's token; the lost epoch; the user to renew; the hub that a notice is of
	Channel string   // the connection it is for, if it is for one
	Except  []string // connections that do not get it
	Options *Options // nil without any
	After   string   // what a close comes after: the id of a position in its group's history, or without history the name of its mark
	Number  int      // the offset of the id in an event; the code of a close
	Body    []byte   // an event's JSON; a close's reason; the number of the last command of a lost epoch; when a session ends; what a notice says

	// SentBefore is not on the wire. Who receives a close or a Renew notes here when it was sent at the
	// latest, by a clock of its own; 0: unknown.
	SentBefore time.Duration
}

// Options are what most envelopes are without.
type Options struct {
	Latest string // the key of an event that takes the place of an earlier one with the same key; "": none
	// ExceptUsers are the users whose connections do not get it. None of them is "".
	ExceptUsers []string
	Session     string // of a close: the users' session that it is for; "": all of them
}

// A Kind says what an envelope is.
type Kind byte

const (
	Event   Kind = 1 + iota
	Close        // connections
	Add          // a connection to a group
	Discard      // a connection from a group
	Ping
	Seen   // how far a hub has seen the commands of an epoch that was lost
	Post   // a message to an event stream of the hub
	Answer // to a Post
	Renew  // moves the end of a user's session
	Notice // of a hub, about its members in a group
	end    // the first that is unknown
)

const (
	version            = 1
	versionWithOptions = 2
)

// The tags of options. There is one option for each user that is excepted.
const (
	tagLatest     = 1
	tagExceptUser = 2
	tagSession    = 3
)

// Encode returns the envelope as a payload.
func (e *Envelope) Encode() []byte {
	size := 32 + len(e.Name) + len(e.Channel) + len(e.After) + len(e.Body)
	for _, x := range e.Except {
		size += len(x) + 3
	}
	options, writtenIn := e.Options.count(), byte(version)
	if options > 0 {
		writtenIn = versionWithOptions
		size += e.Options.size()
	}
	b := append(make([]byte, 0, size), writtenIn, byte(e.Kind))
	b = appendString(b, e.Name)
	b = appendString(b, e.Channel)
	b = binary.AppendUvarint(b, uint64(len(e.Except)))
	for _, x := range e.Except {
		b = appendString(b, x)
	}
	if e.Kind == Close {
		b = appendString(b, e.After)
	}
	if options > 0 {
		b = e.Options.append(binary.AppendUvarint(b, uint64(options)))
	}
	b = binary.AppendUvarint(b, uint64(e.Number))
	b = binary.AppendUvarint(b, uint64(len(e.Body)))
	return append(b, e.Body...)
}

// count returns the number of options.
func (o *Options) count() int {
	if o == nil {
		return 0
	}
	n := len(o.ExceptUsers)
	if o.Latest != "" {
		n++
	}
	if o.Session != "" {
		n++
	}
	return n
}

// size returns how many bytes they take at most.
func (o *Options) size() int {
	n := 16 + len(o.Latest) + len(o.Session)
	for _, user := range o.ExceptUsers {
		n += len(user) + 4
	}
	return n
}

func (o *Options) append(b []byte) []byte {
	if o.Latest != "" {
		b = appendString(binary.AppendUvarint(b, tagLatest), o.Latest)
	}
	for _, user := range o.ExceptUsers {
		b = appendString(binary.AppendUvarint(b, tagExceptUser), user)
	}
	if o.Session != "" {
		b = appendString(binary.AppendUvarint(b, tagSession), o.Session)
	}
	return b
}

// decodeOptions reads the options. One that is unknown is an error, since it may say who must
// not get the event.
func decodeOptions(d *decoder) (*Options, error) {
	o := &Options{}
	for range d.count() {
		switch tag, value := d.uvarint(), d.string(); {
		case d.bad:
			return nil, errTruncated
		case tag == tagLatest:
			o.Latest = value
		case tag == tagExceptUser:
			o.ExceptUsers = append(o.ExceptUsers, value)
		case tag == tagSession:
			o.Session = value
		default:
			return nil, fmt.Errorf("payload with the unknown option %d", tag)
		}
	}
	return o, nil
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// ErrTooLarge means that an event's JSON is larger than it may be.
var ErrTooLarge = errors.New("grouphub: event too large")

var errTruncated = errors.New("truncated payload")

// Decode parses a payload, which the envelope's body then shares. It trusts
// nothing: anyone who can write to the layer may have sent it.
func Decode(b []byte) (*Envelope, error) {
	if len(b) < 2 {
		return nil, errTruncated
	}
	if b[0] != version && b[0] != versionWithOptions {
		return nil, fmt.Errorf("payload of version %d, this is version %d", b[0], versionWithOptions)
	}
	e := &Envelope{Kind: Kind(b[1])}
	if e.Kind == 0 || e.Kind >= end {
		return nil, fmt.Errorf("payload of unknown kind %d", b[1])
	}
	d := decoder{b: b[2:]}
	e.Name = d.string()
	e.Channel = d.string()
	for range d.count() {
		if d.bad {
			break
		}
		e.Except = append(e.Except, d.string())
	}
	if e.Kind == Close {
		e.After = d.string()
	}
	if b[0] == versionWithOptions {
		var err error
		if e.Options, err = decodeOptions(&d); err != nil {
			return nil, err
		}
	}
	number := d.uvarint()
	if size := d.uvarint(); d.bad || size != uint64(len(d.b)) {
		return nil, errTruncated
	}
	e.Body = d.b
	if e.Kind == Event && !utf8.Valid(e.Body) { // browsers close on a text frame that is not UTF-8
		return nil, errors.New("event is not UTF-8")
	}
	switch limit := uint64(len(e.Body)); {
	case e.Kind == Event && (number > limit || len(e.Body) < 2):
		return nil, fmt.Errorf("event of %d bytes with its id at %d", limit, number)
	case e.Kind == Event && number < limit && !utf8.RuneStart(e.Body[number]):
		return nil, fmt.Errorf("event with its id at %d, within a character", number) // it would not be UTF-8 any more
	case number > 1<<16 && e.Kind != Event:
		return nil, fmt.Errorf("number %d out of range", number)
	case e.Kind == Close:
		if err := frame.CheckClose(int(number), string(e.Body)); err != nil {
			return nil, err
		}
	}
	e.Number = int(number)
	return e, nil
}

// KindOf returns the kind of a payload without decoding it, 0 if it is too short to have one.
func KindOf(payload []byte) Kind {
	if len(payload) < 2 {
		return 0
	}
	return Kind(payload[1])
}

// A decoder takes fields off the front of b. After the first one that does not fit
// it is bad and yields zero values.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.bad, d.b = true, nil
		return 0
	}
	d.b = d.b[n:]
	return v
}

// count returns how many fields follow, each of which takes a byte at least.
func (d *decoder) count() uint64 {
	n := d.uvarint()
	if n > uint64(len(d.b)) {
		d.bad, d.b = true, nil
		return 0
	}
	return n
}

func (d *decoder) string() string {
	n := d.uvarint()
	if n > uint64(len(d.b)) {
		d.bad, d.b = true, nil
		return ""
	}
	s := string(d.b[:n])
	d.b = d.b[n:]
	return s
}

// dataKey stands in an event's JSON between the id, if there is one, and the data.
var dataKey = []byte(`,"data":`)

// NewEvent makes the envelope of an event. A nil data leaves the data out.
func NewEvent(group, event string, data any, maxSize int) (*Envelope, error) {
	w := writers.Get().(*writer)
	defer w.release()
	e := &Envelope{}
	if err := w.event(e, group, event, data, maxSize); err != nil {
		return nil, err
	}
	e.Body = bytes.Clone(e.Body)
	return e, nil
}

// EncodeEvent returns an event as a payload, as NewEvent and Encode would. The envelope
// says whom it is for.
func EncodeEvent(to Envelope, group, event string, data any, maxSize int) ([]byte, error) {
	w := writers.Get().(*writer)
	defer w.release()
	if err := w.event(&to, group, event, data, maxSize); err != nil {
		return nil, err
	}
	return to.Encode(), nil
}

// A writer has what it takes to write an event's JSON, so that it need not be made anew.
type writer struct {
	body    bytes.Buffer
	encoder *json.Encoder // of body
}

var writers = sync.Pool{New: func() any {
	w := &writer{}
	w.encoder = json.NewEncoder(&w.body)
	return w
}}

func (w *writer) release() {
	if w.body.Cap() <= 64<<10 { // a large one is rarely needed again
		writers.Put(w)
	}
}

// event writes an event's JSON, which is the envelope's until the writer is used again.
func (w *writer) event(e *Envelope, group, event string, data any, maxSize int) error {
	b := &w.body
	b.Reset()
	b.WriteString(`{"type":`)
	writeQuoted(b, event)
	if group != "" {
		b.WriteString(`,"group":`)
		writeQuoted(b, group)
	}
	offset := b.Len()
	if data != nil {
		b.Write(dataKey)
		if err := w.encoder.Encode(data); err != nil {
			return err
		}
		b.Truncate(b.Len() - 1)     // a line feed
		if !utf8.Valid(b.Bytes()) { // json.RawMessage passes as it is, and browsers hang up
			return errors.New("data is not valid UTF-8")
		}
	}
	b.WriteByte('}')
	if b.Len() > maxSize {
		return fmt.Errorf("%d bytes, the limit is %d: %w", b.Len(), maxSize, ErrTooLarge)
	}
	e.Kind, e.Name, e.Number, e.Body = Event, event, offset, b.Bytes()
	return nil
}

// writeQuoted writes a string as encoding/json does; nearly all names need no escapes.
func writeQuoted(b *bytes.Buffer, s string) {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			quoted, err := json.Marshal(s)
			if err != nil {
				panic(err) // a string always marshals
			}
			b.Write(quoted)
			return
		}
	}
	b.WriteByte('"')
	b.WriteString(s)
	b.WriteByte('"')
}

// Data returns an event's data, which shares the body; nil if it has none.
func (e *Envelope) Data() json.RawMessage {
	rest := e.Body[e.Number:]
	if len(rest) <= len(dataKey) || !bytes.HasPrefix(rest, dataKey) {
		return nil
	}
	return json.RawMessage(rest[len(dataKey) : len(rest)-1 : len(rest)-1])
}

// Text returns an event's JSON, with an id if that is not empty.
func (e *Envelope) Text(id string) []byte {
	if id == "" {
		return e.Body
	}
	return e.appendText(make([]byte, 0, e.textSize(id)), id)
}

// AppendText appends what Text returns.
func (e *Envelope) AppendText(to []byte, id string) []byte { return e.appendText(to, id) }

// AppendFrame appends what Text returns as a frame.
func (e *Envelope) AppendFrame(to []byte, id string) []byte {
	return e.appendText(frame.AppendHeader(to, frame.Text, e.textSize(id)), id)
}

// FrameSize returns how long that is, in bytes, or a few more.
func (e *Envelope) FrameSize(id string) int { return frame.MaxHeader + e.textSize(id) }

func (e *Envelope) appendText(to []byte, id string) []byte {
	if id == "" {
		return append(to, e.Body...)
	}
	to = append(append(to, e.Body[:e.Number]...), idKey...)
	to = append(append(to, id...), '"')
	return append(to, e.Body[e.Number:]...)
}

func (e *Envelope) textSize(id string) int {
	if id == "" {
		return len(e.Body)
	}
	return len(e.Body) + len(idKey) + len(id) + 1
}

const idKey = `,"id":"`
