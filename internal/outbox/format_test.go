package outbox_test

import (
	"testing"

	"github.com/seed-29c60982/grouphub/internal/eventstream"
	"github.com/seed-29c60982/grouphub/internal/outbox"
)

func TestOfAStreamsBlocksOnlyEventsCountAsLost(t *testing.T) {
	blocks := []byte(eventstream.Comment)
	blocks = eventstream.AppendBlock(blocks, "", []byte("an event"), "1")
	blocks = eventstream.AppendBlock(blocks, eventstream.Position, nil, "2")
	sent := len(blocks)
	blocks = eventstream.AppendBlock(blocks, "named", []byte("another"), "")
	blocks = append(blocks, eventstream.NewClose(1001, "bye")...)
	if all, rest := outbox.EventStream.CountData(blocks, 0), outbox.EventStream.CountData(blocks, sent); all != 2 || rest != 1 {
		t.Errorf("%d events, of which %d are not sent, want 2 and 1", all, rest)
	}
}
