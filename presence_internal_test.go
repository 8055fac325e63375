package grouphub

import (
	"context"
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

func TestPresenceFollowsAChangeOfTheUser(t *testing.T) {
	layer := NewMemoryLayer()
	options := &Options{Layer: layer, Policy: func(string) GroupPolicy { return GroupPolicy{Announce: true} }}
	options.Consumer.Events = Events{"presence": Forward()}
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
		for deadline := time.Now().Add(30 * time.Second); info() != want; time.Sleep(time.Millisecond) {
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
	var told strings.Builder
	for !strings.Contains(told.String(), `"user":"ann"`) {
		_, data, err := client.ReadMessage()
		if err != nil {
			t.Fatal(err)
		}
		var e struct {
			Data struct{ Joined, Left []struct{ User string } }
		}
		if err := json.Unmarshal(data, &e); err != nil {
			t.Fatal(err)
		}
		told.Write(data)
		if joined, left := e.Data.Joined, e.Data.Left; len(joined) > 0 && (len(left) != 1 || left[0].User != "") {
			t.Errorf("told %s, want that nobody left where ann joined", data)
		}
	}
}
