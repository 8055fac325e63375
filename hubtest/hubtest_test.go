package hubtest_test

import (
	"fmt"
	"io"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"github.com/seed-29c60982/grouphub/hubtest"
	"github.com/seed-29c60982/grouphub/internal/leak"
)

// TestMain fails the suite if a goroutine outlives it.
func TestMain(m *testing.M) { leak.Check(m) }

// upgraded is a handler that upgrades, hands the connection to fn on a goroutine of
// its own, and returns, as a hub's does.
func upgraded(fn func(*websocket.Conn)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		upgrader := websocket.Upgrader{Subprotocols: []string{"chat"}}
		conn, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			fn(conn)
		}()
	})
}

// echo sends back what it reads until the connection ends.
func echo(conn *websocket.Conn) {
	for {
		opcode, data, err := conn.ReadMessage()
		if err != nil || conn.WriteMessage(opcode, data) != nil {
			return
		}
	}
}

// greeting sends texts and keeps the connection open.
func greeting(texts ...string) http.Handler {
	return upgraded(func(conn *websocket.Conn) {
		for _, text := range texts {
			conn.WriteMessage(websocket.TextMessage, []byte(text))
		}
		echo(conn)
	})
}

// A failing is a testing.TB that writes down the first failure.
type failing struct {
	testing.TB
	message string
}

func (f *failing) Errorf(format string, args ...any) {
	if f.message == "" {
		f.message = fmt.Sprintf(format, args...)
	}
}

func (f *failing) Fatalf(format string, args ...any) {
	f.Errorf(format, args...)
	runtime.Goexit()
}

// failure runs fn as a test would be run, and returns what it failed with.
func failure(t *testing.T, fn func(t testing.TB)) string {
	f := &failing{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		fn(f)
	}()
	<-done
	return f.message
}

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

func TestItWorksOutsideOfABubble(t *testing.T) {
	c := hubtest.Dial(t, upgraded(echo), "/")
	c.Send("text")
	c.Expect("text")
	c.ExpectNone(time.Millisecond)
	c.Close()
}

func TestThePathMayHaveAQueryAndTheRequestIsNoBrowsers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		requests := make(chan *http.Request, 1)
		mux := http.NewServeMux()
		mux.HandleFunc("GET /ws/{room}", func(w http.ResponseWriter, r *http.Request) {
			requests <- r
			upgraded(echo).ServeHTTP(w, r)
		})
		hubtest.Dial(t, mux, "/ws/a%20b?resume=x%40y&z",
			hubtest.WithHeader(http.Header{"Cookie": {"a=b"}, "Sec-Websocket-Protocol": {"chat"}}),
			hubtest.WithHeader(http.Header{"X-Two": {"1", "2"}}))
		r := <-requests
		if r.PathValue("room") != "a b" || r.FormValue("resume") != "x@y" || r.Host != "example.com" ||
			r.Header.Get("Cookie") != "a=b" || len(r.Header["X-Two"]) != 2 || r.Header["Origin"] != nil {
			t.Errorf("request = %v at %s with %v", r.URL, r.Host, r.Header)
		}
		hubtest.Dial(t, mux, "/ws/lobby", hubtest.WithHeader(http.Header{"Host": {"own.example"}, "Origin": {"http://own.example"}}))
		if r := <-requests; r.Host != "own.example" || r.Header.Get("Origin") != "http://own.example" {
			t.Errorf("Host = %q, Origin = %q", r.Host, r.Header.Get("Origin"))
		}
	})
}

func TestDialReturnsOnceTheHandlerHas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		returned := false // no lock: Dial returns after it was set
		hubtest.Dial(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			upgraded(echo).ServeHTTP(w, r)
			<-time.After(4 * time.Second) // a slow Connect
			returned = true
		}), "/")
		if !returned {
			t.Error("Dial did not wait")
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

func TestDialRefusedReturnsTheWholeAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		body := strings.Repeat("no. ", 1000)
		answer := hubtest.DialRefused(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Retry-After", r.Header.Get("X-Wait"))
			http.Error(w, body, http.StatusServiceUnavailable)
		}), "/", hubtest.WithHeader(http.Header{"X-Wait": {"7"}}))
		got, err := io.ReadAll(answer.Body)
		if answer.StatusCode != 503 || answer.Header.Get("Retry-After") != "7" || string(got) != body+"\n" || err != nil {
			t.Errorf("answer = %v with %d bytes, %v", answer, len(got), err)
		}
		// The request is one that could have been upgraded.
		refused := hubtest.DialRefused(t, upgraded(echo), "/", hubtest.WithHeader(http.Header{"Origin": {"http://evil.example"}}))
		if refused.StatusCode != 403 {
			t.Errorf("a foreign origin gets %s", refused.Status)
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

func TestACleanupClosesWhatTheTestLeftOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		closed := make(chan struct{})
		inner := &cleaning{TB: t}
		hubtest.Dial(inner, upgraded(func(conn *websocket.Conn) {
			echo(conn)
			close(closed)
		}), "/")
		inner.clean()
		<-closed
	})
}

// A cleaning runs its cleanups when it is told to.
type cleaning struct {
	testing.TB
	cleanups []func()
}

func (c *cleaning) Cleanup(fn func()) { c.cleanups = append(c.cleanups, fn) }

func (c *cleaning) clean() {
	for _, fn := range slices.Backward(c.cleanups) {
		fn()
	}
}

func TestFailuresSayWhatCameInstead(t *testing.T) {
	refusing := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "who are you", http.StatusUnauthorized) })
	long := strings.Repeat("x", 100_000)
	for _, test := range []struct {
		name string
		fn   func(t testing.TB)
		want string
	}{
		{"a refused Dial",
			func(t testing.TB) { hubtest.Dial(t, refusing, "/ws") },
			"hubtest: Dial /ws: refused with 401 Unauthorized: `who are you`"},
		{"a Dial without a slash",
			func(t testing.TB) { hubtest.Dial(t, refusing, "ws") },
			`hubtest: path "ws" does not begin with a slash`},
		{"a handler that panics",
			func(t testing.TB) { hubtest.Dial(t, http.HandlerFunc(nil), "/") },
			"hubtest: Dial /: unexpected EOF"},
		{"a Dial with a header that is Dial's own",
			func(t testing.TB) {
				hubtest.Dial(t, upgraded(echo), "/", hubtest.WithHeader(http.Header{"Upgrade": {"x"}}))
			},
			"hubtest: Dial /: websocket: duplicate header not allowed: Upgrade"},
		{"a handler that does not return",
			func(t testing.TB) {
				hubtest.Dial(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					upgraded(echo).ServeHTTP(w, r)
					<-time.After(8 * time.Second)
				}), "/")
			},
			"hubtest: Dial /: upgraded, but the handler has not returned for 5s: does Connect block?"},
		{"an upgrade that should have been refused",
			func(t testing.TB) { hubtest.DialRefused(t, upgraded(echo), "/ws") },
			"hubtest: DialRefused /ws: the connection was upgraded, not refused"},
		{"a handler that does not answer",
			func(t testing.TB) {
				hubtest.DialRefused(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }), "/")
			},
			"hubtest: DialRefused /: read pipe: i/o timeout"},
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
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if got := failure(t, test.fn); got != test.want {
					t.Errorf("failed with\n%s\nwant\n%s", got, test.want)
				}
			})
		})
	}
}
