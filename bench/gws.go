//go:build linux

package main

import (
	"net/http"

	"github.com/lxzan/gws"
)

// gwsServer uses gws's own Broadcaster, which frames a message once.
type gwsServer struct {
	gws.BuiltinEventHandler
	upgrader *gws.Upgrader
	members  *roster[*gws.Conn]
}

func newGWS(setup) (contender, error) {
	s := &gwsServer{members: newRoster[*gws.Conn]()}
	s.upgrader = gws.NewUpgrader(s, &gws.ServerOption{ReadBufferSize: 1024})
	return s, nil
}

func (s *gwsServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	conn, err := s.upgrader.Upgrade(w, r)
	if err != nil {
		return
	}
	group := r.PathValue("group")
	conn.Session().Store("group", group)
	s.members.join(group, conn)
	go conn.ReadLoop()
}

// OnClose is gws's callback.
func (s *gwsServer) OnClose(conn *gws.Conn, _ error) {
	group, _ := conn.Session().Load("group")
	s.members.leave(group.(string), conn)
}

func (s *gwsServer) publish(group string, n int, next func() []byte) error {
	for range n {
		b := gws.NewBroadcaster(gws.OpcodeText, next())
		s.members.each(group, func(conn *gws.Conn) { b.Broadcast(conn) })
		if err := b.Close(); err != nil {
			return err
		}
	}
	return nil
}
