package grouphub_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
)

// The end of the socket is no close frame. After a close frame the client's last messages
// are still handled, for which there is a second. Here the context is cancelled at once, so
// that a callback that blocks learns of it.
func TestContextIsCancelledAtOnceWhileACallbackBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		entered, cancelled := make(chan struct{}), make(chan struct{})
		hub := newHub(t, &grouphub.Options{Consumer: grouphub.Consumer{Receive: func(c *grouphub.Conn, m grouphub.Message) error {
			close(entered)
			<-c.Context().Done()
			close(cancelled)
			return nil
		}}})
		c := dialPipe(t, hub, "/")
		c.WriteMessage(websocket.TextMessage, []byte("x"))
		<-entered
		closed := time.Now()
		c.Close()
		<-cancelled
		if took := time.Since(closed); took > 0 {
			t.Errorf("cancelled after %v", took)
		}
	})
	// The kernel tells it of a socket.
	entered, cancelled := make(chan struct{}), make(chan struct{})
	hub := hubOf(t, grouphub.Consumer{Receive: func(c *grouphub.Conn, m grouphub.Message) error {
		close(entered)
		<-c.Context().Done()
		close(cancelled)
		return nil
	}})
	c := serve(t, hub).dial("/")
	c.WriteMessage(websocket.TextMessage, []byte("x"))
	<-entered
	c.Close()
	<-cancelled
}

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
			synctest.Test(t, func(t *testing.T) {
				called := make(chan struct{})
				left := make(chan int, 1)
				hub := grouphub.New(&grouphub.Options{Consumer: grouphub.Consumer{
					Receive: func(c *grouphub.Conn, _ grouphub.Message) error {
						close(called)
						<-c.Context().Done()
						return nil
					},
					Disconnect: func(_ context.Context, _ *grouphub.Conn, code int) { left <- code },
				}})
				conn := dialPipe(t, hub, "/")
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
		})
	}
}

func TestMessagesBeforeTheClientsCloseAreHandled(t *testing.T) {
	hub := hubOf(t, grouphub.Consumer{
		Connect: joinAll,
		Receive: func(c *grouphub.Conn, m grouphub.Message) error {
			return c.Hub().GroupSend(c.Context(), "all", "note", string(m.Data))
		},
		Events: grouphub.Events{"note": grouphub.Forward()},
	})
	witness := hubtest.Dial(t, hub, "/")
	for range 50 {
		c := hubtest.Dial(t, hub, "/")
		for i := range 3 {
			c.Send(fmt.Sprint(i))
		}
		c.Close()
		for i := range 3 {
			witness.Expect(fmt.Sprintf(`{"type":"note","group":"all","data":"%d"}`, i))
		}
	}
}

// The messages that a client sent before its close frame are still handled, unless a
// callback ends the connection.
func TestNoCallbackButDisconnectFollowsOneThatEndsTheConnection(t *testing.T) {
	for name, first := range map[string]func(*grouphub.Conn) error{
		"CloseError": func(*grouphub.Conn) error { return &grouphub.CloseError{Code: 4403, Reason: "no"} },
		"error":      func(*grouphub.Conn) error { return errors.New("broken") },
		"panic":      func(*grouphub.Conn) error { panic("broken") },
		"Close":      func(c *grouphub.Conn) error { c.Close(4403, "no"); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			var got string
			started, proceed, gone := make(chan struct{}), make(chan struct{}), make(chan string, 1)
			hub := newHub(t, &grouphub.Options{Logger: slog.New(slog.DiscardHandler), Consumer: grouphub.Consumer{
				Connect: joinAll,
				Receive: func(c *grouphub.Conn, m grouphub.Message) error {
					got += string(m.Data)
					if string(m.Data) != "A" {
						return nil
					}
					close(started)
					<-proceed
					return first(c)
				},
				Disconnect: func(context.Context, *grouphub.Conn, int) { gone <- got },
			}})
			c := serve(t, hub).dial("/")
			c.WriteMessage(websocket.TextMessage, []byte("A"))
			<-started
			c.WriteMessage(websocket.TextMessage, []byte("B"))
			c.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(1000, ""))
			wantClose(t, c, 1000) // the echo
			close(proceed)
			if got := <-gone; got != "A" {
				t.Errorf("callbacks ran for %q", got)
			}
		})
	}
}

func TestDisconnectRunsExactlyOnceIfConnectWasCalled(t *testing.T) {
	for name, test := range map[string]struct {
		connect error
		end     func(*websocket.Conn, *grouphub.Conn)
		code    int
	}{
		"client closes": {nil, func(c *websocket.Conn, _ *grouphub.Conn) {
			c.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(4001, ""))
		}, 4001},
		"client closes without a code": {nil, func(c *websocket.Conn, _ *grouphub.Conn) {
			c.WriteMessage(websocket.CloseMessage, nil)
		}, 1005},
		"socket is cut":     {nil, func(c *websocket.Conn, _ *grouphub.Conn) { c.NetConn().Close() }, 1006},
		"server closes":     {nil, func(_ *websocket.Conn, c *grouphub.Conn) { c.Close(4002, "") }, 4002},
		"Connect refuses":   {&grouphub.CloseError{Code: 4003, Reason: "no"}, nil, 4003},
		"Connect fails":     {errors.New("broken"), nil, 1011},
		"layer unavailable": {fmt.Errorf("x: %w", grouphub.ErrUnavailable), nil, 1013},
		"protocol error": {nil, func(c *websocket.Conn, _ *grouphub.Conn) {
			c.NetConn().Write([]byte{0xff, 0xff, 0xff})
		}, 1002},
		"oversize": {nil, func(c *websocket.Conn, _ *grouphub.Conn) {
			c.WriteMessage(websocket.TextMessage, make([]byte, 64<<10+1))
		}, 1009},
	} {
		t.Run(name, func(t *testing.T) {
			codes, conns := make(chan int, 2), make(chan *grouphub.Conn, 1)
			hub := hubOf(t, grouphub.Consumer{
				Connect:    func(c *grouphub.Conn) error { conns <- c; return test.connect },
				Disconnect: func(_ context.Context, _ *grouphub.Conn, code int) { codes <- code },
			})
			client := serve(t, hub).dial("/")
			conn := <-conns
			if test.end != nil {
				test.end(client, conn)
			}
			go func() { // answer a close, like any client
				for {
					if _, _, err := client.ReadMessage(); err != nil {
						client.Close()
						return
					}
				}
			}()
			if code := <-codes; code != test.code {
				t.Errorf("code %d, want %d", code, test.code)
			}
			if err := hub.Shutdown(background); err != nil {
				t.Fatal(err)
			}
			select {
			case code := <-codes:
				t.Errorf("Disconnect was called twice, then with %d", code)
			default:
			}
		})
	}
}

func TestDisconnectCanStillAct(t *testing.T) {
	type key struct{}
	checked := make(chan struct{})
	hub := hubOf(t, grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error { return errors.Join(c.Join("all"), c.Join("a")) },
		Disconnect: func(ctx context.Context, c *grouphub.Conn, code int) {
			defer close(checked)
			if got := c.Groups(); !slices.Equal(got, []string{"a", "all"}) {
				t.Errorf("Groups are %q", got)
			}
			if c.Context().Err() == nil || ctx.Err() != nil || ctx.Value(key{}) != "value" {
				t.Errorf("contexts: %v, %v, %v", c.Context().Err(), ctx.Err(), ctx.Value(key{}))
			}
			if deadline, ok := ctx.Deadline(); !ok || time.Until(deadline) > 5*time.Second {
				t.Errorf("ends at %v", deadline)
			}
			if err := c.Join("b"); !errors.Is(err, grouphub.ErrClosed) {
				t.Errorf("Join: %v", err)
			}
			if err := c.Hub().GroupSend(ctx, "all", "left", nil); err != nil {
				t.Errorf("GroupSend: %v", err)
			}
			if n := c.Hub().Stats().Groups; n != 1 { // "all", of the witness
				t.Errorf("%d groups", n)
			}
		},
	})
	witness := hubtest.Dial(t, hub.Handler(grouphub.Consumer{
		Connect: joinAll, Events: grouphub.Events{"left": grouphub.Forward()}}), "/")
	c := hubtest.Dial(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hub.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), key{}, "value")))
	}), "/")
	c.Close()
	<-checked
	witness.Expect(`{"type":"left","group":"all"}`)
}

func TestDisconnectComesAfterPresenceIsLeft(t *testing.T) {
	listed := make(chan []grouphub.Member, 2)
	hub := newHub(t, &grouphub.Options{
		Policy: func(string) grouphub.GroupPolicy { return grouphub.GroupPolicy{Presence: true} },
		Consumer: grouphub.Consumer{
			Connect: joinAll,
			Disconnect: func(ctx context.Context, c *grouphub.Conn, _ int) {
				members, err := c.Hub().Members(ctx, "all")
				if err != nil {
					t.Error(err)
				}
				listed <- members
			},
		}})
	first, second := hubtest.Dial(t, hub, "/"), hubtest.Dial(t, hub, "/")
	for left, c := range []*hubtest.Client{first, second} {
		c.Close()
		if members := <-listed; len(members) != 1-left {
			t.Errorf("%d has left, members are %+v", left+1, members)
		}
	}
}

func TestDisconnectsContextEndsAfterFiveSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		took := make(chan time.Duration, 1)
		hub := grouphub.New(&grouphub.Options{Consumer: grouphub.Consumer{
			Disconnect: func(ctx context.Context, _ *grouphub.Conn, _ int) {
				start := time.Now()
				<-ctx.Done()
				took <- time.Since(start)
				if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
					t.Error(ctx.Err())
				}
			},
		}})
		hubtest.Dial(t, hub, "/").Close()
		if d := <-took; d != 5*time.Second {
			t.Errorf("it ended after %v", d)
		}
		hub.Shutdown(background)
	})
}

// The end of a connection is noticed whatever nobody has read yet.
func TestContextEndsBehindUnreadMessages(t *testing.T) {
	for name, end := range map[string]struct {
		do     func(c *websocket.Conn)
		within time.Duration
	}{
		"a close frame": {func(c *websocket.Conn) {
			c.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(1000, ""), time.Time{})
		}, 3 * time.Second},
		"the end of the socket": {func(c *websocket.Conn) { c.Close() }, 3 * time.Second},
		"silence":               {func(*websocket.Conn) {}, time.Minute},
	} {
		for _, unread := range []int{2, 3, 50} {
			t.Run(fmt.Sprint(name, " behind ", unread), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					entered := make(chan struct{})
					var began time.Time
					hub := grouphub.New(&grouphub.Options{Consumer: grouphub.Consumer{
						Receive: func(c *grouphub.Conn, _ grouphub.Message) error {
							close(entered)
							<-c.Context().Done()
							if took := time.Since(began); took > end.within {
								t.Errorf("the context ended %v later", took)
							}
							return nil
						},
					}})
					c := dialPipe(t, hub, "/")
					for range 1 + unread {
						if err := c.WriteMessage(websocket.TextMessage, []byte("x")); err != nil {
							t.Fatal(err)
						}
					}
					<-entered
					began = time.Now()
					end.do(c)
					if name == "silence" {
						go io.Copy(io.Discard, c.NetConn()) // pings, without an answer
					}
					eventuallyNone(t, hub)
					c.Close()
					if err := hub.Shutdown(background); err != nil {
						t.Error(err)
					}
				})
			})
		}
	}
}

// eventuallyNone waits, in a bubble, until a hub has no connection.
func eventuallyNone(t *testing.T, hub *grouphub.Hub) {
	t.Helper()
	for start := time.Now(); hub.Stats().Conns > 0; time.Sleep(100 * time.Millisecond) {
		if time.Since(start) > time.Hour {
			t.Fatal("the connection lives on")
		}
	}
}

// A client that goes on answering pings is no silent one, however long a callback takes, and
// nothing that it sends meanwhile is lost.
func TestConnectionLivesBehindABlockedCallback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		proceed := make(chan struct{})
		hub := grouphub.New(&grouphub.Options{Consumer: grouphub.Consumer{
			Receive: func(c *grouphub.Conn, m grouphub.Message) error {
				<-proceed
				return c.Send(m.Data)
			},
		}})
		c := dialPipe(t, hub, "/")
		got := make(chan string, 1000)
		go func() {
			defer close(got)
			for {
				_, data, err := c.ReadMessage() // and answers pings
				if err != nil {
					return
				}
				got <- string(data)
			}
		}()
		go func() {
			for i := range 200 { // more than is read ahead
				c.WriteMessage(websocket.TextMessage, fmt.Appendf(nil, "%d%s", i, strings.Repeat("x", 1000)))
			}
		}()
		time.Sleep(50 * time.Second)
		close(proceed)
		for i := range 200 {
			if m := <-got; m != fmt.Sprintf("%d%s", i, strings.Repeat("x", 1000)) {
				t.Fatalf("message %d is %.10q", i, m)
			}
		}
		c.Close()
		if err := hub.Shutdown(background); err != nil {
			t.Error(err)
		}
	})
}
