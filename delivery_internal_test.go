package grouphub

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/seed-29c60982/grouphub/internal/envelope"
)

// A buffer that waits for a slow client counts by its length, so it has no spare capacity.
func TestWhatIsPushedHoldsNoMoreThanItsLength(t *testing.T) {
	h := New(nil)
	defer h.Shutdown(context.Background())
	event := func(name, data string) *delivery {
		payload, err := envelope.EncodeEvent(envelope.Envelope{}, "g", name, data, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		env, err := envelope.Decode(payload)
		if err != nil {
			t.Fatal(err)
		}
		return &delivery{hub: h, env: env}
	}
	short := Render(func(Event) ([]byte, error) { return json.RawMessage(`<li>new</li>`), nil })
	handle := Handle(func(*Conn, Event) error { return nil })
	for name, test := range map[string]struct {
		large    EventHandler
		deflated bool
		small    int // events besides the large one
	}{
		"a short Render":                   {large: short},
		"a deflated Forward":               {large: Forward(), deflated: true},
		"a Forward":                        {large: Forward()},
		"Forwards":                         {large: Forward(), small: 100},
		"Forwards and a short Render":      {large: short, small: 100},
		"Forwards and a large Handle":      {large: handle, small: 1},
		"Forwards and a large unknown one": {small: 1},
		"deflated Forwards":                {large: Forward(), deflated: true, small: 100},
	} {
		e := newEndpoint(h, Consumer{Events: Events{"large": test.large, "small": Forward()}})
		batch := []*delivery{event("large", strings.Repeat("x", 60_000))}
		for range test.small {
			batch = append(batch, event("small", "y"))
		}
		if test.large.kind == handlerRender {
			batch[0].render(e)
		}
		encoding := encodingFrames
		if test.deflated {
			encoding = encodingDeflatedFrames
		}
		c := h.compose(variant{e, encoding, false}, batch)
		if c.frames == 0 || cap(c.bytes) > len(c.bytes)+len(c.bytes)/4+64 { // size classes among it
			t.Errorf("%s: %d frames of %d bytes hold %d", name, c.frames, len(c.bytes), cap(c.bytes))
		}
	}
}
