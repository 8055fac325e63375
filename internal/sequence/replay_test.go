package sequence

import (
	"testing"

	"github.com/seed-29c60982/grouphub/internal/wire"
)

// replay takes one piece of about n publications.
func (t *topic) replay(r *Replay, n int) (piece Piece[wire.Publication]) {
	t.Piece(r, n, func(wire.Publication) int { return 1 }, func(p Piece[wire.Publication]) bool {
		piece = p
		return true
	})
	return piece
}

func TestAReplayEndsWhenTheCountBeginsAnewBetweenItsPieces(t *testing.T) {
	live(t, hundred, func(s *topic) {
		r := Replay{Last: 10}
		if p := s.replay(&r, 5); len(p.Values) != 5 || p.Live || p.Lost {
			t.Fatalf("got %+v", p)
		}
		s.Receive(numbered("B", 1)) // nothing is missing, for those who are live
		if p := s.replay(&r, 5); !p.Live || !p.Lost {
			t.Fatalf("got %+v", p)
		}
		s.expect(t, 1, 0)
	})
}
