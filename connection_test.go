package grouphub_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
)

func TestConnectIsPartOfTheRequest(t *testing.T) {
	type key struct{}
	var during atomic.Bool // the request is being served
	received := make(chan string, 1)
	hub := hubOf(t, grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error {
			if !during.Load() {
				t.Error("Connect runs after the handler has returned")
			}
			c.Set("seen", "in Connect")
			return nil
		},
		Receive: func(c *grouphub.Conn, m grouphub.Message) error {
			seen, _ := c.Get("seen")
			received <- fmt.Sprint(c.PathValue("room"), c.Request().URL.RawQuery, c.Request().Header.Get("X-Test"),
				c.Context().Value(key{}), c.Request().Context().Value(key{}), seen)
			return nil
		},
	})
	mux := http.NewServeMux()
	mux.Handle("GET /ws/{room}", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		during.Store(true)
		defer during.Store(false)
		hub.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), key{}, "value")))
	}))
	c := hubtest.Dial(t, mux, "/ws/x?a=b", hubtest.WithHeader(http.Header{"X-Test": {"header"}}))
	eventually(t, func() bool { return !during.Load() }, "the handler does not return")
	c.Send("after")
	if got, want := <-received, "xa=bheadervaluevaluein Connect"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestConnectIsNotCalledOnceTheConnectionIsClosed(t *testing.T) {
	unwanted := grouphub.Consumer{
		Connect:    func(*grouphub.Conn) error { t.Error("Connect was called"); return nil },
		Disconnect: func(context.Context, *grouphub.Conn, int) { t.Error("Disconnect was called") },
	}
	t.Run("by the end of the session", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			hub := grouphub.New(&grouphub.Options{Consumer: unwanted})
			c := hubtest.Dial(t, grouphub.Authenticate(func(*http.Request) (grouphub.User, error) {
				return grouphub.User{ID: "ann", Expires: time.Now().Add(time.Second)}, nil
			})(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				time.Sleep(time.Second) // another middleware
				hub.ServeHTTP(w, r)
			})), "/")
			c.ExpectClose(4401)
			hub.Shutdown(background)
		})
	})
	t.Run("by Shutdown", func(t *testing.T) {
		entered, proceed, down := make(chan struct{}), make(chan struct{}), make(chan error)
		unwanted.Accept = func(r *http.Request) error {
			if r.URL.Path != "/first" {
				return errors.New("not the first")
			}
			close(entered)
			<-proceed
			return nil
		}
		hub := grouphub.New(&grouphub.Options{Consumer: unwanted})
		go func() {
			<-entered
			go func() { down <- hub.Shutdown(background) }()
			untilRefusing(t, hub)
			close(proceed)
		}()
		hubtest.Dial(t, hub, "/first").ExpectClose(1001)
		if err := <-down; err != nil {
			t.Error(err)
		}
	})
}

func TestAConnectionWithoutItsUsersGroupIsClosed(t *testing.T) {
	for name, policy := range map[string]func() grouphub.GroupPolicy{
		"panic":  func() grouphub.GroupPolicy { panic("not a name that this policy knows") },
		"Goexit": func() grouphub.GroupPolicy { runtime.Goexit(); return grouphub.GroupPolicy{} },
	} {
		t.Run(name, func(t *testing.T) {
			hub := newHub(t, &grouphub.Options{
				Logger: slog.New(slog.DiscardHandler),
				Policy: func(string) grouphub.GroupPolicy { return policy() },
				Consumer: grouphub.Consumer{
					Connect:    func(*grouphub.Conn) error { t.Error("Connect was called"); return nil },
					Receive:    func(*grouphub.Conn, grouphub.Message) error { t.Error("Receive was called"); return nil },
					Disconnect: func(context.Context, *grouphub.Conn, int) { t.Error("Disconnect was called") },
				},
			})
			c := serve(t, authenticate(hub)).dial("/?user=ann")
			c.WriteMessage(websocket.TextMessage, []byte("x"))
			wantClose(t, c, 1011)
			c.Close()
			eventually(t, func() bool { return hub.Stats().Conns == 0 }, "the connection lives on")
		})
	}
}

func TestUserExpiresClosesWith4401(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub := grouphub.New(nil)
		start := time.Now()
		h := grouphub.Authenticate(func(*http.Request) (grouphub.User, error) {
			return grouphub.User{ID: "ann", Expires: start.Add(time.Hour)}, nil
		})(hub)
		c := hubtest.Dial(t, h, "/")
		c.ExpectNone(time.Hour - time.Second)
		c.ExpectClose(4401)
		if took := time.Since(start); took < time.Hour || took > time.Hour+time.Second {
			t.Errorf("after %v", took)
		}
		hub.Shutdown(background)
	})
}

func TestPingsKeepAConnectionAndSilenceEndsIt(t *testing.T) {
	for _, compression := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			codes := make(chan int, 1)
			hub := grouphub.New(&grouphub.Options{Compression: compression, Consumer: grouphub.Consumer{
				Disconnect: func(_ context.Context, _ *grouphub.Conn, code int) { codes <- code },
			}})
			alive := hubtest.Dial(t, hub, "/")
			alive.ExpectNone(10 * time.Minute) // hubtest's client answers pings
			hub.Shutdown(background)
			if code := <-codes; code != 1001 {
				t.Errorf("closed with %d", code)
			}
		})
	}
	silent := make(chan int, 1)
	hub := newHub(t, &grouphub.Options{PongTimeout: 50 * time.Millisecond, Consumer: grouphub.Consumer{
		Disconnect: func(_ context.Context, _ *grouphub.Conn, code int) { silent <- code },
	}})
	serve(t, hub).dial("/") // gorilla's client answers only while it is read
	if code := <-silent; code != 1006 {
		t.Errorf("disconnected with %d", code)
	}
}

// The kernel takes what TLS sends, and that is no sign of life of the peer.
func TestSilenceEndsAConnectionOverTLS(t *testing.T) {
	codes := make(chan int, 1)
	s := newServer(t, newHub(t, &grouphub.Options{PongTimeout: 50 * time.Millisecond, Consumer: grouphub.Consumer{
		Disconnect: func(_ context.Context, _ *grouphub.Conn, code int) { codes <- code },
	}}))
	s.StartTLS()
	// gorilla's client answers only while it is read
	s.dialWith(&websocket.Dialer{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}, "/")
	select {
	case code := <-codes:
		if code != 1006 {
			t.Errorf("disconnected with %d", code)
		}
	case <-time.After(10 * time.Second):
		t.Error("a client that says nothing is still there")
	}
}

// While a callback blocks, a third message keeps the reader from reading. A proxy on the way
// that hears nothing would give the connection up.
func TestPingsGoOnWhileACallbackBlocks(t *testing.T) {
	t.Parallel()
	blocked, release := make(chan struct{}, 3), make(chan struct{})
	conn := dialRaw(t, newHub(t, &grouphub.Options{PingInterval: 10 * time.Millisecond, PongTimeout: time.Hour, Consumer: grouphub.Consumer{
		Receive: func(*grouphub.Conn, grouphub.Message) error {
			blocked <- struct{}{}
			<-release
			return nil
		},
	}}))
	defer close(release)
	for range 3 {
		if _, err := conn.Write(masked(0x81, "message")); err != nil {
			t.Fatal(err)
		}
	}
	<-blocked
	ping := make([]byte, 2)
	for range 10 {
		if _, err := io.ReadFull(conn, ping); err != nil || ping[0] != 0x89 || ping[1] != 0 {
			t.Fatalf("got %x, %v, want a ping", ping, err)
		}
	}
}

// A client whose connection is open has joined what Connect joins, and gets what Connect sent.
// hubtest.Dial would wait for Connect in any case.
func TestOpenMeansJoined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		proceed := make(chan struct{})
		hub := grouphub.New(&grouphub.Options{PongTimeout: time.Minute, Consumer: grouphub.Consumer{
			Connect: func(c *grouphub.Conn) error {
				if err := c.Send([]byte("welcome")); err != nil {
					return err
				}
				<-proceed
				return c.Join("all")
			},
			Events: grouphub.Events{"note": grouphub.Forward()},
		}})
		opened := make(chan *websocket.Conn, 1)
		go func() { opened <- dialPipe(t, hub, "/") }()
		time.Sleep(time.Hour) // silence is no fault of a client that has no answer
		if len(opened) > 0 {
			t.Error("it is open before Connect has returned")
		}
		close(proceed)
		c := <-opened
		send(t, hub, "all", "note", 1)
		wantNext(t, c, "welcome")
		wantNext(t, c, `{"type":"note","group":"all","data":1}`)
		c.Close()
		if err := hub.Shutdown(background); err != nil {
			t.Error(err)
		}
	})
}

func TestConnectThatSendsMuchOpensItsConnectionBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		proceed := make(chan struct{})
		hub := grouphub.New(&grouphub.Options{MaxPending: 1000, Consumer: grouphub.Consumer{
			Connect: func(c *grouphub.Conn) error {
				for range 2 {
					if err := c.Send([]byte(strings.Repeat("x", 400))); err != nil {
						return err
					}
				}
				<-proceed
				return nil
			},
		}})
		c := dialPipe(t, hub, "/")
		for range 2 {
			wantNext(t, c, strings.Repeat("x", 400))
		}
		close(proceed)
		c.Close()
		if err := hub.Shutdown(background); err != nil {
			t.Error(err)
		}
	})
}

// Whatever ends it, a client has its answer and a close code.
func TestConnectThatFailsEndsInItsCloseCode(t *testing.T) {
	for want, connect := range map[int]func(c *grouphub.Conn) error{
		4000: func(*grouphub.Conn) error { return &grouphub.CloseError{Code: 4000} },
		4001: func(c *grouphub.Conn) error { return c.Close(4001, "not today") },
		1011: func(*grouphub.Conn) error { panic("on purpose") },
		1013: func(*grouphub.Conn) error { return grouphub.ErrUnavailable },
	} {
		hub := newHub(t, &grouphub.Options{Logger: quiet(), Consumer: grouphub.Consumer{Connect: func(c *grouphub.Conn) error {
			if err := c.Send([]byte("before")); err != nil {
				return err
			}
			return connect(c)
		}}})
		c := serve(t, hub).dial("/")
		wantNext(t, c, "before")
		wantClose(t, c, want)
		c.Close()
	}
}
