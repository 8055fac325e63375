package main

import (
	"fmt"
	"net/http"
	"net/url"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-29c60982/grouphub/hubtest"
)

func TestNobodyCanOpenAnyNumberOfRooms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := newChat(t)
		announce := func(room string, want int) {
			t.Helper()
			if w := announceTo(chat, room, "hello", nil); w.Code != want {
				t.Fatalf("an announcement in %s was answered with %d %s, want %d", room, w.Code, w.Body, want)
			}
		}
		ann := enter(t, chat, "lobby", "Ann")
		for i := range maxRooms - 1 {
			announce(fmt.Sprint("room ", i), http.StatusNoContent)
		}
		announce("one too many", http.StatusServiceUnavailable)
		query := url.Values{"room": {"one too many"}, "name": {"Eve"}}
		if response := hubtest.DialRefused(t, chat, "/ws?"+query.Encode()); response.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("who enters one room too many gets %d", response.StatusCode)
		}
		announce("room 1", http.StatusNoContent) // the others go on
		enter(t, chat, "room 2", "Bob")

		time.Sleep(roomLife + time.Second)
		for i := range maxRooms {
			announce(fmt.Sprint("another room ", i), http.StatusNoContent)
		}
		ann.ExpectEvent("presence") // she has come, an hour ago
		ann.Send(message{Text: "Is anybody still here?"})
		ann.ExpectClose(1013)
	})
}
