package main

import (
	"context"
	"net/http/httptest"
	"testing"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
	"github.com/seed-29c60982/grouphub/internal/leak"
)

// TestMain fails the suite if a goroutine outlives it.
func TestMain(m *testing.M) { leak.Check(m) }

func TestARoomHearsItsMembersAndTheBackend(t *testing.T) {
	hub := grouphub.New(nil)
	t.Cleanup(func() { hub.Shutdown(context.Background()) })
	app := routes(hub)

	alice := hubtest.Dial(t, app, "/ws/chat/lobby")
	bob := hubtest.Dial(t, app, "/ws/chat/lobby")
	carol := hubtest.Dial(t, app, "/ws/chat/kitchen")

	app.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("POST", "/announce/kitchen?text=soup", nil))
	carol.Expect(map[string]any{"type": "chat.message", "group": "room:kitchen", "data": message{Text: "soup"}})

	alice.Send(message{Text: "hello"})
	for _, member := range []*hubtest.Client{alice, bob} {
		var m message
		if err := member.ExpectEvent("chat.message").Decode(&m); err != nil || m.Text != "hello" {
			t.Errorf("got %+v, %v", m, err)
		}
	}

	bob.Send("this is not JSON")
	bob.ExpectClose(1007)
}
