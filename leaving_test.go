package grouphub_test

import (
	"context"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/seed-29c60982/grouphub"
)

func TestAClientThatLeavesDuringACallbackIsDisconnected(t *testing.T) {
	for name, leave := range map[string]func(*websocket.Conn){
		"cut": func(conn *websocket.Conn) { conn.Close() },
		"closed": func(conn *websocket.Conn) {
			conn.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(1000, ""))
			conn.ReadMessage()
			conn.Close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			hub := grouphub.New(nil)
			called := make(chan struct{})
			left := make(chan int, 1)
			server := httptest.NewServer(hub.Handler(grouphub.Consumer{
				Receive: func(c *grouphub.Conn, _ grouphub.Message) error {
					close(called)
					<-c.Context().Done()
					return nil
				},
				Disconnect: func(_ context.Context, _ *grouphub.Conn, code int) { left <- code },
			}))
			defer server.Close()
			conn, _, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(server.URL, "http"), nil)
			if err != nil {
				t.Fatal(err)
			}
			conn.WriteMessage(websocket.TextMessage, []byte("go"))
			<-called
			leave(conn)
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			select {
			case <-left:
			case <-ctx.Done():
				t.Error("Disconnect was not called")
			}
			if err := hub.Shutdown(ctx); err != nil {
				t.Error(err)
			}
		})
	}
}
