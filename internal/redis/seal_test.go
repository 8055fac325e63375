package redis

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/alicebob/miniredis/v2"

	"github.com/seed-29c60982/grouphub/internal/redistest"
)

func FuzzOpenTakesAnything(f *testing.F) {
	plain, err := newSealer(nil)
	if err != nil {
		f.Fatal(err)
	}
	keyed, err := newSealer([]string{"new", "old"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add("name", "")
	f.Add("name", "\x01payload")
	f.Add("name", "\x02short")
	f.Add("name", string(keyed.seal("name", []byte("payload"))))
	f.Fuzz(func(t *testing.T, name, sealed string) {
		for _, s := range []*sealer{plain, keyed} {
			s.open(name, []byte(sealed))
			payload, err := s.open(name, s.seal(name, []byte(sealed)))
			if err != nil || !bytes.Equal(payload, []byte(sealed)) {
				t.Errorf("%q came back as %q, %v", sealed, payload, err)
			}
			if _, err := keyed.open(name+"x", keyed.seal(name, []byte(sealed))); err == nil {
				t.Error("opened under another name")
			}
		}
	})
}

func TestDiscardsWhatItCannotOpen(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	plain := newTestLayer(t, s.URL(), Options{})
	sealed := newTestLayer(t, s.URL(), Options{EncryptionKeys: []string{"key"}})
	stranger := newTestLayer(t, s.URL(), Options{EncryptionKeys: []string{"another"}})
	open, closed := attachHub(t, plain, "topic", "other"), attachHub(t, sealed, "topic", "other")
	const channel = "grouphub:topic:{topic}"
	for _, garbage := range []string{"", "garbage", "\x02", "\x02short", "\x02" + strings.Repeat("x", 100), "\x09newer"} {
		s.CLI("PUBLISH", channel, garbage)
		s.CLI("PUBLISH", "grouphub:topic:{nobody}", garbage)
	}
	mustPublish(t, stranger, "topic", "of a stranger")
	mustPublish(t, plain, "topic", "plain")
	mustPublish(t, sealed, "topic", "sealed")
	open.untilReceived("plain")
	closed.untilReceived("sealed")
	await(t, "what is discarded", func() bool {
		return plain.Discarded() == 8 && sealed.Discarded() == 8
	})
	for _, h := range []*testHub{open, closed} {
		if got, lost := h.state(); len(got) != 1 || len(lost) != 0 || !h.Up() {
			t.Errorf("received %q, lost %q, want nothing else", got, lost)
		}
	}

	// What was sealed for one name opens under no other.
	tap := s.Tap(channel)
	mustPublish(t, sealed, "topic", "moved")
	closed.untilReceived("moved")
	before := sealed.Discarded()
	s.Publish("grouphub:topic:{other}", <-tap)
	await(t, "the moved one", func() bool { return sealed.Discarded() == before+1 })
}

func TestEncryptionKeysRotate(t *testing.T) {
	t.Parallel()
	m := miniredis.RunT(t)
	var layers []*Layer
	var hubs []*testHub
	for _, keys := range [][]string{{"old"}, {"old", "new"}, {"new", "old"}, {"new"}} {
		l := newTestLayer(t, "redis://"+m.Addr(), Options{EncryptionKeys: keys})
		layers = append(layers, l)
		hubs = append(hubs, attachHub(t, l, "topic"))
	}
	// Each of the first three seals with its first key, and these can open it.
	for i, readers := range [][]int{{0, 1, 2}, {0, 1, 2}, {1, 2, 3}} {
		payload := fmt.Sprint("from ", i)
		mustPublish(t, layers[i], "topic", payload)
		for _, reader := range readers {
			hubs[reader].untilReceived(payload)
			if err := layers[i].Append(t.Context(), "queue", []byte(payload)); err != nil {
				t.Fatal(err)
			}
			if message, err := layers[reader].Take(t.Context(), "queue"); err != nil || string(message) != payload {
				t.Errorf("took %q, %v, want %q", message, err, payload)
			}
		}
	}
	if err := layers[0].Append(t.Context(), "queue", []byte("from 0")); err != nil {
		t.Fatal(err)
	}
	if raw := m.Dump(); strings.Contains(raw, "from ") {
		t.Errorf("redis holds a message in the clear:\n%s", raw)
	}
}
