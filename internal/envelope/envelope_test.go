package envelope

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"

	"github.com/seed-29c60982/grouphub/internal/frame"
)

// someEnvelopes are of every kind, plain and with all that they can hold.
func someEnvelopes(t testing.TB) []*Envelope {
	event := func(group, name string, data any) *Envelope {
		e, err := NewEvent(group, name, data, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	excepting := event("room:lobby", "chat.message", map[string]string{"text": "hello"})
	excepting.Except = []string{"hub!1", "", strings.Repeat("x", 255)}
	latest := event("g", "progress", 7)
	latest.Except, latest.Options = []string{"hub!1"}, &Options{Latest: "job:1"}
	toOthers := event("g", "note", nil)
	toOthers.Options = &Options{ExceptUsers: []string{"ann", "\xff", strings.Repeat("x", 5000)}, Latest: "key"}
	direct := event("", "direct", nil)
	direct.Channel = "hub!z"
	return []*Envelope{
		excepting,
		latest,
		toOthers,
		direct,
		event("日本", `quoted " type`, json.RawMessage(`[1, 2]`)),
		event("g", "big", strings.Repeat("x", 100_000)),
		{Kind: Close, Number: 4401, Body: []byte("logged out"), Except: []string{"hub!1"}},
		{Kind: Close, Number: 1000, Body: []byte{}, After: "epoch.1.nonce"},
		{Kind: Close, Number: 4401, Body: []byte{}, Options: &Options{ExceptUsers: []string{"ann"}, Session: "s1"}},
		{Kind: Add, Name: "g", Channel: "hub!1", Body: []byte{}},
		{Kind: Discard, Name: "g", Channel: "hub!1", Body: []byte{}},
		{Kind: Ping, Name: "token", Body: []byte{}},
		{Kind: Renew, Name: "ann", Body: []byte{}},
		{Kind: Seen, Name: "epoch", Body: []byte("17")},
	}
}

func TestEnvelopeIsTheSameAfterItsJourney(t *testing.T) {
	for _, e := range someEnvelopes(t) {
		b := e.Encode()
		got, err := Decode(b)
		if err != nil {
			t.Errorf("%+v: %v", e, err)
			continue
		}
		if !reflect.DeepEqual(got, e) {
			t.Errorf("%+v has become %+v", e, got)
		}
	}
}

func TestEnvelopeWithoutOptionsIsOneThatOlderHubsRead(t *testing.T) {
	for _, e := range someEnvelopes(t) {
		want := byte(1)
		if e.Options != nil {
			want = 2
		}
		if got := e.Encode()[0]; got != want {
			t.Errorf("%+v is of version %d, want %d", e, got, want)
		}
	}
}

func TestTruncatedEnvelopesAreRefusedOrShorter(t *testing.T) {
	for _, e := range someEnvelopes(t) {
		b := e.Encode()
		head := len(b) - len(e.Body)
		for n := range head {
			if got, err := Decode(b[:n]); err == nil {
				t.Errorf("%d of %d bytes of %+v are %+v", n, len(b), e, got)
			}
		}
	}
}

func TestEnvelopesThatMakeNoSenseAreRefused(t *testing.T) {
	huge := binary.AppendUvarint(nil, math.MaxUint64)
	for name, b := range map[string][]byte{
		"empty":                        {},
		"a newer version":              {3, 1, 0, 0, 0, 0, 0, '{', '}'},
		"an unknown option":            {2, 1, 0, 0, 0, 1, 100, 1, 'x', 0, 2, '{', '}'},
		"more options than bytes":      {2, 1, 0, 0, 0, 9, 1, 1, 'x', 0, 2, '{', '}'},
		"an option longer than rest":   {2, 1, 0, 0, 0, 1, 1, 200, 1, 'x'},
		"2^64-1 options":               append([]byte{2, 1, 0, 0, 0}, huge...),
		"no kind":                      {1, 0, 0, 0, 0, 0},
		"an unknown kind":              {1, byte(end), 0, 0, 0, 0},
		"a name longer than the rest":  {1, 1, 200, 1, 'x'},
		"a name of 2^64-1 bytes":       append([]byte{1, 1}, huge...),
		"a channel of 2^64-1 bytes":    append([]byte{1, 1, 0}, huge...),
		"2^64-1 exceptions":            append([]byte{1, 1, 0, 0}, huge...),
		"more exceptions than bytes":   {1, 1, 0, 0, 5, 0, 0, 0, 0},
		"a number that does not end":   {1, 1, 0, 0, 0, 0x80},
		"a number of more than 64 bit": append([]byte{1, 1, 0, 0, 0}, bytes.Repeat([]byte{0xff}, 11)...),
		"an id beyond the event":       {1, 1, 0, 0, 0, 3, '{', '}'},
		"an event without JSON":        {1, 1, 0, 0, 0, 0},
		"an id within a character":     append([]byte{1, 1, 0, 0, 0, 10, 13}, `{"type":"é"}`...),
		"a close with a huge code":     append([]byte{1, 2, 0, 0, 0}, huge...),
		"a close that cannot be sent":  append([]byte{1, 2, 0, 0, 0}, binary.AppendUvarint(nil, 1005)...),
		"a close with a long reason":   (&Envelope{Kind: Close, Number: 1000, Body: make([]byte, 124)}).Encode(),
		"a close that is not UTF-8":    (&Envelope{Kind: Close, Number: 1000, Body: []byte{0xff}}).Encode(),
	} {
		if e, err := Decode(b); err == nil {
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
		e, err := NewEvent(test.group, test.name, test.data, 1000)
		if err != nil {
			t.Errorf("%+v: %v", test, err)
			continue
		}
		if string(e.Body) != test.body {
			t.Errorf("body is %s, want %s", e.Body, test.body)
		}
		e, err = Decode(e.Encode())
		if err != nil {
			t.Errorf("%+v: %v", test, err)
			continue
		}
		data := e.Data()
		if string(data) != test.decoded {
			t.Errorf("data is %s, want %s", data, test.decoded)
		}
		// Appending to an event's data must not write into what others share.
		if cap(data) != len(data) {
			t.Errorf("data of %d bytes has room for %d", len(data), cap(data))
		}
		for _, id := range []string{"", "epoch.1.nonce"} {
			type seen struct {
				Type, Group, ID string
				Data            json.RawMessage
			}
			var got seen
			text := e.Text(id)
			frame := frame.New(frame.Text, text, false)
			if got := e.AppendFrame([]byte("x"), id); string(got) != "x"+string(frame) || e.FrameSize(id) < len(frame) {
				t.Errorf("AppendFrame of %d bytes: %q, want x%q", e.FrameSize(id), got, frame)
			}
			err := json.Unmarshal(text, &got)
			if want := (seen{test.name, test.group, id, data}); err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("the client sees %+v, %v, want %+v", got, err, want)
			}
		}
	}
}

func TestNewEventRefusesWhatItCannotSend(t *testing.T) {
	if _, err := NewEvent("g", "note", make(chan int), 1000); err == nil {
		t.Error("a channel was marshalled")
	}
	if _, err := NewEvent("g", "note", json.RawMessage(`{"broken`), 1000); err == nil {
		t.Error("broken JSON went in")
	}
	const frame = `{"type":"note","group":"g","data":""}`
	if _, err := NewEvent("g", "note", strings.Repeat("x", 1000-len(frame)), 1000); err != nil {
		t.Errorf("an event of exactly the limit: %v", err)
	}
	if _, err := NewEvent("g", "note", strings.Repeat("x", 1001-len(frame)), 1000); !errors.Is(err, ErrTooLarge) {
		t.Errorf("an event of one byte more: %v", err)
	}
}

// FuzzDecodeEnvelope decodes what anyone who can write to the layer may have sent. What
// decodes must be usable, and the same after another journey.
func FuzzDecodeEnvelope(f *testing.F) {
	for _, e := range someEnvelopes(f) {
		b := e.Encode()
		f.Add(b)
		f.Add(b[:len(b)/2])
	}
	f.Add([]byte{})
	f.Add([]byte{1, 1, 0, 0, 5, 0, 0, 0, 0})
	f.Add(append([]byte{1, 1, 0, 0}, binary.AppendUvarint(nil, math.MaxUint64)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		before := bytes.Clone(b)
		e, err := Decode(b)
		if !bytes.Equal(b, before) {
			t.Fatal("decoding has changed the payload")
		}
		if err != nil {
			if e != nil {
				t.Errorf("%+v beside the error %v", e, err)
			}
			return
		}
		if e.Kind == Event {
			if data := e.Data(); len(data) > len(e.Body) {
				t.Errorf("%d bytes of data in an event of %d", len(data), len(e.Body))
			}
		}
		again, err := Decode(e.Encode())
		if err != nil || !reflect.DeepEqual(e, again) {
			t.Errorf("%+v has become %+v, %v", e, again, err)
		}
	})
}
