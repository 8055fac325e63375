package hubtest_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
)

func TestMessagesGoBothWays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := hubtest.Dial(t, upgraded(echo), "/")
		c.Send("text")
		c.Send([]byte{0, 255})
		c.Send(map[string]any{"b": 1, "a": []int{1, 2}})
		c.Send([]byte("bytes"))
		c.Expect("text")
		if m := c.Next(); !m.Binary || string(m.Data) != "\x00\xff" {
			t.Errorf("Next = %+v", m)
		}
		c.Expect(struct {
			A []float64 `json:"a"`
			B uint      `json:"b"`
		}{[]float64{1, 2}, 1})
		c.Expect([]byte("bytes"))
		c.ExpectNone(time.Hour)
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

func TestAServerIsNeverKeptWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const messages = 1000
		sent := make(chan struct{})
		c := hubtest.Dial(t, upgraded(func(conn *websocket.Conn) {
			for i := range messages {
				conn.WriteJSON(i)
			}
			close(sent)
			echo(conn)
		}), "/")
		<-sent
		for i := range messages {
			c.Expect(i)
		}
	})
}

func TestSendDoesNotWaitForTheServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := make(chan struct{})
		c := hubtest.Dial(t, upgraded(func(conn *websocket.Conn) {
			<-begin
			echo(conn)
		}), "/")
		for i := range 100 {
			c.Send(i)
		}
		close(begin)
		for i := range 100 {
			c.Expect(i)
		}
	})
}

func TestExpectEventReturnsTheEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := hubtest.Dial(t, greeting(`{"type":"chat.message","group":"g","id":"7","data":{"text":"hi"}}`), "/")
		e := c.ExpectEvent("chat.message")
		if e.Type != "chat.message" || e.Group != "g" || e.ID != "7" || string(e.Data) != `{"text":"hi"}` {
			t.Errorf("event = %+v", e)
		}
	})
}

func TestExpectCloseComparesTheCode(t *testing.T) {
	closing := func(data []byte) http.Handler {
		return upgraded(func(conn *websocket.Conn) {
			if data != nil {
				conn.WriteMessage(websocket.CloseMessage, data)
				conn.ReadMessage()
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		c := hubtest.Dial(t, closing(websocket.FormatCloseMessage(4401, "logged out")), "/")
		c.ExpectClose(4401)
		c.ExpectClose(4401) // it stays closed
		hubtest.Dial(t, closing([]byte{}), "/").ExpectClose(1005)
		hubtest.Dial(t, closing(nil), "/").ExpectClose(1006)
	})
}

func TestCloseSendsWhatWaitsAndThen1000(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		got := make(chan string, 3)
		c := hubtest.Dial(t, upgraded(func(conn *websocket.Conn) {
			for {
				_, data, err := conn.ReadMessage()
				if err != nil {
					got <- err.Error()
					return
				}
				got <- string(data)
			}
		}), "/")
		c.Send("a")
		c.Send("b")
		c.Close()
		c.Close()
		for _, want := range []string{"a", "b", "websocket: close 1000 (normal)"} {
			if g := <-got; g != want {
				t.Errorf("the server read %q, want %q", g, want)
			}
		}
	})
}

func TestFailuresOfAClientSayWhatCameInstead(t *testing.T) {
	long := strings.Repeat("x", 100_000)
	expectFailures(t, []failureCase{
		{"nothing comes",
			func(t testing.TB) { hubtest.Dial(t, greeting(), "/ws").Next() },
			"hubtest: /ws: Next: nothing came for 5s"},
		{"nothing comes for Expect",
			func(t testing.TB) { hubtest.Dial(t, greeting(), "/").Expect(map[string]int{"a": 1}) },
			"hubtest: /: Expect(`{\"a\":1}`): nothing came for 5s"},
		{"another text",
			func(t testing.TB) { hubtest.Dial(t, greeting("one"), "/").Expect("two") },
			"hubtest: /: Expect: got text `one`, want text `two`"},
		{"other bytes",
			func(t testing.TB) { hubtest.Dial(t, greeting("one"), "/").Expect([]byte("two")) },
			"hubtest: /: Expect: got text `one`, want `two`"},
		{"a long text",
			func(t testing.TB) { hubtest.Dial(t, greeting(long), "/").Expect("x") },
			"hubtest: /: Expect: got text `" + long[:500] + "`… (100000 bytes), want text `x`"},
		{"no JSON",
			func(t testing.TB) { hubtest.Dial(t, greeting("one"), "/").Expect(1) },
			"hubtest: /: Expect: got text `one`, want JSON `1`"},
		{"JSON and more",
			func(t testing.TB) { hubtest.Dial(t, greeting("1 2"), "/").Expect(1) },
			"hubtest: /: Expect: got text `1 2`, want JSON `1`"},
		{"other JSON",
			func(t testing.TB) {
				hubtest.Dial(t, greeting(`{"a":{"b":[1,2,{"c":null}]},"d":1,"f":"s"}`), "/").Expect(
					map[string]any{"a": map[string]any{"b": []any{1, 3, map[string]any{"c": "x"}}}, "e": true, "f": []int{}})
			},
			"hubtest: /: Expect: got text `{\"a\":{\"b\":[1,2,{\"c\":null}]},\"d\":1,\"f\":\"s\"}`, " +
				"want `{\"a\":{\"b\":[1,3,{\"c\":\"x\"}]},\"e\":true,\"f\":[]}`\n" +
				"\t$.a.b[1]: got 2, want 3\n\t$.a.b[2].c: got null, want \"x\"\n\t$.d: got 1, want none\n" +
				"\t$.e: missing, want true\n\t$.f: got \"s\", want []"},
		{"large numbers that a float64 takes for one",
			func(t testing.TB) {
				hubtest.Dial(t, greeting("9007199254740993"), "/").Expect(9007199254740992)
			},
			"hubtest: /: Expect: got text `9007199254740993`, want `9007199254740992`\n\t$: got 9007199254740993, want 9007199254740992"},
		{"another event",
			func(t testing.TB) {
				hubtest.Dial(t, greeting(`{"type":"chat.left"}`), "/").ExpectEvent("chat.message")
			},
			"hubtest: /: ExpectEvent(\"chat.message\"): got text `{\"type\":\"chat.left\"}`"},
		{"no event",
			func(t testing.TB) { hubtest.Dial(t, greeting(`["type"]`), "/").ExpectEvent("chat.message") },
			"hubtest: /: ExpectEvent(\"chat.message\"): got text `[\"type\"]`"},
		{"something where nothing should be",
			func(t testing.TB) { hubtest.Dial(t, greeting("one"), "/").ExpectNone(time.Second) },
			"hubtest: /: ExpectNone(1s): got text `one`"},
		{"an end where nothing should be",
			func(t testing.TB) {
				hubtest.Dial(t, upgraded(func(*websocket.Conn) {}), "/").ExpectNone(time.Second)
			},
			"hubtest: /: ExpectNone(1s): the connection was cut without a close frame: websocket: close 1006 (abnormal closure): unexpected EOF"},
		{"messages before a close",
			func(t testing.TB) {
				hubtest.Dial(t, upgraded(func(conn *websocket.Conn) {
					conn.WriteMessage(websocket.TextMessage, []byte("one"))
					conn.WriteMessage(websocket.TextMessage, []byte("two"))
				}), "/").ExpectClose(1006)
			},
			"hubtest: /: ExpectClose(1006): got text `one`"},
		{"another code",
			func(t testing.TB) {
				hubtest.Dial(t, upgraded(func(conn *websocket.Conn) {
					conn.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(1011, "broken"))
					conn.ReadMessage()
				}), "/").ExpectClose(1000)
			},
			"hubtest: /: ExpectClose(1000): the connection was closed: websocket: close 1011 (internal server error): broken"},
		{"no close",
			func(t testing.TB) { hubtest.Dial(t, greeting(), "/").ExpectClose(1000) },
			"hubtest: /: ExpectClose(1000): nothing came for 5s"},
		{"a message on a closed connection",
			func(t testing.TB) {
				c := hubtest.Dial(t, greeting(), "/")
				c.Close()
				c.Send("late")
			},
			"hubtest: /: Send(`late`): the connection was closed by this client: websocket: close 1000 (normal)"},
		{"a value that is no JSON",
			func(t testing.TB) { hubtest.Dial(t, greeting(), "/").Send(func() {}) },
			"hubtest: /: Send(func()): json: unsupported type: func()"},
		{"a server that does not read",
			func(t testing.TB) {
				end := make(chan struct{})
				t.Cleanup(func() { close(end) })
				c := hubtest.Dial(t, upgraded(func(*websocket.Conn) { <-end }), "/")
				for range 10_002 {
					c.Send("x")
				}
			},
			"hubtest: /: Send(`x`): the server has not read the 10000 messages before it"},
	})
}

func TestSkipToSkipsWhateverComesBefore(t *testing.T) {
	for name, opts := range map[string][]hubtest.DialOption{"WebSocket": nil, "stream": {hubtest.AsStream()}} {
		t.Run(name, func(t *testing.T) {
			hub := newHub(t, &grouphub.Options{Consumer: grouphub.Consumer{Connect: func(c *grouphub.Conn) error {
				return errors.Join(c.Send([]byte("text")), c.SendBinary([]byte(`{"type":"note"}`)),
					c.SendJSON(grouphub.Event{Type: "other"}), c.SendJSON(grouphub.Event{Type: "note", ID: "1"}), c.Send([]byte("behind")))
			}}})
			c := hubtest.Dial(t, hub, "/", opts...)
			if e := c.SkipTo("note"); e.ID != "1" {
				t.Errorf("got %+v", e)
			}
			c.Expect("behind")
		})
	}
}

func TestWithUserSaysWhoConnectsAndPosts(t *testing.T) {
	hub := newHub(t, &grouphub.Options{Consumer: grouphub.Consumer{Receive: func(c *grouphub.Conn, m grouphub.Message) error {
		return c.Send([]byte(c.User().ID + " says " + string(m.Data)))
	}}})
	for name, opts := range map[string][]hubtest.DialOption{"WebSocket": nil, "stream": {hubtest.AsStream()}} {
		t.Run(name, func(t *testing.T) {
			c := hubtest.Dial(t, hub, "/", append(opts, hubtest.WithUser(grouphub.User{ID: "ann"}))...)
			c.Send("hello")
			c.Expect("ann says hello")
		})
	}
}
