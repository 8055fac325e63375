//go:build linux

package main

import (
	"net/http"

	"github.com/olahol/melody"
)

// melodyServer broadcasts with a filter, which is what melody has for groups.
type melodyServer struct{ melody *melody.Melody }

func newMelody(setup) (contender, error) {
	m := melody.New()
	m.HandleConnect(func(*melody.Session) { joined.Add(1) })
	m.HandleDisconnect(func(*melody.Session) { left.Add(1) })
	return melodyServer{m}, nil
}

func (s melodyServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.melody.HandleRequestWithKeys(w, r, map[string]any{"group": r.PathValue("group")})
}

func (s melodyServer) publish(group string, n int, next func() []byte) error {
	for range n {
		err := s.melody.BroadcastFilter(next(), func(session *melody.Session) bool {
			g, _ := session.Get("group")
			return g == group
		})
		if err != nil {
			return err
		}
	}
	return nil
}
