package grouphub

import (
	"context"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

func TestPresenceFollowsAChangeOfTheUser(t *testing.T) {
	layer := NewMemoryLayer()
	options := &Options{Layer: layer, Policy: func(string) GroupPolicy { return GroupPolicy{Presence: true} }}
	conns := make(chan *Conn, 1)
	options.Consumer.Connect = func(c *Conn) error {
		conns <- c
		return c.Join("all")
	}
	one, two := New(options), New(options)
	server := httptest.NewServer(one)
	defer func() {
		server.Close()
		one.Shutdown(context.Background())
		two.Shutdown(context.Background())
		layer.Close()
	}()
	client, _, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(server.URL, "http"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	c := <-conns
	info := func() string {
		members, err := two.Members(t.Context(), "all")
		if err != nil {
			t.Fatal(err)
		}
		if len(members) == 1 {
			return members[0].UserID + string(members[0].Info)
		}
		return "nobody"
	}
	await := func(want string) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); info() != want; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("the member is %s, want %s", info(), want)
			}
		}
	}
	await("")
	if err := c.SetUser(User{ID: "ann", Info: "Ann"}); err != nil {
		t.Fatal(err)
	}
	await(`ann"Ann"`)
}
