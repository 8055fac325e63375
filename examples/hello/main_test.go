package main

import (
	"context"
	"crypto/rand"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
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

// announce posts a form to a room and returns the status.
func announce(t *testing.T, app http.Handler, header http.Header, body io.Reader) int {
	t.Helper()
	r := httptest.NewRequest("POST", "/announce/lobby", body)
	r.Header = header
	w := httptest.NewRecorder()
	app.ServeHTTP(w, r)
	return w.Code
}

func TestAFormOfAnotherSiteIsRefused(t *testing.T) {
	hub := grouphub.New(nil)
	t.Cleanup(func() { hub.Shutdown(context.Background()) })
	form := http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}
	if code := announce(t, routes(hub), form, strings.NewReader("text=soup")); code != http.StatusOK {
		t.Errorf("status %d, want %d", code, http.StatusOK)
	}
	form.Set("Sec-Fetch-Site", "cross-site")
	if code := announce(t, routes(hub), form, strings.NewReader("text=soup")); code != http.StatusForbidden {
		t.Errorf("status %d for a page of another site, want %d", code, http.StatusForbidden)
	}
}

// A counted reader counts what is read of it.
type counted struct {
	io.Reader
	read int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.read += int64(n)
	return n, err
}

func TestALargeFormIsNotRead(t *testing.T) {
	hub := grouphub.New(nil)
	t.Cleanup(func() { hub.Shutdown(context.Background()) })
	const size = 64 << 20
	body := &counted{Reader: io.MultiReader(
		strings.NewReader("--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"f\"\r\n\r\n"),
		io.LimitReader(rand.Reader, size),
		strings.NewReader("\r\n--x\r\nContent-Disposition: form-data; name=\"text\"\r\n\r\nsoup\r\n--x--\r\n"))}
	header := http.Header{"Content-Type": {"multipart/form-data; boundary=x"}}
	if code := announce(t, routes(hub), header, body); code != http.StatusBadRequest || body.read > 1<<20 {
		t.Errorf("status %d after %d bytes, want %d after a few", code, body.read, http.StatusBadRequest)
	}
}
