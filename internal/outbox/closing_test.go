package outbox_test

import (
	"errors"
	"testing"

	"github.com/seed-29c60982/grouphub/internal/outbox"
)

func TestCloseWithAfterThePeersCloseStillSaysSo(t *testing.T) {
	synctestOnPipe(t, generous, func(t *testing.T, s *socket) {
		s.control(t, opClose, code(1000)) // gorilla's echo
		s.wantControl(t, opClose, code(1000))
		if err := s.CloseWith(4000, ""); !errors.Is(err, outbox.ErrClosed) {
			t.Errorf("CloseWith: %v", err)
		}
		s.wantEnding(t, outbox.Closed)
		if code := s.Code(); code != 1000 {
			t.Errorf("code %d", code)
		}
	})
}
