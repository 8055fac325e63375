package grouphub

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"
)

// someEnvelopes are of every kind, plain and with all that they can hold.
func someEnvelopes(t testing.TB) []*envelope {
	event := func(group, name string, data any) *envelope {
		e, err := newEvent(group, name, data, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	excepting := event("room:lobby", "chat.message", map[string]string{"text": "hello"})
	excepting.except = []string{"hub!1", "", strings.Repeat("x", 255)}
	direct := event("", "direct", nil)
	direct.channel = "hub!z"
	return []*envelope{
		excepting,
		direct,
		event("日本", `quoted " type`, json.RawMessage(`[1, 2]`)),
		event("g", "big", strings.Repeat("x", 100_000)),
		{kind: kindClose, number: 4401, body: []byte("logged out"), except: []string{"hub!1"}},
		{kind: kindClose, number: 1000, body: []byte{}},
		{kind: kindAdd, name: "g", channel: "hub!1", body: []byte{}},
		{kind: kindDiscard, name: "g", channel: "hub!1", body: []byte{}},
		{kind: kindPing, name: "token", body: []byte{}},
	}
}

func TestEnvelopeIsTheSameAfterItsJourney(t *testing.T) {
	for _, e := range someEnvelopes(t) {
		b := e.encode()
		got, err := decodeEnvelope(b)
		if err != nil {
			t.Errorf("%+v: %v", e, err)
			continue
		}
		if !reflect.DeepEqual(got, e) {
			t.Errorf("%+v has become %+v", e, got)
		}
	}
}

func TestTruncatedEnvelopesAreRefusedOrShorter(t *testing.T) {
	for _, e := range someEnvelopes(t) {
		b := e.encode()
		head := len(b) - len(e.body)
		for n := range head {
			if got, err := decodeEnvelope(b[:n]); err == nil {
				t.Errorf("%d of %d bytes of %+v are %+v", n, len(b), e, got)
			}
		}
	}
}

func TestEnvelopesThatMakeNoSenseAreRefused(t *testing.T) {
	huge := binary.AppendUvarint(nil, math.MaxUint64)
	for name, b := range map[string][]byte{
		"empty":                        {},
		"a newer version":              {2, 1, 0, 0, 0, 0, '{', '}'},
		"no kind":                      {1, 0, 0, 0, 0, 0},
		"an unknown kind":              {1, byte(kindEnd), 0, 0, 0, 0},
		"a name longer than the rest":  {1, 1, 200, 1, 'x'},
		"a name of 2^64-1 bytes":       append([]byte{1, 1}, huge...),
		"a channel of 2^64-1 bytes":    append([]byte{1, 1, 0}, huge...),
		"2^64-1 exceptions":            append([]byte{1, 1, 0, 0}, huge...),
		"more exceptions than bytes":   {1, 1, 0, 0, 5, 0, 0, 0, 0},
		"a number that does not end":   {1, 1, 0, 0, 0, 0x80},
		"a number of more than 64 bit": append([]byte{1, 1, 0, 0, 0}, bytes.Repeat([]byte{0xff}, 11)...),
		"an id beyond the event":       {1, 1, 0, 0, 0, 3, '{', '}'},
		"an event without JSON":        {1, 1, 0, 0, 0, 0},
		"a close with a huge code":     append([]byte{1, 2, 0, 0, 0}, huge...),
		"a close that cannot be sent":  append([]byte{1, 2, 0, 0, 0}, binary.AppendUvarint(nil, 1005)...),
		"a close with a long reason":   (&envelope{kind: kindClose, number: 1000, body: make([]byte, 124)}).encode(),
		"a close that is not UTF-8":    (&envelope{kind: kindClose, number: 1000, body: []byte{0xff}}).encode(),
	} {
		if e, err := decodeEnvelope(b); err == nil {
			t.Errorf("%s: decoded as %+v", name, e)
		}
	}
}

func TestEventInAnEnvelopeIsItsJSON(t *testing.T) {
	for _, test := range []struct {
		group, name string
		data        any
		body        string
		decoded     string
	}{
		{"g", "note", 7, `{"type":"note","group":"g","data":7}`, `7`},
		{"", "note", 7, `{"type":"note","data":7}`, `7`},
		{"g", "note", nil, `{"type":"note","group":"g"}`, ``},
		{"g", "note", json.RawMessage(nil), `{"type":"note","group":"g","data":null}`, `null`},
		{"g", "note", json.RawMessage(` { "a" : 1 } `), `{"type":"note","group":"g","data":{"a":1}}`, `{"a":1}`},
		{`"<`, "日\u2028本", "</script>", `{"type":"日\u2028本","group":"\"\u003c","data":"\u003c/script\u003e"}`, `"\u003c/script\u003e"`},
		{`,"data":`, `,"data":1`, 2, `{"type":",\"data\":1","group":",\"data\":","data":2}`, `2`},
	} {
		e, err := newEvent(test.group, test.name, test.data, 1000)
		if err != nil {
			t.Errorf("%+v: %v", test, err)
			continue
		}
		if string(e.body) != test.body {
			t.Errorf("body is %s, want %s", e.body, test.body)
		}
		e, err = decodeEnvelope(e.encode())
		if err != nil {
			t.Errorf("%+v: %v", test, err)
			continue
		}
		want := Event{Type: test.name, Group: test.group, Data: json.RawMessage(test.decoded)}
		if test.decoded == "" {
			want.Data = nil
		}
		got := e.event(test.group)
		if !reflect.DeepEqual(got, want) {
			t.Errorf("event is %+v, want %+v", got, want)
		}
		// Appending to an event's data must not write into what others share.
		if cap(got.Data) != len(got.Data) {
			t.Errorf("data of %d bytes has room for %d", len(got.Data), cap(got.Data))
		}
		var parsed Event
		if err := json.Unmarshal(e.body, &parsed); err != nil || !reflect.DeepEqual(parsed, want) {
			t.Errorf("the client sees %+v, %v, want %+v", parsed, err, want)
		}
	}
}

func TestNewEventRefusesWhatItCannotSend(t *testing.T) {
	if _, err := newEvent("g", "note", make(chan int), 1000); err == nil {
		t.Error("a channel was marshalled")
	}
	if _, err := newEvent("g", "note", json.RawMessage(`{"broken`), 1000); err == nil {
		t.Error("broken JSON went in")
	}
	const frame = `{"type":"note","group":"g","data":""}`
	if _, err := newEvent("g", "note", strings.Repeat("x", 1000-len(frame)), 1000); err != nil {
		t.Errorf("an event of exactly the limit: %v", err)
	}
	if _, err := newEvent("g", "note", strings.Repeat("x", 1001-len(frame)), 1000); !errors.Is(err, ErrTooLarge) {
		t.Errorf("an event of one byte more: %v", err)
	}
}

// FuzzDecodeEnvelope decodes what anyone who can write to the layer may have sent. What
// decodes must be usable, and the same after another journey.
func FuzzDecodeEnvelope(f *testing.F) {
	for _, e := range someEnvelopes(f) {
		b := e.encode()
		f.Add(b)
		f.Add(b[:len(b)/2])
	}
	f.Add([]byte{})
	f.Add([]byte{1, 1, 0, 0, 5, 0, 0, 0, 0})
	f.Add(append([]byte{1, 1, 0, 0}, binary.AppendUvarint(nil, math.MaxUint64)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		before := bytes.Clone(b)
		e, err := decodeEnvelope(b)
		if !bytes.Equal(b, before) {
			t.Fatal("decoding has changed the payload")
		}
		if err != nil {
			if e != nil {
				t.Errorf("%+v beside the error %v", e, err)
			}
			return
		}
		if e.kind == kindEvent {
			if ev := e.event("g"); len(ev.Data) > len(e.body) {
				t.Errorf("%d bytes of data in an event of %d", len(ev.Data), len(e.body))
			}
		}
		again, err := decodeEnvelope(e.encode())
		if err != nil || !reflect.DeepEqual(e, again) {
			t.Errorf("%+v has become %+v, %v", e, again, err)
		}
	})
}
