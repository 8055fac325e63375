package hubtest_test

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
)

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

func TestFailuresOfDialSayWhatCameInstead(t *testing.T) {
	refusing := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "who are you", http.StatusUnauthorized) })
	expectFailures(t, []failureCase{
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
	})
}
