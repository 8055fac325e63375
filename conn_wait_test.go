package grouphub_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"github.com/seed-29c60982/grouphub"
)

func TestSendingThatWaitsReachesASlowClientWhole(t *testing.T) {
	for _, stream := range []bool{false, true} {
		t.Run(fmt.Sprint("stream ", stream), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const messages = 500
				sent := make(chan error, 1)
				hub := newHub(t, &grouphub.Options{MaxPending: 20_000, Logger: quiet(), PingInterval: time.Hour, PongTimeout: 2 * time.Hour,
					Consumer: grouphub.Consumer{
						Connect: func(c *grouphub.Conn) error { return c.Join("g") },
						Receive: func(c *grouphub.Conn, _ grouphub.Message) error { return nil },
						Events: grouphub.Events{"n": grouphub.Forward(), "go": grouphub.Handle(func(c *grouphub.Conn, e grouphub.Event) error {
							var err error
							for n := 1; n <= messages && err == nil; n++ {
								text := fmt.Sprintf(`{"type":"n","data":{"n":%d,"pad":"%s"}}`, n, strings.Repeat("x", 3000))
								err = c.SendWait(c.Context(), []byte(text))
							}
							sent <- err
							return err
						})},
					}})
				c := dialPaced(t, hub, stream, "")
				send(t, hub, "g", "go", nil)
				for range messages + 100 { // some for what a stream has besides
					c.allow <- struct{}{}
					time.Sleep(100 * time.Millisecond) // a slow client
				}
				if err := <-sent; err != nil {
					t.Error(err)
				}
				read, _ := c.cut()
				for i, e := range read {
					if e.number != i+1 {
						t.Fatalf("message %d is %+v", i+1, e)
					}
				}
				if s := hub.Stats(); len(read) != messages || s.SlowClosed != 0 || s.Dropped != 0 {
					t.Errorf("%d messages, %+v", len(read), s)
				}
			})
		})
	}
}

func TestSendingThatWaitsLeavesTheEventsOfGroupsTheirOwnLimit(t *testing.T) {
	conns := make(chan *grouphub.Conn, 1)
	consumer := latestConsumer
	consumer.Connect = func(c *grouphub.Conn) error { conns <- c; return c.Join("g") }
	inBubble(t, grouphub.Options{Consumer: consumer, MaxPending: 20_000}, func(t *testing.T, hub *grouphub.Hub, c *pacedClient) {
		conn := <-conns
		if err := conn.SendWait(background, make([]byte, 100_000)); err != nil { // larger than may wait, but nothing else does
			t.Fatal(err)
		}
		for n := 1; n <= 15; n++ {
			send(t, hub, "g", "n", number(n, 1000))
			synctest.Wait()
		}
		ctx, cancel := context.WithTimeout(background, time.Second)
		defer cancel()
		if err := conn.SendWait(ctx, make([]byte, 1000)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a message without room: %v", err)
		}
		if s := hub.Stats(); s.SlowClosed != 0 || s.Dropped != 0 {
			t.Errorf("%+v", s)
		}
		if got := c.readAll(); len(got) != 15 {
			t.Errorf("got %v", got)
		}
	})
}

func TestSendingThatWaitsEndsWithTheConnectionAndWithShutdown(t *testing.T) {
	for _, how := range []string{"close", "client", "shutdown"} {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				waited := make(chan error, 1)
				conns := make(chan *grouphub.Conn, 1)
				hub := newHub(t, &grouphub.Options{MaxPending: 10_000, Logger: quiet(), Consumer: grouphub.Consumer{
					Connect: func(c *grouphub.Conn) error { conns <- c; return c.Join("g") },
					Events: grouphub.Events{"go": grouphub.Handle(func(c *grouphub.Conn, e grouphub.Event) error {
						var err error
						for err == nil {
							err = c.SendWait(background, make([]byte, 3000))
						}
						waited <- err
						return nil
					})},
				}})
				client := dialPipe(t, hub, "/")
				conn := <-conns
				send(t, hub, "g", "go", nil)
				synctest.Wait()
				if len(waited) > 0 {
					t.Fatal("it has not waited")
				}
				began := time.Now()
				switch how {
				case "close":
					conn.Close(1000, "")
				case "client":
					client.NetConn().Close()
				case "shutdown":
					ctx, cancel := context.WithTimeout(background, time.Minute)
					defer cancel()
					if err := hub.Shutdown(ctx); err != nil {
						t.Error(err)
					}
				}
				if err := <-waited; !errors.Is(err, grouphub.ErrClosed) {
					t.Errorf("got %v", err)
				}
				if took := time.Since(began); took > 30*time.Second {
					t.Errorf("it took %v", took)
				}
				client.NetConn().Close()
				synctest.Wait()
				if err := conn.SendWait(background, nil); !errors.Is(err, grouphub.ErrClosed) {
					t.Errorf("after the end: %v", err)
				}
			})
		})
	}
}

// A Connect that sends more than may wait needs the client, which so must see its connection
// open.
func TestSendingThatWaitsInConnectLetsTheClientSeeItsConnectionOpen(t *testing.T) {
	hub := newHub(t, &grouphub.Options{MaxPending: 10_000, Consumer: grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error {
			for range 5000 {
				if err := c.SendWait(c.Context(), make([]byte, 3000)); err != nil {
					return err
				}
			}
			return c.Send([]byte("done"))
		},
	}})
	c := serve(t, http.Handler(hub)).dialEarly(websocket.DefaultDialer, "/")
	for range 5000 {
		if got := next(t, c); len(got) != 3000 {
			t.Fatalf("got %d bytes", len(got))
		}
	}
	wantNext(t, c, "done")
}

func TestSendingThatWaitsRefusesWhatIsNoText(t *testing.T) {
	hub, conns := connections(t, grouphub.Consumer{})
	serve(t, hub).dial("/")
	c := <-conns
	if err := c.SendWait(background, []byte{0xff}); err == nil || errors.Is(err, grouphub.ErrClosed) {
		t.Errorf("got %v", err)
	}
	if err := c.SendWait(canceled(), []byte("x")); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
