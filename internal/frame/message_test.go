package frame

import (
	"bytes"
	"strings"
	"testing"
)

func TestMessageIsFramedOnceForEachVariant(t *testing.T) {
	text := []byte(strings.Repeat("hello ", 100))
	asked := 0
	ask := func() []byte { asked++; return text }
	var m Message
	for _, deflated := range []bool{false, true} {
		first := m.Frame(deflated, ask)
		if want := New(Text, text, deflated); !bytes.Equal(first, want) {
			t.Errorf("deflated %v: %x", deflated, first)
		}
		if again := m.Frame(deflated, ask); &again[0] != &first[0] {
			t.Errorf("deflated %v: framed a second time", deflated)
		}
	}
	if asked != 2 {
		t.Errorf("asked for the text %d times", asked)
	}
	binary := Message{Binary: true}
	if got, want := binary.Frame(false, ask), New(Binary, text, false); !bytes.Equal(got, want) {
		t.Errorf("binary: %x", got)
	}
}
