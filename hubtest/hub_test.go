package hubtest_test

import (
	"context"
	"io"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
)

// newHub returns a hub that is shut down when the test ends.
func newHub(t *testing.T, opts *grouphub.Options) *grouphub.Hub {
	hub := grouphub.New(opts)
	t.Cleanup(func() {
		if err := hub.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return hub
}

func TestDialReturnsOnceConnectHas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub := newHub(t, nil)
		mux := http.NewServeMux()
		mux.Handle("GET /ws/{room}", hub.Handler(grouphub.Consumer{
			Connect: func(c *grouphub.Conn) error {
				<-time.After(time.Second) // it looks something up
				return c.Join("room:" + c.PathValue("room"))
			},
			Events: grouphub.Events{"chat.message": grouphub.Forward()},
		}))
		lobby := hubtest.Dial(t, mux, "/ws/lobby")
		kitchen := hubtest.Dial(t, mux, "/ws/kitchen")
		if err := hub.GroupSend(t.Context(), "room:lobby", "chat.message", "hi"); err != nil {
			t.Fatal(err)
		}
		e := lobby.ExpectEvent("chat.message")
		if e.Group != "room:lobby" || string(e.Data) != `"hi"` {
			t.Errorf("event = %+v", e)
		}
		// The hub pings all the while, and the client answers.
		kitchen.ExpectNone(time.Hour)
		lobby.ExpectNone(0)
	})
}

func TestAHubsMessagesAndClosesAreSeenAsTheyAre(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub := newHub(t, nil)
		echo := hub.Handler(grouphub.Consumer{
			Receive: func(c *grouphub.Conn, m grouphub.Message) error {
				switch {
				case m.Binary:
					return c.SendBinary(m.Data)
				case string(m.Data) == "bye":
					return &grouphub.CloseError{Code: 4000, Reason: "bye"}
				}
				return c.Send(m.Data)
			},
		})
		c := hubtest.Dial(t, echo, "/")
		c.Send("text")
		c.Expect("text")
		c.Send([]byte{0, 1, 2})
		if m := c.Next(); !m.Binary || string(m.Data) != "\x00\x01\x02" {
			t.Errorf("Next = %+v", m)
		}
		c.Send(map[string]int{"a": 1})
		c.Expect(map[string]int{"a": 1})
		c.Send("bye")
		c.ExpectClose(4000)

		hubtest.Dial(t, echo, "/").Close()
		last := hubtest.Dial(t, echo, "/")
		stopped := make(chan error)
		go func() { stopped <- hub.Shutdown(context.Background()) }()
		last.ExpectClose(1001)
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	})
}

func TestDialRefusedReturnsAHubsAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub := newHub(t, &grouphub.Options{MaxConns: 1})
		h := hub.Handler(grouphub.Consumer{
			Accept: func(r *http.Request) error {
				if r.Header.Get("Cookie") == "" {
					return &grouphub.Reject{Status: 402, Reason: "pay first"}
				}
				return nil
			},
		})
		cookie := hubtest.WithHeader(http.Header{"Cookie": {"paid=1"}})
		answers := func(want int, line string, opts ...hubtest.DialOption) {
			t.Helper()
			answer := hubtest.DialRefused(t, h, "/", opts...)
			body, err := io.ReadAll(answer.Body)
			if answer.StatusCode != want || string(body) != line+"\n" || err != nil {
				t.Errorf("answer = %d %q, %v, want %d %q", answer.StatusCode, body, err, want, line)
			}
		}
		answers(402, "pay first")
		answers(403, `origin "https://evil.example" is not allowed`,
			cookie, hubtest.WithHeader(http.Header{"Origin": {"https://evil.example"}}))
		hubtest.Dial(t, h, "/", cookie, hubtest.WithHeader(http.Header{"Origin": {"https://example.com"}}))
		if answer := hubtest.DialRefused(t, h, "/", cookie); answer.StatusCode != 503 || answer.Header.Get("Retry-After") == "" {
			t.Errorf("a full hub answers %d %v", answer.StatusCode, answer.Header)
		}
	})
}
